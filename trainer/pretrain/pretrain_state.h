/*
 * pretrain_state.h -- what a pretraining that was ended early goes on with: OUT.stopped, a file beside the
 * model directory that it would have made.  Rank 0 reads and writes it.
 */
#ifndef PRETRAIN_STATE_H
#define PRETRAIN_STATE_H
#include "base/conf/conf.h"
#include "dist/dist.h"

struct pretrain_state {
	const at_t *vector; /* N_VECTORS of equal size */
	double step, loss;  /* steps taken, and their smoothed loss */
};
enum { PRETRAIN_FLAT, PRETRAIN_EMA, PRETRAIN_M, PRETRAIN_V, PRETRAIN_VECTORS };

/* Collective.  `tree` is the configuration, which must be the same when it goes on. */
int pretrain_state_keep(const struct pretrain_state *s, const char *path, const struct conf_node *tree,
			struct dist *d, struct err *e);
/* Collective.  Into the vectors and counters; *found is false, and nothing changes, where there is no file.
 */
int pretrain_state_take(struct pretrain_state *s, bool *found, const char *path, const struct conf_node *tree,
			struct dist *d, struct err *e);

#endif
