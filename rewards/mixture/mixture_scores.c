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
	s->set = mem_zero((size_t)n, sizeof *s->set);
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
	free(s->set);
	*s = (struct mixture_scores) { 0 };
}

double mixture_sub_of(const struct mixture *m, const struct mixture_scores *s, int k, int64_t i,
		      const char *name)
{
	int sub = mixture_sub_at(m, k, name);

	return sub < 0 ? NAN : s->sub[(k * s->n + i) * REWARD_SUBS + sub];
}

int mixture_judge(const struct mixture *m, int set)
{
	for (int k = 0; k < mixture_count(m); k++)
		if (!isnan(mixture_weight(m, k, set)) &&
		    (mixture_sub_at(m, k, "strict") >= 0 || mixture_sub_at(m, k, "correct") >= 0))
			return k;
	return -1;
}

/* The samples of a set, in a sum. */
struct part {
	struct mixture_scores *s;
	const int64_t *group; /* NULL: none are compared */
	int set, reward;
	double weight, quorum;
};

/* Which groups go without the reward. */
static void leave_out(const struct part *p)
{
	struct mixture_scores *s = p->s;
	double *have = mem_zero((size_t)s->groups, sizeof *have),
	       *size = mem_zero((size_t)s->groups, sizeof *size);
	const double *value = s->value + (size_t)p->reward * (size_t)s->n;

	for (int i = 0; i < s->n; i++) {
		size[p->group[i]] += s->set[i] == p->set;
		have[p->group[i]] += s->set[i] == p->set && !isnan(value[i]);
	}
	for (int64_t g = 0; g < s->groups; g++) {
		bool out = size[g] > 0 && have[g] + 1e-9 < p->quorum * size[g];

		s->left_out[p->reward * s->groups + g] |= out;
		s->n_left_out += out;
	}
	free(have);
	free(size);
}

/* The mean of the reward where it counts; 0 when it does nowhere: then it is out of every group alike. */
static double stand_in(const struct part *p)
{
	const struct mixture_scores *s = p->s;
	const double *value = s->value + (size_t)p->reward * (size_t)s->n;
	double sum = 0, n = 0;

	for (int i = 0; i < s->n; i++)
		if (s->set[i] == p->set && !isnan(value[i]) &&
		    !s->left_out[p->reward * s->groups + p->group[i]]) {
			sum += value[i];
			n++;
		}
	return n > 0 ? sum / n : 0;
}

/* What the reward adds to totals of its set, and which of them it counts in. */
static void add(const struct part *p, bool *counts)
{
	struct mixture_scores *s = p->s;
	double instead = 0;

	if (p->group && p->quorum > 0) {
		leave_out(p);
		instead = stand_in(p);
	}
	for (int i = 0; i < s->n; i++) {
		if (s->set[i] != p->set)
			continue;
		bool out = p->group && s->left_out[p->reward * s->groups + p->group[i]];

		s->total[i] += p->weight * (out ? instead : s->value[p->reward * s->n + i]);
		counts[i] |= !out;
	}
}

void mixture_total(const struct mixture *m, struct mixture_scores *s, const int64_t *group, int64_t groups)
{
	bool *counts = mem_zero((size_t)s->n, sizeof *counts);
	int sets = mixture_sets(m) ? mixture_sets(m) : 1;

	free(s->left_out);
	s->groups = group ? groups : 0;
	s->left_out = mem_zero((size_t)s->rewards * (size_t)s->groups, sizeof *s->left_out);
	s->unavailable = s->n_left_out = 0;
	for (int i = 0; i < s->n; i++)
		s->total[i] = 0;
	for (int k = 0; k < s->rewards; k++)
		for (int set = 0; set < sets; set++) {
			const struct part p = {
				s, group, set, k, mixture_weight(m, k, set), mixture_at(m, k)->quorum
			};

			if (!isnan(p.weight) && p.weight != 0) /* and 0 * NAN would be NAN */
				add(&p, counts);
		}
	for (int i = 0; i < s->n; i++) {
		if (!counts[i])
			s->total[i] = NAN;
		s->unavailable += isnan(s->total[i]) != 0;
	}
	free(counts);
}
