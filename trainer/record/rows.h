/*
 * rows.h -- what the lines of metrics.jsonl hold: one of every epoch that made a step, with that step's
 * number, and one of every evaluation, with the number of the step that it comes after (0: before training).
 * Rank 0.
 */
#ifndef ROWS_H
#define ROWS_H
#include "trainer/live/pace.h"
#include "trainer/trainer.h"

/* Seconds of an epoch by phase. */
struct round_times {
	double rollout, reward_wait, update, reduce;
	double own_update; /* of this rank, waiting for nobody */
	struct pace pace;
	/* Forwards of the rollout, by all ranks.  They are the epoch's, however often an early end made it
	 * sample again: the run's sum gets them when the epoch is over. */
	double sampled;
};

/* Into the row that is being collected. */
void rows_step(struct trainer *t, const struct samples *s, const struct update_stats *u, double eta,
	       const struct round_times *time);
void rows_eval(struct trainer *t, const struct eval_result *r);

#endif
