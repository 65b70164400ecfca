/*
 * dgpo.c -- direct group preference optimization (arXiv 2510.08425): all images of a prompt as one
 * preference.
 *
 * They share noise and level.  With u = eps - x0, d = mean((v - u)^2), and G images that have a score,
 *   s = sum over the prompt's images of A_i beta / G (d_i - d_ref_i)
 *   loss = mean(sigmoid(s) A d), sigmoid(s) without gradient: up to a factor the gradient of -log sigmoid(-s)
 * With clip c > 0 an image's d has no gradient where exp(d_old - d) has left 1 +- c on the side that A pushes
 * to.  The pull to the base is kl_beta mean((v - v_ref)^2).
 *
 * Levels are the same for all images of an epoch: as many as train.timestep_fraction says, drawn from the
 * first `first_levels` of the rollout's.
 *
 * Shapes: B pairs.
 */
#include "algorithms/algorithm.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct dgpo_conf {
	double beta, clip, kl_beta;
	char *reference;
	int64_t first_levels;
};

static const char *const references[] = { "base", "old", NULL };
static const struct field fields[] = {
	FIELD(struct dgpo_conf, beta, .init = "100", .min = 1e-3, .max = 1e6,
	      .doc = "how much a difference of matching errors counts; 2000 to 5000 with `reference: old`"),
	FIELD(struct dgpo_conf, clip, .init = "1e-2", .min = 0, .max = 10,
	      .doc = "how far exp(d_old - d), d the matching error, may go from 1 before an image has no "
		     "gradient; 0: no bound, and no old velocity unless it is the reference"),
	FIELD(struct dgpo_conf, reference, .init = "base", .choices = references,
	      .doc = "whose errors theta's are compared with: the frozen base model's, or the old policy's"),
	FIELD(struct dgpo_conf, kl_beta, .init = "1e-3", .min = 0, .max = 1000,
	      .doc = "weight of the pull towards the frozen base model"),
	FIELD(struct dgpo_conf, first_levels, .init = "0", .min = 0, .max = 1000, .unit = "noise levels",
	      .doc = "levels are drawn from the first so many of the rollout's; 0: from all"),
	FIELD_END
};

enum { SUM, SHARE, STOPPED };
static const char *const notes[] = { "group", "weight", "stopped", NULL };

static bool by_base(const struct dgpo_conf *c)
{
	return !strcmp(c->reference, "base");
}

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	const struct dgpo_conf *c = conf;
	unsigned needs = by_base(c) ? NEEDS_REFERENCE : NEEDS_OLD;

	(void)a;
	return (struct demands) {
		.needs = needs | (c->clip > 0 ? NEEDS_OLD : 0), .times = 1, .over = 1, .kl = c->kl_beta
	};
}

/* The prompt's images with a score: how many, and the first, whose noise all have. */
static int64_t scored(const struct round *r, int64_t sample, int64_t *first)
{
	int64_t from = sample, n = 0;

	while (from > 0 && r->group[from - 1] == r->group[sample])
		from--;
	*first = from;
	for (int64_t i = from; i < r->n && r->group[i] == r->group[sample]; i++)
		n += !isnan(r->advantage[i]);
	return n;
}

static int pairs(const void *conf, const struct round *r, int64_t sample, struct pair *out)
{
	const struct dgpo_conf *c = conf;
	int all = r->schedule->steps;
	int64_t first, images = scored(r, sample, &first), *level = mem_zero((size_t)all, sizeof *level);
	struct rng g = rng_make(r->seed, RNG_TIMESTEP, r->epoch, 0);

	for (int k = 0; k < all; k++)
		level[k] = k;
	if (c->first_levels && c->first_levels < all)
		all = (int)c->first_levels;
	rng_shuffle(&g, level, all);
	int n = r->levels < all ? r->levels : all;
	for (int k = 0; k < n; k++)
		out[k] = (struct pair) { .sample = sample,
					 .level = (int)level[k],
					 .noise = first,
					 /* 1 / G: `group` needs it, and `loss` takes it out again */
					 .weight = 1 / (double)images };
	free(level);
	return n;
}

static at_t group(const void *conf, const struct terms *m)
{
	const struct dgpo_conf *c = conf;
	at_t ref_BCHW = by_base(c) ? m->v_ref_BCHW : m->v_old_BCHW;
	at_t further_B = terms_further(m, m->v_BCHW, ref_BCHW);
	at_t each_B = at_mul(at_mul(at_cast(m->advantage_B, AT_F64), at_cast(m->weight_B, AT_F64)), c->beta);

	return at_mul(further_B, each_B);
}

/* 1 where exp(d_old - d) has left 1 +- clip on the side that A pushes to. */
static at_t stopped(const struct dgpo_conf *c, const struct terms *m, at_t a_B)
{
	if (!(c->clip > 0))
		return at_zeros_like(a_B);
	at_t gone_B = at_add(at_exp(terms_further(m, m->v_old_BCHW, at_detach(m->v_BCHW))), -1);
	return at_mul(terms_above_zero(at_mul(gone_B, a_B)),
		      terms_above_zero(at_add(at_abs(gone_B), -c->clip)));
}

static struct losses loss(const void *conf, const struct terms *m)
{
	const struct dgpo_conf *c = conf;
	at_t d_B = terms_error(m, m->v_BCHW), a_B = at_cast(m->advantage_B, AT_F64);
	at_t share_B = at_sigmoid(m->group_B), stop_B = stopped(c, m, a_B);
	at_t held_B = at_add(at_mul(d_B, at_add(at_neg(stop_B), 1)), at_mul(at_detach(d_B), stop_B));
	at_t policy_B = at_mul(at_mul(share_B, a_B), held_B);

	return (struct losses) { .policy_B = at_div(policy_B, at_cast(m->weight_B, AT_F64)),
				 .note_B = { [SUM] = m->group_B, [SHARE] = share_B, [STOPPED] = stop_B } };
}

const struct algorithm_type algorithm_dgpo = { .name = "dgpo",
					       .doc = "direct group preference optimization",
					       .fields = fields,
					       .conf_size = sizeof(struct dgpo_conf),
					       .notes = notes,
					       .demands = demands,
					       .pairs = pairs,
					       .group = group,
					       .loss = loss };
