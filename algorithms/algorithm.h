/*
 * algorithm.h -- what an algorithm of online RL is: what it learns from, and a loss.
 *
 * A round is the trainer's: prompts, images by the old policy, scores and advantages (trainer/rollout.c); the
 * forwards, the sum of gradients over all pairs, clipping, AdamW, EMA (trainer/update.c); and what becomes of
 * the old policy (policies.h).  An algorithm is a file of this folder and a line in algorithm.c.  It says
 *   - demands: what it needs beside theta's velocity v, and what its loss and the pull to the base weigh,
 *   - pairs:   at which noise levels a sample is trained, with which noise and weight,
 *   - group:   where the loss needs a sum over a prompt's images, what is summed,
 *   - loss:    a function of tensors, so that a GPU may replay it (gradient.h).
 * It sees no trainer, no rank and no micro-batch: the step's loss is
 *   mean of weight_B policy_B times / over  +  kl * mean of kl_weight_B mean((v - v_ref)^2),
 * the means over the pairs of all ranks.
 *
 * How others than DiffusionNFT (nft.h) fit:
 *   - AWM (arXiv 2509.25050): NEEDS_OLD; pairs picks a level a stratum; loss has the ratio to its own
 *     detached value and the distance from v_old in policy_B; kl is its pull to the base.
 *   - DPO on pairs (arXiv 2311.12908): NEEDS_REFERENCE; pairs gives the best and the worst of a group, both
 *     with the noise of one; group sums -+ beta / 2 (d - d_ref) of both; loss has
 *     d sigmoid(-group_B) with its sign: the gradient of -log sigmoid(group_B).
 *   - DGPO (arXiv 2510.08425): the same with all of a group, and A_i beta / G in place of the sign.
 *   - FlowGRPO (arXiv 2505.05470): NEEDS_LAW and NEEDS_OLD; pairs gives steps that took noise, weight 0 where
 *     nothing is to be learned; loss has the log-ratio mean(z D) / std - mean(D^2) / (2 std^2) of
 *     D = law's v (v - v_old), and in kl_weight_B what the step's law makes of (v - v_ref)^2:
 *     (law's v / std)^2 / 2 exactly, that times |dt| as published.
 *
 * Shapes: B pairs, C channels, H height, W width of the latents.
 */
#ifndef ALGORITHM_H
#define ALGORITHM_H
#include "algorithms/advantage.h"
#include "aten/at.h"
#include "sampler/sample.h"

#define ALGORITHM_DEFAULT "nft"
#define ALGORITHM_NOTES   8

/* What the trainer computes for an algorithm beside v. */
enum {
	NEEDS_OLD = 1,       /* v_old, of the policy that sampled */
	NEEDS_REFERENCE = 2, /* v_ref of every pair; the pull to the base (kl) alone does not need this */
	NEEDS_LAW =
	    4, /* pairs are noisy steps of the rollout: x_t is where it was, z and law how it went on */
	NEEDS_NEXT = 8, /* with NEEDS_LAW: where the step led, as the rollout computed it */
};
struct demands {
	unsigned needs;
	double times, over; /* policy_B counts so much; `over` is not 0 */
	/* The pull to the base: a weight, 0 for none, which costs no forward.  v_ref is computed for a random
	 * one in kl_every pairs (0: 1), which then weigh as much more; for all where NEEDS_REFERENCE. */
	double kl;
	int64_t kl_every;
};

/* The run as far as an algorithm may object to it; borrowed. */
struct setting {
	const struct sampler_conf *rollout;
	const struct advantage_conf *advantage;
	const char *dtype;
	int64_t group_size, steps_per_epoch;
};

/* All images of a round, the same on every rank; borrowed. */
struct round {
	const struct schedule *schedule; /* of the rollout */
	int levels;                      /* train.timestep_fraction of its steps: algorithm_levels */
	uint64_t seed, epoch;
	int64_t n;
	const int64_t *group;         /* n: which prompt's; a group's samples have consecutive indices */
	const double *advantage, *r;  /* n, as advantage_compute made them; NAN without a score */
	const struct transition *law; /* NEEDS_LAW: of every step; std 0 where it took no noise.  Else NULL */
};
/* One thing to learn from. */
struct pair {
	int64_t sample; /* index in the round */
	int level;      /* of the schedule: t = sigma[level]; NEEDS_LAW: left out where law[level].std is 0 */
	int64_t noise; /* the sample whose noise of that level makes x_t: its own, or one for a whole group */
	double weight; /* of its policy loss; 0: nothing of it is computed, but the means count it */
	double sigma; /* 0, or t itself, which need not be in the schedule; `level` then only names the pair's
		       * noise and its group's sum.  Not with NEEDS_LAW. */
};

