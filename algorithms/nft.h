/*
 * nft.h -- DiffusionNFT (arXiv 2509.16117): the negative-aware flow-matching loss.
 *
 * For a clean sample x0 of optimality probability r, noised to x_t = (1 - t) x0 + t eps:
 *   v+ = beta v + (1 - beta) v_old,  v- = (1 + beta) v_old - beta v          the implicit policies
 *   e+- = (x_t - t v+-) - x0,        w+- = max(mean |e+-|, 1e-5)             float64, no gradient
 *   L+- = mean(e+-^2) / w+-                                                  over all but the batch
 *   loss = mean_batch((r L+ + (1 - r) L-) / beta) adv_clip + kl_beta mean((v - v_ref)^2)
 */
#ifndef NFT_H
#define NFT_H
#include "aten/at.h"
#include "base/conf/conf.h"

struct nft_conf {
	double beta, kl_beta;
	int64_t kl_every;
};
extern const struct field nft_fields[];

/* One micro-batch, all float32. v carries the gradient. */
struct nft_terms {
	at_t x0_BCHW, xt_BCHW, t_B, r_B;
	at_t v_BCHW, v_old_BCHW;
};

/* Per-sample losses, float64 (B): `policy` before adv_clip / beta is applied; `positive` and `negative` are
 * L+ and L-. */
struct nft_losses {
	at_t policy_B, positive_B, negative_B;
};
struct nft_losses nft_policy_loss(double beta, const struct nft_terms *m);

/* mean((v - v_ref)^2) over all but the batch, float64 (B). */
at_t nft_kl(at_t v_BCHW, at_t v_ref_BCHW);

/* (1 - t) x0 + t eps. */
at_t nft_noised(at_t x0_BCHW, at_t eps_BCHW, at_t t_B);

#endif
