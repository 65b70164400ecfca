/* nft.c -- DiffusionNFT (arXiv 2509.16117): the loss. */
#include "algorithms/nft.h"
#include <math.h>

static const struct field fields[] = {
	FIELD(struct nft_conf, beta, .init = "1", .min = 1e-3, .max = 10,
	      .doc = "strength of the implicit positive and negative policies"),
	FIELD(struct nft_conf, kl_beta, .init = "1e-4", .min = 0, .max = 10,
	      .doc = "weight of the KL term, which pulls towards the frozen base model; 0: no reference "
		     "velocity is computed"),
	FIELD(struct nft_conf, kl_every, .init = "1", .min = 1, .max = 1000,
	      .doc =
		  "compute the KL term on a random one in this many pairs, with its weight multiplied by the "
		  "same number"),
	FIELD_END
};

enum { D, R, DD, RR, RD };
static const char *const notes[] = { "d", "r", "dd", "rr", "rd", NULL };
static const char *const metrics[] = { "r_correlation", NULL };

static struct demands demands(const void *conf, const struct advantage_conf *a)
{
	const struct nft_conf *c = conf;

	return (struct demands) { .needs = NEEDS_OLD,
				  .times = a->clip,
				  .over = c->beta,
				  .kl = c->kl_beta,
				  .kl_every = c->kl_every };
}

static struct losses loss(const void *conf, const struct terms *m)
{
	double beta = ((const struct nft_conf *)conf)->beta;
	at_t v = m->v_BCHW, old = m->v_old_BCHW, r = at_cast(m->r_B, AT_F64);
	at_t plus_v = at_add_scaled(at_mul(v, beta), old, 1 - beta);
	at_t minus_v = at_add_scaled(at_mul(old, 1 + beta), v, -beta);
	at_t plus = at_x0_loss(plus_v, m->xt_BCHW, m->x0_BCHW, m->t_B);
	at_t minus = at_x0_loss(minus_v, m->xt_BCHW, m->x0_BCHW, m->t_B);
	at_t d = at_sub(at_detach(minus), at_detach(plus));

	return (struct losses) {
		.policy_B = at_add(at_mul(r, plus), at_mul(at_add(at_neg(r), 1), minus)),
		.note_B = { [D] = d, [R] = r, [DD] = at_mul(d, d), [RR] = at_mul(r, r), [RD] = at_mul(r, d) }
	};
}

static void summary(const double *sum, double n, double *metric)
{
	double var_d = sum[DD] / n - pow(sum[D] / n, 2), var_r = sum[RR] / n - pow(sum[R] / n, 2);
	double cov = sum[RD] / n - sum[R] / n * sum[D] / n;

	*metric = var_d > 0 && var_r > 0 ? cov / sqrt(var_d * var_r) : 0;
}

const struct algorithm_type algorithm_nft = { .name = "nft",
					      .doc = "DiffusionNFT's loss",
					      .fields = fields,
					      .conf_size = sizeof(struct nft_conf),
					      .notes = notes,
					      .metrics = metrics,
					      .summary = summary,
					      .demands = demands,
					      .loss = loss };
