/*
 * epoch.h -- what an epoch does to the run's counters: loop.c calls it between the parts of the algorithm,
 * and so does the library, whose epochs are made one at a time.
 */
#ifndef EPOCH_H
#define EPOCH_H
#include "trainer/record/rows.h"
#include "trainer/trainer.h"

/* One step on the part that comes next.  -1: somebody was asked to stop, and nothing has changed. */
int epoch_part(struct trainer *t, const struct samples *s, struct update_stats *u, struct round_times *time);
/* All parts are through, and the old policy has followed. */
void epoch_over(struct trainer *t, const struct samples *s);
/* What it took since `start` (clock_now) and `cpu` (clock_cpu), whether or not its steps stand; collective.
 */
void epoch_count(struct trainer *t, double start, double cpu, const struct round_times *time);

#endif
