/*
 * judging.h -- the scores of a set of images of which every rank samples its share: everybody's, on every
 * rank, the same for any number of ranks.
 *
 * Samples 0 .. n - 1, `group_size` after `group_size` of one prompt, shared out by prompts_share.
 */
#ifndef JUDGING_H
#define JUDGING_H
#include "aten/at.h"
#include "data/prompts.h"
#include "dist/dist.h"
#include "rewards/mixture/mixture.h"
#include "trainer/grouping.h"

struct judging {
	struct dist *dist;
	struct mixture *mixture;
	int64_t n, group_size;
	int64_t first, count;         /* this rank's share */
	struct mixture_scores scores; /* its own: of the rewards that take images as they come */
	struct grouping groups;       /* of those that get whole groups */
	/* n: the set of prompts that each sample, whoever's, is of (borrowed); NULL: there are none. */
	const int *set;
};
/* Every prompt of the file can be scored. */
int judging_check(struct mixture *m, const struct prompts *p, struct err *e);
void judging_begin(struct judging *j, struct dist *d, struct mixture *m, int64_t n, int64_t group_size);
/* Before the first image: those of eval.rewards score, too. */
void judging_hold_out(struct judging *j);
/* The next k images of this rank's share, in order, all of one size; `at` counts from its first.  Prompts
 * and metadata must stay until the end.  Scoring goes on beside. */
void judging_submit(struct judging *j, int64_t at, const struct reward_item *item, int k);
/* The same of pixels as the sampler gives them, (k, H, W, 3) on the CPU; the i-th is of prompt prompt[i]. */
void judging_submit_images(struct judging *j, int64_t at, at_t rgb_BHW3, const struct prompts *p,
			   const int64_t *prompt);
/* Collective: waits for the scores and gives everybody's, with totals, to *all, which the caller frees; into
 * *waited, unless NULL, the seconds that this rank waited. */
void judging_finish(struct judging *j, struct mixture_scores *all, double *waited);
/* Instead of judging_finish, after a failure, on every rank. */
void judging_drop(struct judging *j);

#endif
