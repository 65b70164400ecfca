#include "trainer/judging.h"
#include "base/mem.h"
#include "data/prompts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void judging_begin(struct judging *j, struct dist *d, struct mixture *m, int64_t n, int64_t group_size)
{
	int64_t end;

	*j = (struct judging) { .dist = d, .mixture = m, .n = n, .group_size = group_size };
	prompts_share(n, d->rank, d->ranks, &j->first, &end);
	j->count = end - j->first;
	mixture_scores_init(&j->mine, (int)j->count, mixture_count(m));
	mixture_begin(m, &j->mine);
}

void judging_submit(struct judging *j, int64_t at, const struct reward_item *item, int k)
{
	mixture_submit(j->mixture, &j->mine, (int)at, item, k);
}

/* Everybody's values and sub-scores of all rewards. */
static void gather(struct judging *j, struct mixture_scores *all)
{
	struct dist *d = j->dist;
	const struct mixture_scores *mine = &j->mine;
	int64_t each = 1 + REWARD_SUBS, record = all->rewards * each;
	int64_t *count = mem_zero((size_t)d->ranks, sizeof *count);
	double *out = mem_zero((size_t)(j->count * record + 1), sizeof *out);
	double *in = mem_zero((size_t)(j->n * record + 1), sizeof *in);

	for (int64_t i = 0; i < j->count; i++)
		for (int k = 0; k < all->rewards; k++) {
			double *x = out + i * record + k * each;
			x[0] = mine->value[k * mine->n + i];
			memcpy(x + 1, mine->sub + (k * mine->n + i) * REWARD_SUBS, REWARD_SUBS * sizeof *x);
		}
	for (int r = 0; r < d->ranks; r++) {
		int64_t begin, end;
		prompts_share(j->n, r, d->ranks, &begin, &end);
		count[r] = (end - begin) * record;
	}
	dist_gather_f64(d, out, in, count);
	for (int64_t i = 0; i < j->n; i++)
		for (int k = 0; k < all->rewards; k++) {
			const double *x = in + i * record + k * each;
			all->value[k * all->n + i] = x[0];
			memcpy(all->sub + (k * all->n + i) * REWARD_SUBS, x + 1, REWARD_SUBS * sizeof *x);
		}
	free(out);
	free(in);
	free(count);
}

/* The reason of the first sample of all that lacks a score, whichever rank knows it. */
static void gather_reason(struct judging *j, struct mixture_scores *all)
{
	int64_t rewards = all->rewards, at = j->mine.why_at;
	double mine = at == INT64_MAX ? -INFINITY : -(double)(at + j->first * rewards), first = mine;
	double owner = -1;

	dist_max_f64(j->dist, &first, 1);
	if (isinf(first))
		return;
	owner = mine == first ? j->dist->rank : -1;
	dist_max_f64(j->dist, &owner, 1);
	memcpy(all->why, j->mine.why, sizeof all->why);
	dist_broadcast(j->dist, all->why, sizeof all->why, (int)owner);
}

void judging_finish(struct judging *j, struct mixture_scores *all, double *waited)
{
	int64_t *group = mem_zero((size_t)j->n, sizeof *group);
	double seconds = mixture_wait(j->mixture, &j->mine);

	if (waited)
		*waited = seconds;
	for (int64_t i = 0; i < j->n; i++)
		group[i] = i / j->group_size;
	mixture_scores_init(all, (int)j->n, mixture_count(j->mixture));
	gather(j, all);
	gather_reason(j, all);
	mixture_total(j->mixture, all, group, (j->n + j->group_size - 1) / j->group_size);
	mixture_scores_free(&j->mine);
	free(group);
}

void judging_drop(struct judging *j)
{
	mixture_wait(j->mixture, &j->mine);
	mixture_scores_free(&j->mine);
}
