#include "trainer/evaluation/interval.h"
#include "base/mem.h"
#include "base/rng.h"
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#define DRAWS 1000
#define TAIL  24 /* place of the lower quantile: 0.025 (DRAWS + 1), counted from 0 */
static const double z = 1.959963984540054; /* the normal's quantile of 0.975 */

/* What is drawn again: prompts whose mean counts with a weight. */
struct part {
	const struct cluster *v;
	int64_t n;
	double weight;
};
/* How far the interval reaches from the mean, in squares, of what is not drawn again. */
struct reach {
	double below, above;
};

static double mean_of(const struct cluster *v, int64_t n)
{
	double sum = 0, count = 0;

	for (int64_t i = 0; i < n; i++) {
		sum += v[i].sum;
		count += v[i].n;
	}
	return sum / count;
}

/* The variance of a part's mean, of its prompts' distances from it. */
static double variance_of(const struct part *p)
{
	double mean = mean_of(p->v, p->n), count = 0, sum = 0;

	for (int64_t i = 0; i < p->n; i++)
		count += p->v[i].n;
	for (int64_t i = 0; i < p->n; i++)
		sum += pow((p->v[i].sum - mean * p->v[i].n) / count, 2);
	return p->weight * p->weight * sum * (double)p->n / (double)(p->n - 1);
}

/* Student's quantile of 0.975 from the normal's (Abramowitz and Stegun 26.7.5), at least 3 % right from two
 * degrees of freedom on. */
static double student(double df)
{
	double z3 = pow(z, 3), z5 = pow(z, 5), z7 = pow(z, 7);

	return z + (z3 + z) / (4 * df) + (5 * z5 + 16 * z3 + 3 * z) / (96 * df * df) +
	       (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * df * df * df);
}

static double widened(const struct part *p, int64_t parts)
{
	double sum = 0, squares = 0;

	for (int64_t k = 0; k < parts; k++) {
		double v = variance_of(&p[k]);

		sum += v;
		squares += v * v / (double)(p[k].n - 1);
	}
	return squares > 0 ? student(sum * sum / squares) / z : 1;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Adds the squared distances that drawing again gives. */
static void draw_again(struct reach *r, const struct part *p, int64_t parts)
{
	struct rng rng = rng_make(0, RNG_BOOTSTRAP, 0, 0);
	double drawn[DRAWS], mean = 0, wide = widened(p, parts);

	for (int64_t k = 0; k < parts; k++)
		mean += p[k].weight * mean_of(p[k].v, p[k].n);
	for (int d = 0; d < DRAWS; d++) {
		drawn[d] = 0;
		for (int64_t k = 0; k < parts; k++) {
			double sum = 0, count = 0;

			for (int64_t i = 1; i < p[k].n; i++) {
				const struct cluster *c = &p[k].v[rng_below(&rng, (uint32_t)p[k].n)];
				sum += c->sum;
				count += c->n;
			}
			drawn[d] += p[k].weight * sum / count;
		}
	}
	qsort(drawn, DRAWS, sizeof *drawn, by_value);
	r->below += pow(wide * fmax(mean - drawn[TAIL], 0), 2);
	r->above += pow(wide * fmax(drawn[DRAWS - 1 - TAIL] - mean, 0), 2);
}

/* All of its prompts have the same mean. */
static bool is_even(const struct stratum *s)
{
	for (int64_t i = 1; i < s->n; i++)
		if (s->v[i].sum * s->v[0].n != s->v[0].sum * s->v[i].n)
			return false;
	return true;
}

/* Wilson's interval of a share p of n. */
static void add_wilson(struct reach *r, double p, double n, double scale)
{
	double middle = (p + z * z / (2 * n)) / (1 + z * z / n);
	double half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n);

	r->below += pow(scale * (p - (middle - half)), 2);
	r->above += pow(scale * (middle + half - p), 2);
}

/* A stratum without a spread, of numbers with bounds. */
static void add_even(struct reach *r, const struct stratum *s, double weight, double least, double most)
{
	double mean = mean_of(s->v, s->n), n = (double)s->n;

	if (s->n == 1 && mean > least && mean < most) {
		add_wilson(r, (mean - least) / (most - least), 1, weight * (most - least));
		return;
	}
	struct reach one = { 0, 0 };
	add_wilson(&one, 1, n, weight);
	/* what Wilson's says of a share, of the distance to either end */
	r->below += pow(mean - least, 2) * one.below;
	r->above += pow(most - mean, 2) * one.below;
}

struct interval interval_of(const struct stratum *s, int64_t strata, double least, double most)
{
	struct part *p = mem_zero((size_t)strata + 1, sizeof *p);
	struct cluster *single = mem_zero((size_t)strata + 1, sizeof *single);
	int64_t parts = 0, singles = 0;
	double mean = 0, weight = 1 / (double)strata;
	struct reach r = { 0, 0 };
	bool bounded = most > least, known = true;

	for (int64_t k = 0; k < strata; k++)
		singles += s[k].n == 1;
	bool together = singles > 1; /* strata of one prompt each */
	singles = 0;
	for (int64_t k = 0; k < strata; k++) {
		mean += weight * mean_of(s[k].v, s[k].n);
		if (s[k].n == 1 && together)
			single[singles++] = (struct cluster) { mean_of(s[k].v, 1), 1 };
		else if (bounded && is_even(&s[k]))
			add_even(&r, &s[k], weight, least, most);
		else if (s[k].n == 1)
			known = false;
		else
			p[parts++] = (struct part) { s[k].v, s[k].n, weight };
	}
	struct stratum joint = { single, singles };
	if (singles && bounded && is_even(&joint))
		add_even(&r, &joint, weight * (double)singles, least, most);
	else if (singles)
		p[parts++] = (struct part) { single, singles, weight * (double)singles };
	if (parts)
		draw_again(&r, p, parts);
	free(p);
	free(single);
	struct interval out = { mean - sqrt(r.below), mean + sqrt(r.above) };
	if (bounded)
		out = (struct interval) { fmax(out.low, least), fmin(out.high, most) };
	return known && strata ? out : (struct interval) { NAN, NAN };
}
