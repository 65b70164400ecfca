#include "trainer/live/pace.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static double sum_of(const double *v)
{
	double sum = 0;

	for (int k = 0; k < PACE_PHASES; k++)
		sum += v[k];
	return sum;
}

void pace_of(struct pace *p, const double *all, int ranks)
{
	*p = (struct pace) { .ranks = ranks };
	for (int r = 0; r < ranks; r++) {
		const double *v = all + r * PACE_PHASES;

		for (int k = 0; k < PACE_PHASES; k++) {
			p->max[k] = fmax(p->max[k], v[k]);
			p->mean[k] += v[k] / ranks;
		}
		if (sum_of(v) > sum_of(all + p->slowest * PACE_PHASES))
			p->slowest = r;
	}
	double most = sum_of(p->max);
	p->waiting = most > 0 ? 1 - sum_of(p->mean) / most : 0;
}

void pace_ranks(struct pace *p, struct dist *d, const double own[PACE_PHASES])
{
	double *all = mem_zero((size_t)d->ranks * PACE_PHASES, sizeof *all);
	int64_t *count = mem_zero((size_t)d->ranks, sizeof *count);

	for (int r = 0; r < d->ranks; r++)
		count[r] = PACE_PHASES;
	dist_gather_f64(d, own, all, count);
	pace_of(p, all, d->ranks);
	free(all);
	free(count);
}

/* Images that reward k should have scored and did not. */
static double missing(const struct mixture *m, const struct mixture_scores *s, int k)
{
	double sum = 0;

	for (int64_t i = 0; i < s->n; i++)
		sum += isnan(s->value[k * s->n + i]) && !isnan(mixture_weight(m, k, s->set[i]));
	return sum;
}

void pace_rewards(struct pace *p, struct dist *d, struct mixture *m, const struct mixture_scores *s)
{
	enum { SUMS = 4 };
	int n = s->rewards;
	double *sum = mem_zero((size_t)(n * SUMS), sizeof *sum), *most = mem_zero((size_t)n, sizeof *most);

	p->rewards = n;
	p->reward = mem_zero((size_t)n, sizeof *p->reward);
	for (int k = 0; k < n; k++) {
		struct mixture_pace own;

		mixture_pace(m, k, &own);
		sum[k * SUMS] = (double)own.calls;
		sum[k * SUMS + 1] = own.seconds;
		sum[k * SUMS + 2] = (double)own.given_up;
		sum[k * SUMS + 3] = (double)own.restarts;
		most[k] = own.longest;
	}
	if (n) {
		dist_sum_f64(d, sum, n * SUMS);
		dist_max_f64(d, most, n);
	}
	for (int k = 0; k < n; k++)
		p->reward[k] = (struct pace_reward) {
			.calls = sum[k * SUMS],
			.seconds = sum[k * SUMS + 1],
			.given_up = sum[k * SUMS + 2],
			.restarts = sum[k * SUMS + 3],
			.longest = most[k],
			/* held-out rewards are not asked here */
			.unavailable = mixture_at(m, k)->held_out ? 0 : missing(m, s, k),
		};
	free(sum);
	free(most);
}

void pace_release(struct pace *p)
{
	free(p->reward);
	*p = (struct pace) { 0 };
}

static void add_ranks(const struct pace *p, struct metrics *to)
{
	static const char *const names[PACE_PHASES] = { "sampling", "reward_wait", "update" };
	char name[64];

	for (int k = 0; k < PACE_PHASES; k++) {
		snprintf(name, sizeof name, "ranks/%s_max", names[k]);
		metrics_add(to, name, p->max[k]);
		snprintf(name, sizeof name, "ranks/%s_mean", names[k]);
		metrics_add(to, name, p->mean[k]);
	}
	metrics_add(to, "ranks/slowest", p->slowest);
	metrics_add(to, "ranks/waiting", p->waiting);
}

static void add_reward(struct metrics *to, const char *what, const char *reward, double v)
{
	char *name = mem_printf("scoring/%s/%s", what, reward);

	metrics_add(to, name, v);
	free(name);
}

void pace_add(const struct pace *p, struct metrics *to, const struct mixture *m)
{
	if (p->ranks > 1)
		add_ranks(p, to);
	for (int k = 0; k < p->rewards; k++) {
		const struct pace_reward *r = &p->reward[k];
		const struct mixture_entry *entry = mixture_at(m, k);

		if (r->calls > 0) {
			add_reward(to, "seconds", entry->name, r->seconds / r->calls);
			add_reward(to, "longest", entry->name, r->longest);
		}
		if (entry->held_out)
			continue;
		add_reward(to, "unavailable", entry->name, r->unavailable);
		if (entry->deadline > 0 && r->calls > 0) /* not where somebody else scores */
			add_reward(to, "given_up", entry->name, r->given_up);
		if (entry->type->restarts && r->calls > 0)
			add_reward(to, "restarts", entry->name, r->restarts);
	}
}