/* A micro-batch.  float32 unless it says otherwise; v alone has a gradient. */
struct terms {
	at_t x0_BCHW, eps_BCHW, xt_BCHW, t_B; /* x_t = (1 - t) x0 + t eps; NEEDS_LAW: no eps */
	at_t advantage_B;                     /* clipped, after the mode: (2 r - 1) advantage.clip */
	at_t r_B;                             /* the same as a probability, in [0, 1] */
	at_t weight_B;                        /* the pairs' own, which the trainer applies */
	at_t v_BCHW;
	at_t v_old_BCHW; /* NEEDS_OLD, else NULL; v's own values while the old policy is theta */
	at_t v_ref_BCHW; /* NEEDS_REFERENCE, else NULL */
	/* NEEDS_LAW, else NULL: the step went to x * x_t + v * v_old + std * z, and law_B4 are x, v, std and
	 * dt (struct transition). */
	at_t z_BCHW, law_B4;
	at_t next_BCHW; /* NEEDS_NEXT, else NULL */
	at_t group_B;   /* float64: what `group` gave, summed over the prompt's pairs of this level */
};
/* Of each pair, float64. */
struct losses {
	at_t policy_B;
	at_t kl_weight_B; /* of mean((v - v_ref)^2); NULL: 1 */
	at_t note_B[ALGORITHM_NOTES];
};

struct algorithm_type {
	const char *name, *doc; /* the name is that of its section, too */
	const struct field *fields;
	size_t conf_size;
	/* Names of the numbers that loss notes of every pair, at most ALGORITHM_NOTES; NULL: none.  Their
	 * means are logged as loss/NAME, unless `metrics` has other names (as many at most): `summary` then
	 * makes those of the notes' sums over n pairs. */
	const char *const *notes, *const *metrics;
	void (*summary)(const double *sum, double n, double *metric);
	int (*check)(const void *conf, const struct setting *s, struct err *e); /* NULL: any run will do */
	/* NULL, or: are these steps such as it can learn from?  Of *r are there the schedule, the levels and,
	 * with NEEDS_LAW, the laws that the steps have when they take noise. */
	int (*check_steps)(const void *conf, const struct round *r, struct err *e);
	struct demands (*demands)(const void *conf, const struct advantage_conf *a);
	/* NEEDS_LAW: the steps from <= i < to of a round take noise, the others none; NULL: all do. */
	void (*window)(const void *conf, uint64_t seed, uint64_t epoch, int steps, int *from, int *to);
	/* The pairs of a sample that has a score, at most r->levels of them, a function of its arguments:
	 * every rank asks for all.  NULL: pairs_at_random. */
	int (*pairs)(const void *conf, const struct round *r, int64_t sample, struct pair *out);
	/* NULL, or a first pass without gradients: a float64 number of each pair, whose sum over all pairs of
	 * its prompt at its level is group_B in `loss`.  A step then has whole groups; group_B is NULL here.
	 */
	at_t (*group)(const void *conf, const struct terms *m);
	/* Of tensors alone, nothing brought to the CPU: see at_graph. */
	struct losses (*loss)(const void *conf, const struct terms *m);
};
extern const struct algorithm_type *const algorithms[];        /* NULL-terminated */
extern const char *const algorithm_names[];                    /* likewise, for a field's choices */
const struct algorithm_type *algorithm_find(const char *name); /* NULL: there is none */
/* What is logged: type->metrics, or its notes; NULL-terminated. */
const char *const *algorithm_metrics(const struct algorithm_type *type);

/* ---- What several have in common (terms.c) --------------------------------------------------------- */

/* int(steps * fraction), 1 at least: how many of a schedule's levels a sample is trained at. */
int algorithm_levels(const struct schedule *s, double fraction);
/* r->levels of the schedule's levels at random, in an order of the sample's own, each with weight 1. */
int pairs_at_random(const struct round *r, int64_t sample, struct pair *out);
/* (1 - t) x0 + t eps. */
at_t terms_noised(at_t x0_BCHW, at_t eps_BCHW, at_t t_B);
/* mean((x - y)^2) over all but the batch: float64 (B). */
at_t terms_distance(at_t x_BCHW, at_t y_BCHW);
/* The flow-matching error of a velocity, mean((v - (eps - x0))^2): float64 (B). */
at_t terms_error(const struct terms *m, at_t v_BCHW);
/* terms_error(m, v) - terms_error(m, w), without the loss of digits where the two are close. */
at_t terms_further(const struct terms *m, at_t v_BCHW, at_t w_BCHW);
/* 1 where x > 0, else 0: float64, without gradient. */
at_t terms_above_zero(at_t x);

#endif
