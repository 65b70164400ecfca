/*
 * grouping.h -- whole groups for the rewards that want them: shares cut groups, so the rank that has a
 * group's first sample gets the others' images and hands the group over.
 *
 * Rewards see the same groups for any number of ranks.  judging.h is the way in.
 */
#ifndef GROUPING_H
#define GROUPING_H
#include "dist/dist.h"
#include "rewards/mixture/mixture.h"

struct held_images {
	struct reward_item *item; /* pixels are its own; prompts and metadata the caller's */
	int n, cap;
};
struct grouping {
	struct dist *dist;
	struct mixture *mixture;
	bool wanted;                  /* some reward gets groups; else nothing below is used */
	int64_t n, size;              /* samples of all ranks, of a group */
	int64_t first, count;         /* this rank's share */
	int64_t owned, owned_count;   /* samples of the groups that begin in it */
	struct mixture_scores scores; /* theirs: of the rewards that get groups, the others' are NAN */
	struct held_images head;      /* of the group that began on an earlier rank */
	struct held_images open;      /* of the last group that began here */
};
/* The samples [*begin, *end) of the groups that rank `rank` hands over. */
void grouping_share(int64_t n, int64_t size, int rank, int ranks, int64_t *begin, int64_t *end);
void grouping_begin(struct grouping *g, struct dist *d, struct mixture *m, int64_t n, int64_t size);
/* The next k images of this rank's share, `at` from its first on, all of one size; pixels are copied,
 * prompts and metadata must stay until grouping_finish. */
void grouping_add(struct grouping *g, int64_t at, const struct reward_item *item, int k);
/* Collective: groups that were cut are put together, and all scores waited for; returns the seconds that the
 * scores took. */
double grouping_finish(struct grouping *g);
void grouping_release(struct grouping *g); /* waits for what is under way */

#endif
