/*
 * algorithm_walk.c -- policy gradient on the steps of a stochastic solver, for
 * tests/commands/test_extended.py: FlowGRPO (arXiv 2505.05470) without clip and pull.
 *
 *   D = law_v (v - v_old),  log-ratio = mean(z D) / std - mean(D^2) / (2 std^2),  loss = -A exp(log-ratio)
 *
 * It is trained at the last step, which ends at x0: `miss`, the mean square of what x0 differs from the
 * step's law by, is rounding where v is the sampling policy's; `dt` is that step's.
 */
#include "algorithms/algorithm.h"

struct walk_conf {
	int64_t steps, astray;
};

static const struct field fields[] = { FIELD(struct walk_conf, steps, .init = "1", .min = 0, .max = 100,
					     .doc = "the last so many steps take noise"),
				       FIELD(struct walk_conf, astray, .init = "0", .min = 0, .max = 2,
					     .doc = "1: a pair more than may be; 2: one at no level"),
				       FIELD_END };
static const char *const notes[] = { "ratio", "miss", "dt", NULL };

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	(void)conf;
	(void)a;
	return (struct demands) { .needs = NEEDS_OLD | NEEDS_LAW, .times = 1, .over = 1 };
}

static void window(const void *conf, uint64_t seed, uint64_t epoch, int steps, int *from, int *to)
{
	(void)seed;
	(void)epoch;
	*from = steps - (int)((const struct walk_conf *)conf)->steps;
	*to = steps;
}

static int pairs(const void *conf, const struct round *r, int64_t sample, struct pair *out)
{
	int last = r->schedule->steps - 1;
	int64_t astray = ((const struct walk_conf *)conf)->astray;

	for (int k = 0; k < r->levels; k++) /* the first has no law and is left out */
		out[k] =
		    (struct pair) { .sample = sample, .level = k ? last - (k - 1) : 0, .weight = k == 1 };
	if (astray == 2)
		out[0].level = r->schedule->steps;
	return r->levels + (astray == 1);
}

static at_t column(const struct terms *m, int i)
{
	return at_view(at_select(m->law_B4, 1, i), DIMS(-1, 1, 1, 1));
}

static at_t mean(at_t x_BCHW)
{
	return at_cast(at_mean_dim(at_flatten(x_BCHW, 1, -1), 1, false), AT_F64);
}

static struct losses loss(const void *conf, const struct terms *m)
{
	at_t v = column(m, 1), std = column(m, 2), d = at_mul(v, at_sub(m->v_BCHW, m->v_old_BCHW));
	at_t per_std = at_div(d, std),
	     ratio = at_exp(at_sub(mean(at_mul(m->z_BCHW, per_std)), at_mul(mean(at_square(per_std)), 0.5)));
	at_t to =
	    at_add(at_add(at_mul(column(m, 0), m->xt_BCHW), at_mul(v, m->v_BCHW)), at_mul(std, m->z_BCHW));

	(void)conf;
	return (struct losses) { .policy_B = at_mul(at_mul(ratio, at_cast(m->advantage_B, AT_F64)), -1),
				 .note_B = { ratio, terms_distance(at_detach(to), m->x0_BCHW),
					     at_cast(at_select(m->law_B4, 1, 3), AT_F64) } };
}

const struct algorithm_type algorithm_walk = { .name = "walk",
					       .doc = "policy gradient on noisy steps, for tests",
					       .fields = fields,
					       .conf_size = sizeof(struct walk_conf),
					       .notes = notes,
					       .demands = demands,
					       .window = window,
					       .pairs = pairs,
					       .loss = loss };
