/*
 * nft.h -- DiffusionNFT (arXiv 2509.16117): the negative-aware flow-matching loss.
 *
 * For a clean sample x0 of optimality probability r, noised to x_t = (1 - t) x0 + t eps:
 *   v+ = beta v + (1 - beta) v_old,  v- = (1 + beta) v_old - beta v          the implicit policies
 *   e+- = (x_t - t v+-) - x0,        w+- = max(mean |e+-|, 1e-5)             float64, no gradient
 *   L+- = mean(e+-^2) / w+-                                                  over all but the batch
 *   loss = mean_batch((r L+ + (1 - r) L-) / beta) adv_clip + kl_beta mean((v - v_ref)^2)
 *
 * It notes d = L- - L+ and r, and logs the correlation of the two: whether the update tells good from bad.
 */
#ifndef NFT_H
#define NFT_H
#include "algorithms/algorithm.h"

struct nft_conf {
	double beta, kl_beta;
	int64_t kl_every;
};
extern const struct algorithm_type algorithm_nft;

#endif
