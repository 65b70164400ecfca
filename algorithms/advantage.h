/*
 * advantage.h -- rewards -> advantages -> optimality probabilities (DiffusionNFT, section 3; per-prompt
 * normalisation).
 *
 * A = (R - mean of the prompt's group) / (std + 1e-4), std over all samples of the epoch ("global") or of the
 * group
 * ("group"); then the mode; then r = clip(A / clip / 2 + 0.5, 0, 1).  Samples without a reward (NAN) are left
 * out of every mean and std and get A = r = NAN.
 */
#ifndef ADVANTAGE_H
#define ADVANTAGE_H
#include "base/conf/conf.h"
#include <stdbool.h>
#include <stdint.h>

struct advantage_conf {
	char *std;  /* global, group; of a sum of rewards */
	char *mode; /* all, positive_only, negative_only, one_only, binary */
	double clip;
	char *combine;      /* sum, normalised: how several rewards become one */
	char *over;         /* selected, drawn: prompts.draw */
	double reward_clip; /* bound of each reward's own advantages before they are added; 0: none */
};
extern const struct field advantage_fields[];

struct advantage_stats {
	double reward_mean, reward_std;
	int64_t flat_groups; /* groups whose rewards are all equal: they teach nothing */
	double r_mean;
};

/*
 * Several rewards as one by their advantages rather than by their values (GDPO, arXiv 2601.05242): each
 * reward's A by the mean and spread of its group, bounded by reward_clip, times its weight.  What
 * advantage_compute makes of the sum is by the mean and spread of the epoch, whatever `std` says.  So no
 * reward drowns the others, neither by a wide scale nor by prompts of which some are easier for it.
 * value[k * n + i]: reward k of sample i; out[i] is NAN where one of them is whose weight is not 0.
 * left_out[k * groups + g] (NULL: none): reward k does not count in group g and adds nothing there.  A group
 * that all are left out of gets NAN.
 */
void advantage_combine(const struct advantage_conf *c, int64_t n, int rewards, const double *value,
		       const double *weight, const int64_t *group, int64_t groups, const bool *left_out,
		       double *out);

/* n rewards; group[i] in [0, groups). Standard deviations are the population's (n in the denominator). */
void advantage_compute(const struct advantage_conf *c, int64_t n, const double *reward, const int64_t *group,
		       int64_t groups, double *advantage, double *r, struct advantage_stats *stats);
/* The mean and spread in *stats become those of these rewards: what was combined has others. */
void advantage_describe(int64_t n, const double *reward, struct advantage_stats *stats);

#endif
