/*
 * dpo.c -- online direct preference optimization for diffusion models (arXiv 2311.12908) on the best and the
 * worst image of a prompt.
 *
 * Both have one noise eps and one level t.  With u = eps - x0 and d = mean((v - u)^2), d_ref the same of the
 * reference's velocity,
 *   margin = -beta / 2 ((d - d_ref) of the best - (d - d_ref) of the worst),   loss = -log sigmoid(margin),
 * the mean over couples and levels.  `group` makes the margin; the loss then has the gradient of
 * sign beta / 2 sigmoid(-margin) d, sign 1 for the best and -1 for the worst, which is the pair's weight.  A
 * prompt whose images score alike has no couple.
 *
 * The reference is the base, or the old policy: then policy.old_schedule on_policy with policy.old_every says
 * how often it becomes theta.  The published runs sample with theta all the while; here the old policy
 * samples.
 *
 * Shapes: B pairs.
 */
#include "algorithms/algorithm.h"
#include <math.h>
#include <string.h>

struct dpo_conf {
	double beta, kl_beta;
	char *reference, *levels;
};

static const char *const references[] = { "base", "old", NULL };
static const char *const level_kinds[] = { "logit_normal", "schedule", NULL };
static const struct field fields[] = {
	FIELD(struct dpo_conf, beta, .init = "100", .min = 1e-3, .max = 1e6,
	      .doc = "how much a difference of matching errors counts"),
	FIELD(struct dpo_conf, reference, .init = "base", .choices = references,
	      .doc = "whose errors theta's are compared with: the frozen base model's, or the old policy's "
		     "(policy.old_schedule, policy.old_every)"),
	FIELD(struct dpo_conf, levels, .init = "logit_normal", .choices = level_kinds,
	      .doc = "noise levels, as many as train.timestep_fraction says: the sigmoid of a normal number, "
		     "shifted as the schedule is; or levels of the rollout's schedule at random"),
	FIELD(struct dpo_conf, kl_beta, .init = "0", .min = 0, .max = 1000,
	      .doc = "weight of a pull towards the frozen base model beside the loss; 0: none"),
	FIELD_END
};

enum { MARGIN, LOSS, RIGHT };
static const char *const notes[] = { "margin", "dpo", "right", NULL };

static bool by_base(const struct dpo_conf *c)
{
	return !strcmp(c->reference, "base");
}

static int check(const void *conf, const struct setting *s, struct err *e)
{
	(void)conf;
	if (strcmp(s->advantage->mode, "all"))
		return err_set(
		    e, "advantage.mode = '%s': the best and the worst image are wanted: set it to all",
		    s->advantage->mode);
	return 0;
}

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	const struct dpo_conf *c = conf;

	(void)a;
	/* The mean is over pairs, and a couple is two. */
	return (struct demands) {
		.needs = by_base(c) ? NEEDS_REFERENCE : NEEDS_OLD, .times = 2, .over = 1, .kl = c->kl_beta
	};
}

/* The best and the worst of sample's prompt, the first of equals. */
static void find_couple(const struct round *r, int64_t sample, int64_t *best, int64_t *worst)
{
	int64_t from = sample;

	*best = *worst = sample;
	while (from > 0 && r->group[from - 1] == r->group[sample])
		from--;
	for (int64_t i = from; i < r->n && r->group[i] == r->group[sample]; i++) {
		double a = r->advantage[i];

		if (isnan(a))
			continue;
		if (a > r->advantage[*best] || (a >= r->advantage[*best] && i < *best))
			*best = i;
		if (a < r->advantage[*worst] || (a <= r->advantage[*worst] && i < *worst))
			*worst = i;
	}
}

static int pairs(const void *conf, const struct round *r, int64_t sample, struct pair *out)
{
	const struct dpo_conf *c = conf;
	int64_t best, worst;

	find_couple(r, sample, &best, &worst);
	if (!(r->advantage[best] > r->advantage[worst]) || (sample != best && sample != worst))
		return 0;
	int n = pairs_at_random(r, best, out); /* both of a couple draw as the best one does */
	struct rng g = rng_make_step(r->seed, RNG_TIMESTEP, r->epoch, (uint64_t)best, 1);
	for (int k = 0; k < n; k++) {
		out[k].sample = sample;
		out[k].weight = sample == best ? 1 : -1;
		if (!strcmp(c->levels, "logit_normal"))
			out[k].sigma = schedule_shifted(r->schedule, 1 / (1 + exp(-rng_normal(&g))));
	}
	return n;
}

static at_t group(const void *conf, const struct terms *m)
{
	const struct dpo_conf *c = conf;
	at_t ref_BCHW = by_base(c) ? m->v_ref_BCHW : m->v_old_BCHW;
	at_t further_B = terms_further(m, m->v_BCHW, ref_BCHW);

	return at_mul(at_mul(further_B, at_cast(m->weight_B, AT_F64)), -c->beta / 2);
}

/* -log sigmoid(x) = log(1 + e^-x), of any x. */
static at_t minus_log_sigmoid(at_t x)
{
	at_t tail = at_log(at_add(at_exp(at_neg(at_abs(x))), 1));

	return at_add(tail, at_relu(at_neg(x)));
}

static struct losses loss(const void *conf, const struct terms *m)
{
	const struct dpo_conf *c = conf;
	at_t pull_B = at_mul(at_sigmoid(at_neg(m->group_B)), c->beta / 2);

	return (struct losses) { .policy_B = at_mul(pull_B, terms_error(m, m->v_BCHW)),
				 .note_B = { [MARGIN] = m->group_B,
					     [LOSS] = minus_log_sigmoid(m->group_B),
					     [RIGHT] = terms_above_zero(m->group_B) } };
}

const struct algorithm_type algorithm_dpo = { .name = "dpo",
					      .doc = "online DPO on the best and the worst image of a prompt",
					      .fields = fields,
					      .conf_size = sizeof(struct dpo_conf),
					      .notes = notes,
					      .check = check,
					      .demands = demands,
					      .pairs = pairs,
					      .group = group,
					      .loss = loss };
