/* nft.c -- DiffusionNFT (arXiv 2509.16117): the loss.  Shapes: B batch, C channels, H height, W width of the
 * latents. */
#include "algorithms/nft.h"

const struct field nft_fields[] = {
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

static at_t per_sample(at_t x_B)
{
	return at_view(x_B, DIMS(-1, 1, 1, 1));
}

at_t nft_noised(at_t x0_BCHW, at_t eps_BCHW, at_t t_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t t_B111 = per_sample(t_B);
	return at_return(s, at_add(at_mul(x0_BCHW, at_add(at_neg(t_B111), 1)), at_mul(eps_BCHW, t_B111)));
}

static at_t mean_but_batch(at_t x_BCHW)
{
	return at_mean_dim(at_flatten(x_BCHW, 1, -1), 1, false);
}

struct nft_losses nft_policy_loss(double beta, const struct nft_terms *m)
{
	at_t v = m->v_BCHW, old = m->v_old_BCHW, r = at_cast(m->r_B, AT_F64);
	at_t plus = at_add_scaled(at_mul(v, beta), old, 1 - beta);
	at_t minus = at_add_scaled(at_mul(old, 1 + beta), v, -beta);
	struct nft_losses l = { .positive_B = at_x0_loss(plus, m->xt_BCHW, m->x0_BCHW, m->t_B),
				.negative_B = at_x0_loss(minus, m->xt_BCHW, m->x0_BCHW, m->t_B) };

	l.policy_B = at_add(at_mul(r, l.positive_B), at_mul(at_add(at_neg(r), 1), l.negative_B));
	return l;
}

at_t nft_kl(at_t v_BCHW, at_t v_ref_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	return at_return(s, at_cast(mean_but_batch(at_square(at_sub(v_BCHW, v_ref_BCHW))), AT_F64));
}
