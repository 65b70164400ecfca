/* mixture_scores.c -- the scores of a set of samples and how they become totals. */
#include "base/mem.h"
#include "rewards/mixture/mixture.h"
#include <math.h>
#include <stdlib.h>

void mixture_scores_init(struct mixture_scores *s, int n, int rewards)
{
	size_t cells = (size_t)n * (size_t)rewards;

	*s = (struct mixture_scores) { .n = n, .rewards = rewards };
	s->total = mem_zero((size_t)n, sizeof *s->total);
	s->value = mem_zero(cells, sizeof *s->value);
	s->sub = mem_zero(cells * REWARD_SUBS, sizeof *s->sub);
}

void mixture_scores_keep_reasons(struct mixture_scores *s)
{
	s->reason = mem_zero((size_t)s->n * (size_t)s->rewards, sizeof *s->reason);
}

void mixture_scores_free(struct mixture_scores *s)
{
	free(s->reason);
	free(s->total);
	free(s->value);
	free(s->sub);
	free(s->left_out);
	*s = (struct mixture_scores) { 0 };
}

double mixture_sub_of(const struct mixture *m, const struct mixture_scores *s, int k, int64_t i,
		      const char *name)
{
	int sub = mixture_sub_at(m, k, name);

	return sub < 0 ? NAN : s->sub[(k * s->n + i) * REWARD_SUBS + sub];
}

int mixture_judge(const struct mixture *m)
{
	for (int k = 0; k < mixture_count(m); k++)
		if (mixture_sub_at(m, k, "strict") >= 0 || mixture_sub_at(m, k, "correct") >= 0)
			return k;
	return -1;
}

/* Which groups go without reward k. */
static void leave_out(struct mixture_scores *s, int k, double quorum, const int64_t *group)
{
	double *have = mem_zero((size_t)s->groups, sizeof *have),
	       *size = mem_zero((size_t)s->groups, sizeof *size);
	const double *value = s->value + (size_t)k * (size_t)s->n;

	for (int i = 0; i < s->n; i++) {
		size[group[i]]++;
		have[group[i]] += !isnan(value[i]);
	}
	for (int64_t g = 0; g < s->groups; g++) {
		bool out = size[g] > 0 && have[g] + 1e-9 < quorum * size[g];
		s->left_out[k * s->groups + g] = out;
		s->n_left_out += out;
	}
	free(have);
	free(size);
}

/* The mean of reward k where it counts; 0 when it does nowhere: then it is out of every group alike. */
static double stand_in(const struct mixture_scores *s, int k, const int64_t *group)
{
	const double *value = s->value + (size_t)k * (size_t)s->n;
	double sum = 0, n = 0;

	for (int i = 0; i < s->n; i++)
		if (!isnan(value[i]) && !s->left_out[k * s->groups + group[i]]) {
			sum += value[i];
			n++;
		}
	return n > 0 ? sum / n : 0;
}

void mixture_total(const struct mixture *m, struct mixture_scores *s, const int64_t *group, int64_t groups)
{
	bool *counts = mem_zero((size_t)s->n, sizeof *counts);

	free(s->left_out);
	s->groups = group ? groups : 0;
	s->left_out = mem_zero((size_t)s->rewards * (size_t)s->groups, sizeof *s->left_out);
	s->unavailable = s->n_left_out = 0;
	for (int i = 0; i < s->n; i++)
		s->total[i] = 0;
	for (int k = 0; k < s->rewards; k++) {
		const struct mixture_entry *entry = mixture_at(m, k);
		double instead = 0;

		if (entry->weight == 0) /* and 0 * NAN would be NAN */
			continue;
		if (group && entry->quorum > 0) {
			leave_out(s, k, entry->quorum, group);
			instead = stand_in(s, k, group);
		}
		for (int i = 0; i < s->n; i++) {
			bool out = group && s->left_out[k * s->groups + group[i]];
			s->total[i] += entry->weight * (out ? instead : s->value[k * s->n + i]);
			counts[i] |= !out;
		}
	}
	for (int i = 0; i < s->n; i++) {
		if (!counts[i])
			s->total[i] = NAN;
		s->unavailable += isnan(s->total[i]) != 0;
	}
	free(counts);
}
