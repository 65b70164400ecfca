/*
 * algorithm_falls.c -- flow matching on the run's own images, whose loss is not finite in some epochs, for
 * tests/commands/test_extended.py: what a run does when it diverges.
 */
#include "algorithms/algorithm.h"
#include <math.h>

struct falls_conf {
	int64_t first, count;
};

static const struct field fields[] = { FIELD(struct falls_conf, first, .init = "0", .min = 0, .max = 1e9,
					     .doc = "first epoch without a loss"),
				       FIELD(struct falls_conf, count, .init = "0", .min = 0, .max = 1e9,
					     .doc = "how many such epochs"),
				       FIELD_END };

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	(void)conf;
	(void)a;
	return (struct demands) { .times = 1, .over = 1, .kl_every = 1 };
}

static int pairs(const void *conf, const struct round *r, int64_t sample, struct pair *out)
{
	const struct falls_conf *c = conf;
	int64_t epoch = (int64_t)r->epoch;
	int n = pairs_at_random(r, sample, out);

	for (int k = 0; k < n && epoch >= c->first && epoch < c->first + c->count; k++)
		out[k].weight = NAN;
	return n;
}

static struct losses loss(const void *conf, const struct terms *m)
{
	at_t error = terms_distance(m->v_BCHW, at_sub(m->eps_BCHW, m->x0_BCHW));

	(void)conf;
	return (struct losses) { .policy_B = error };
}

const struct algorithm_type algorithm_falls = { .name = "falls",
						.doc = "diverges in some epochs, for tests",
						.fields = fields,
						.conf_size = sizeof(struct falls_conf),
						.demands = demands,
						.pairs = pairs,
						.loss = loss };
