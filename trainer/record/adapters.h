/*
 * adapters.h -- what a user means by an adapter: a folder or file of one, a checkpoint, or a run.
 */
#ifndef ADAPTERS_H
#define ADAPTERS_H
#include "base/err.h"
#include <stdint.h>

/* The adapter itself: `path`, CHECKPOINT/lora, or that of a run's newest checkpoint.  NULL on error; free().
 */
char *adapters_find(const char *path, struct err *e);
/* Of what the adapter at `path`, as adapters_find gives it, does: its weights, ranks and alphas. */
int adapters_hash(uint64_t *hash, const char *path, struct err *e);
/* The configuration of the run that `path` is, or is in, or NULL; free().  Into *stage, unless NULL: the
 * stage of its checkpoint, -1 if that does not say. */
char *adapters_run(const char *path, int64_t *stage);
/* The model directory of the run that `path` is, or is in; NULL when it is in none, or its configuration
 * cannot be read: e says which; free(). */
char *adapters_model(const char *path, struct err *e);

#endif
