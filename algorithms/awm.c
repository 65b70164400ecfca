/*
 * awm.c -- advantage-weighted matching (arXiv 2509.25050): a policy gradient on the forward process.
 *
 * With u = eps - x0 and d = mean((v - u)^2), the image's log-likelihood at level t is taken to be
 *   lp = -t ((d + e)^p - e^p) / p,   e = 1e-10;   p = 0: lp = -d
 *   loss = -A / clip exp(lp - lp') + old_beta mean((v - v_old)^2) + kl_beta mean((v - v_ref)^2)
 * where lp' is lp itself, detached: the published runs make one step an epoch, so the ratio is 1 and its clip
 * of 1 never acts.  A / clip is in [-1, 1] (advantage.clip).  old is the slow copy of theta that
 * policy.old_schedule makes; here it also samples.
 *
 * Levels: one of each of train.timestep_fraction's strata of the steps first .. last - 1.
 *
 * Shapes: B pairs.
 */
#include "algorithms/algorithm.h"
#include <math.h>

struct awm_conf {
	double power, old_beta, kl_beta;
	int64_t kl_every, first, last;
};

static const struct field fields[] = {
	FIELD(struct awm_conf, power, .init = "0.25", .min = 0, .max = 1,
	      .doc = "power of the matching error in the log-likelihood, which tames large errors; 0: the "
		     "error itself, without the noise level as a factor"),
	FIELD(struct awm_conf, old_beta, .init = "1", .min = 0, .max = 1000,
	      .doc = "weight of the pull towards the old policy"),
	FIELD(struct awm_conf, kl_beta, .init = "1e-3", .min = 0, .max = 1000,
	      .doc =
		  "weight of the pull towards the frozen base model; 0: no reference velocity is computed"),
	FIELD(struct awm_conf, kl_every, .init = "1", .min = 1, .max = 1000,
	      .doc = "compute it for a random one in this many pairs, with as much more weight"),
	FIELD(struct awm_conf, first, .init = "0", .min = 0, .max = 1000,
	      .doc = "first of the rollout's noise levels that is trained"),
	FIELD(struct awm_conf, last, .init = "0", .min = 0, .max = 1000,
	      .doc = "the level to stop before; 0: all the rest"),
	FIELD_END
};

enum { ERROR, OLD };
static const char *const notes[] = { "error", "old", NULL };

static int end_of(const struct awm_conf *c, int steps)
{
	return c->last && c->last < steps ? (int)c->last : steps;
}

static int check(const void *conf, const struct setting *s, struct err *e)
{
	const struct awm_conf *c = conf;
	int end = end_of(c, (int)s->rollout->steps);

	if (c->first >= end)
		return err_set(e,
			       "awm.first = %lld, awm.last = %lld: no level of rollout.steps = %lld is left",
			       (long long)c->first, (long long)c->last, (long long)s->rollout->steps);
	return 0;
}

static int pairs(const void *conf, const struct round *r, int64_t sample, struct pair *out)
{
	const struct awm_conf *c = conf;
	int first = (int)c->first, all = end_of(c, r->schedule->steps) - first,
	    n = r->levels < all ? r->levels : all;
	struct rng g = rng_make(r->seed, RNG_TIMESTEP, r->epoch, (uint64_t)sample);

	for (int k = 0; k < n; k++) {
		int from = k * all / n, to = (k + 1) * all / n;
		out[k] = (struct pair) { .sample = sample,
					 .level = first + from + (int)rng_below(&g, (uint32_t)(to - from)),
					 .noise = sample,
					 .weight = 1 };
	}
	return n;
}

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	const struct awm_conf *c = conf;

	(void)a;
	return (struct demands) {
		.needs = NEEDS_OLD, .times = 1, .over = 1, .kl = c->kl_beta, .kl_every = c->kl_every
	};
}

static at_t log_likelihood(const struct awm_conf *c, const struct terms *m, at_t d_B)
{
	const double least = 1e-10;

	if (c->power == 0)
		return at_neg(d_B);
	at_t grown_B = at_sub(at_pow(at_add(d_B, least), c->power), pow(least, c->power));
	return at_mul(at_div(grown_B, -c->power), at_cast(m->t_B, AT_F64));
}

static struct losses loss(const void *conf, const struct terms *m)
{
	const struct awm_conf *c = conf;
	at_t d_B = terms_error(m, m->v_BCHW);
	at_t lp_B = log_likelihood(c, m, d_B), ratio_B = at_exp(at_sub(lp_B, at_detach(lp_B)));
	at_t old_B = terms_distance(m->v_BCHW, m->v_old_BCHW);
	at_t share_B = at_add(at_mul(at_cast(m->r_B, AT_F64), 2), -1); /* A / clip */

	return (struct losses) { .policy_B =
				     at_add_scaled(at_neg(at_mul(ratio_B, share_B)), old_B, c->old_beta),
				 .note_B = { [ERROR] = d_B, [OLD] = old_B } };
}

const struct algorithm_type algorithm_awm = { .name = "awm",
					      .doc = "advantage-weighted matching",
					      .fields = fields,
					      .conf_size = sizeof(struct awm_conf),
					      .notes = notes,
					      .check = check,
					      .demands = demands,
					      .pairs = pairs,
					      .loss = loss };
