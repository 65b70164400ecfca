/* nft.c -- DiffusionNFT (arXiv 2509.16117): the loss.  Shapes: B batch, C channels, H height, W width of the
 * latents. */
#include "trainer/nft.h"

const struct field nft_fields[] = {
	FIELD(struct nft_conf, beta, .init = "1", .min = 1e-3, .max = 10,
	      .doc = "strength of the implicit positive and negative policies"),
	FIELD(struct nft_conf, kl_beta, .init = "1e-4", .min = 0, .max = 10,
	      .doc = "weight of the pull towards the frozen base model; 0 computes no reference velocity"),
	FIELD(struct nft_conf, kl_every, .init = "1", .min = 1, .max = 1000,
	      .doc = "the reference velocity is computed on a random one in this many samples, its weight "
		     "multiplied by as much"),
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

/* Squared error of the x0 that velocity v implies, over its own mean size. */
static at_t x0_loss(const struct nft_terms *m, at_t v_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x0_hat = at_sub(m->xt_BCHW, at_mul(v_BCHW, per_sample(m->t_B)));
	at_t e = at_sub(x0_hat, m->x0_BCHW);
	at_t w_B = at_clamp(mean_but_batch(at_cast(at_abs(at_detach(e)), AT_F64)), 1e-5, 1e300);
	return at_return(s, at_div(at_cast(mean_but_batch(at_square(e)), AT_F64), w_B));
}

struct nft_losses nft_policy_loss(double beta, const struct nft_terms *m)
{
	at_t v = m->v_BCHW, old = m->v_old_BCHW, r = at_cast(m->r_B, AT_F64);
	at_t plus = at_add_scaled(at_mul(v, beta), old, 1 - beta);
	at_t minus = at_add_scaled(at_mul(old, 1 + beta), v, -beta);
	struct nft_losses l = { .positive_B = x0_loss(m, plus), .negative_B = x0_loss(m, minus) };

	l.policy_B = at_add(at_mul(r, l.positive_B), at_mul(at_add(at_neg(r), 1), l.negative_B));
	return l;
}

at_t nft_kl(at_t v_BCHW, at_t v_ref_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	return at_return(s, at_cast(mean_but_batch(at_square(at_sub(v_BCHW, v_ref_BCHW))), AT_F64));
}
