/*
 * checkpoint.h -- all the state of a run: what the writing half (checkpoint.c) and the reading half
 * (checkpoint_read.c) have in common.  The rest of the program calls what trainer.h declares.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H
#include "trainer/trainer.h"

#define CHECKPOINT_FORMAT 1

/* A checkpoint must agree with the run in this: the adapter's modules, ranks and alphas. */
uint64_t checkpoint_shape(const struct lora *l);
/* From now on an end of the process is told with the step that a resume goes on from. */
void checkpoint_advise(const struct trainer *t);

#endif
