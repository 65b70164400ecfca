#include "trainer/judging.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

int judging_check(struct mixture *m, const struct prompts *p, struct err *e)
{
	struct reward_item *item = mem_zero((size_t)p->n, sizeof *item);
	int bad = 0;

	for (int64_t i = 0; i < p->n; i++)
		item[i] = (struct reward_item) { .prompt = p->v[i].text,
						 .meta = p->v[i].meta,
						 .set = prompts_set_of(p, i) };
	int ret = mixture_check_all(m, item, (int)p->n, &bad, e);
	free(item);
	if (!ret)
		return 0;
	char *where = prompts_where(p, bad);
	err_in(e, "%s", where);
	free(where);
	return -1;
}

void judging_begin(struct judging *j, struct dist *d, struct mixture *m, int64_t n, int64_t group_size)
{
	int64_t end;

	*j = (struct judging) { .dist = d, .mixture = m, .n = n, .group_size = group_size };
	prompts_share(n, d->rank, d->ranks, &j->first, &end);
	j->count = end - j->first;
	mixture_scores_init(&j->scores, (int)j->count, mixture_count(m));
	mixture_begin(m, &j->scores);
	grouping_begin(&j->groups, d, m, n, group_size);
}

void judging_hold_out(struct judging *j)
{
	j->scores.held_out = j->groups.scores.held_out = true;
}

void judging_submit(struct judging *j, int64_t at, const struct reward_item *item, int k)
{
	mixture_submit(j->mixture, &j->scores, (int)at, item, k);
	grouping_add(&j->groups, at, item, k);
}

void judging_submit_images(struct judging *j, int64_t at, at_t rgb_BHW3, const struct prompts *p,
			   const int64_t *prompt)
{
	int n = (int)at_size(rgb_BHW3, 0), h = (int)at_size(rgb_BHW3, 1), w = (int)at_size(rgb_BHW3, 2);
	struct reward_item *item = mem_zero((size_t)n, sizeof *item);
	const uint8_t *rgb = at_data(rgb_BHW3);

	for (int i = 0; i < n; i++) {
		const struct prompt *of = &p->v[prompt[i]];

		item[i] = (struct reward_item) { .rgb = rgb + (size_t)i * (size_t)w * (size_t)h * 3,
						 .w = w,
						 .h = h,
						 .prompt = of->text,
						 .meta = of->meta,
						 .set = prompts_set_of(p, prompt[i]) };
	}
	judging_submit(j, at, item, n);
	free(item);
}

/* Everybody's values and sub-scores of the rewards that get groups, or of the others. */
static void gather(struct judging *j, struct mixture_scores *all, bool groups)
{
	struct dist *d = j->dist;
	const struct mixture_scores *own = groups ? &j->groups.scores : &j->scores;
	int64_t each = 1 + REWARD_SUBS, record = 0;
	int64_t *count = mem_zero((size_t)d->ranks, sizeof *count);

	for (int k = 0; k < all->rewards; k++)
		record += mixture_at(j->mixture, k)->group == groups ? each : 0;
	double *out = mem_zero((size_t)(own->n * record + 1), sizeof *out), *x = out;
	double *in = mem_zero((size_t)(j->n * record + 1), sizeof *in);
	for (int64_t i = 0; i < own->n; i++)
		for (int k = 0; k < all->rewards; k++) {
			if (mixture_at(j->mixture, k)->group != groups)
				continue;
			x[0] = own->value[k * own->n + i];
			memcpy(x + 1, own->sub + (k * own->n + i) * REWARD_SUBS, REWARD_SUBS * sizeof *x);
			x += each;
		}
	for (int r = 0; r < d->ranks; r++) {
		int64_t begin, end;

		prompts_share(j->n, r, d->ranks, &begin, &end);
		if (groups)
			grouping_share(j->n, j->group_size, r, d->ranks, &begin, &end);
		count[r] = (end - begin) * record;
	}
	dist_gather_f64(d, out, in, count);
	x = in;
	for (int64_t i = 0; i < j->n; i++)
		for (int k = 0; k < all->rewards; k++) {
			if (mixture_at(j->mixture, k)->group != groups)
				continue;
			all->value[k * all->n + i] = x[0];
			memcpy(all->sub + (k * all->n + i) * REWARD_SUBS, x + 1, REWARD_SUBS * sizeof *x);
			x += each;
		}
	free(out);
	free(in);
	free(count);
}

/* The reason of the first sample of all that lacks a score, whichever rank knows it. */
static void gather_reason(struct judging *j, struct mixture_scores *all)
{
	const struct mixture_scores *s[2] = { &j->scores, &j->groups.scores };
	const int64_t begin[2] = { j->first, j->groups.owned };
	double own = -INFINITY, first, owner; /* negated places: the greatest is the first */

	for (int i = 0; i < (j->groups.wanted ? 2 : 1); i++) {
		if (s[i]->why_at == INT64_MAX || -(double)(s[i]->why_at + begin[i] * all->rewards) <= own)
			continue;
		own = -(double)(s[i]->why_at + begin[i] * all->rewards);
		memcpy(all->why, s[i]->why, sizeof all->why);
	}
	first = own;
	dist_max_f64(j->dist, &first, 1);
	if (isinf(first))
		return;
	owner = own == first ? j->dist->rank : -1;
	dist_max_f64(j->dist, &owner, 1);
	dist_broadcast(j->dist, all->why, sizeof all->why, (int)owner);
}

void judging_finish(struct judging *j, struct mixture_scores *all, double *waited)
{
	int64_t *group = mem_zero((size_t)j->n, sizeof *group);
	/* groups first: those that were cut are scored while the rest is waited for */
	double seconds = grouping_finish(&j->groups);

	seconds += mixture_wait_unless(j->mixture, &j->scores, stop_asked);
	if (waited)
		*waited = seconds;
	for (int64_t i = 0; i < j->n; i++)
		group[i] = i / j->group_size;
	mixture_scores_init(all, (int)j->n, mixture_count(j->mixture));
	if (j->set)
		memcpy(all->set, j->set, (size_t)j->n * sizeof *j->set);
	gather(j, all, false);
	if (j->groups.wanted)
		gather(j, all, true);
	gather_reason(j, all);
	mixture_total(j->mixture, all, group, (j->n + j->group_size - 1) / j->group_size);
	mixture_scores_free(&j->scores);
	grouping_release(&j->groups);
	free(group);
}

void judging_drop(struct judging *j)
{
	mixture_wait_unless(j->mixture, &j->scores, stop_asked);
	mixture_scores_free(&j->scores);
	grouping_release(&j->groups);
}
