/*
 * batches.h -- the sizes that `auto` stands for, found before a stage begins by running its work.
 *
 * Which samples are computed together changes a sum's rounding and nothing else; a run that is to be the same
 * bit by bit needs the same sizes again.  So they are found once in a stage, kept in its checkpoints, and a
 * run that goes on takes them from there.
 */
#ifndef BATCHES_H
#define BATCHES_H
#include "base/err.h"
#include <stdint.h>

struct trainer;
struct batches {
	int64_t rollout, eval, micro; /* 0 in all of them: not resolved yet */
	int64_t blocks;               /* train.gradient_checkpointing */
	double bytes;                 /* the most that was taken while they were tried; 0: none was */
};
/* Collective.  t->batches gets the stage's sizes: the configuration's, and where that says `auto` those that
 * t->batches has or that are found now, the same on all ranks, the smallest of what each rank has room for.
 * An error when not even single images fit into run.memory. */
int batches_resolve(struct trainer *t, struct err *e);

#endif
