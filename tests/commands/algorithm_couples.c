/*
 * algorithm_couples.c -- what rwr leaves untried of algorithm.h, for tests/commands/test_extended.py: DPO
 * (arXiv 2311.12908) on the best and the worst image of a group.
 *
 *   margin = -beta / 2 ((d - d_ref) of the best - the same of the worst),   loss = -log sigmoid(margin)
 *
 * `group` makes the margin; the loss's gradient is that of weight * beta / 2 sigmoid(-margin) d, weight 1 for
 * the best and -1 for the worst.  The worst has the best one's noise.
 */
#include "algorithms/algorithm.h"
#include <math.h>
#include <string.h>

struct couples_conf {
	double beta;
};

static const struct field fields[] = {
	FIELD(struct couples_conf, beta, .init = "100", .min = 1e-3, .max = 1e5, .doc = "strength"), FIELD_END
};
static const char *const notes[] = { "margin", NULL };

static int check(const void *conf, const struct setting *s, struct err *e)
{
	(void)conf;
	if (strcmp(s->advantage->mode, "all"))
		return err_set(e, "advantage.mode = '%s': the best and the worst are wanted",
			       s->advantage->mode);
	return 0;
}

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	(void)conf;
	(void)a;
	return (struct demands) { .needs = NEEDS_REFERENCE, .times = 1, .over = 1 };
}

static int pairs(const void *conf, const struct round *r, int64_t sample, struct pair *out)
{
	int64_t best = sample, worst = sample;

	(void)conf;
	for (int64_t i = 0; i < r->n; i++) {
		if (r->group[i] != r->group[sample] || isnan(r->advantage[i]))
			continue;
		best = r->advantage[i] > r->advantage[best] ||
			       (r->advantage[i] >= r->advantage[best] && i < best)
			   ? i
			   : best;
		worst = r->advantage[i] < r->advantage[worst] ||
				(r->advantage[i] <= r->advantage[worst] && i < worst)
			    ? i
			    : worst;
	}
	if (best == worst || (sample != best && sample != worst))
		return 0;
	for (int k = 0; k < r->levels; k++)
		out[k] = (struct pair) {
			.sample = sample, .level = k, .noise = best, .weight = sample == best ? 1 : -1
		};
	return r->levels;
}

static at_t distance(const struct terms *m, at_t v)
{
	return terms_distance(v, at_sub(m->eps_BCHW, m->x0_BCHW));
}

static at_t group(const void *conf, const struct terms *m)
{
	double beta = ((const struct couples_conf *)conf)->beta;
	at_t further_B = terms_further(m, m->v_BCHW, m->v_ref_BCHW);

	return at_mul(at_mul(further_B, at_cast(m->weight_B, AT_F64)), -beta / 2);
}

static struct losses loss(const void *conf, const struct terms *m)
{
	double beta = ((const struct couples_conf *)conf)->beta;
	at_t pull_B = at_mul(at_sigmoid(at_neg(m->group_B)), beta / 2);

	return (struct losses) { .policy_B = at_mul(pull_B, distance(m, m->v_BCHW)),
				 .note_B = { m->group_B } };
}

const struct algorithm_type algorithm_couples = { .name = "couples",
						  .doc = "DPO on a group's best and worst image, for tests",
						  .fields = fields,
						  .conf_size = sizeof(struct couples_conf),
						  .notes = notes,
						  .check = check,
						  .demands = demands,
						  .pairs = pairs,
						  .group = group,
						  .loss = loss };
