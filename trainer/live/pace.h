/*
 * pace.h -- who takes how long in an epoch: each rank in each phase, each reward a call.
 */
#ifndef PACE_H
#define PACE_H
#include "dist/dist.h"
#include "rewards/mixture/mixture.h"
#include "trainer/record/metrics.h"

/* Of a rank: it samples, it waits for its scores, it makes forwards and backwards of the update. */
enum pace_phase { PACE_SAMPLING, PACE_REWARD_WAIT, PACE_UPDATE, PACE_PHASES };

struct pace {
	int ranks;
	double max[PACE_PHASES], mean[PACE_PHASES]; /* s, over the ranks */
	int slowest;                                /* the rank that took longest for all phases together */
	double waiting; /* share of all ranks' time in which they wait for the slowest of a phase; 0 to 1 */
	int rewards;
	struct pace_reward {
		double calls, seconds, given_up, restarts; /* of all ranks */
		double longest, unavailable;
	} * reward;
};
/* Each collective; `own`: this rank's seconds by phase. */
void pace_ranks(struct pace *p, struct dist *d, const double own[PACE_PHASES]);
void pace_rewards(struct pace *p, struct dist *d, struct mixture *m, const struct mixture_scores *s);
void pace_release(struct pace *p);
/* The same from everybody's seconds, a row of PACE_PHASES each. */
void pace_of(struct pace *p, const double *all, int ranks);
/* ranks/... of several ranks, and scoring/... of the rewards that were called. */
void pace_add(const struct pace *p, struct metrics *to, const struct mixture *m);

#endif
