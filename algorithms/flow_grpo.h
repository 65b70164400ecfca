/*
 * flow_grpo.h -- FlowGRPO (arXiv 2505.05470): a clipped policy gradient on the noisy steps of a rollout, with
 * its published variants: Fast and MixGRPO (2507.21802) windows, CPS (2509.05952), GRPO-Guard (2510.22319),
 * Flow-DPPO's rule (2606.11025).
 *
 * A step with noise went from x_t to x' = x * x_t + v * v_old + std * z (struct transition).  With
 * D = v (v_theta - v_old), the difference of the two policies' means, and k = mean(D^2) / (2 std^2):
 *   exact     lr = mean(z D) / std - k            the log-ratio of the two normal densities, a number
 *   unscaled  lr = mean(2 std z D - D^2)          of -mean((x' - mean)^2), as CPS publishes it
 *   guard     lr = mean(z D)                      k, which is biased, left out and the scale made equal
 *   loss = max(-A exp(lr), -A clip(exp(lr), 1 - clip, 1 + clip)), with `guard` over |dt|
 * `mean` is over all numbers of a latent, so a clip of c is c times their number of the true log-ratio.  lr
 * is exactly 0 where v_theta = v_old.  `old: rollout` takes mean_old = x' - std z from the rollout itself, as
 * the published code takes its log-probabilities; any difference of kernels then shows in lr. With `rule: kl`
 * there is no clip: a pair whose k has reached kl_bound has no gradient where that would lead further away (A
 * (exp(lr) - 1) > 0).
 *
 * The pull to the base, kl_beta times
 *   published  v^2 |dt| / (2 std^2) mean((v_theta - v_ref)^2)    the exact one times |dt|
 *   exact      v^2 / (2 std^2) mean((v_theta - v_ref)^2)         of the two normal densities, a number
 *   velocity   mean((v_theta - v_ref)^2)
 */
#ifndef FLOW_GRPO_H
#define FLOW_GRPO_H
#include "algorithms/algorithm.h"

struct flow_grpo_conf {
	double clip;
	char *log_ratio, *rule, *old, *kl;
	double kl_bound, kl_beta;
	int64_t kl_every;
	char *steps;
	int64_t window, window_low, window_high, window_every;
	char *window_moves;
};
extern const struct algorithm_type algorithm_flow_grpo;

#endif
