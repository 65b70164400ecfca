/* trainer/evaluation/interval.h: how often an interval has the truth in it, and what it says at the ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include "base/rng.h"
#include "trainer/evaluation/interval.h"

#define TAGS 6

static double normal_share(double x)
{
	return erfc(-x / sqrt(2)) / 2;
}

/* The quantile of p, by bisection. */
static double normal_quantile(double p)
{
	double low = -9, high = 9;

	for (int i = 0; i < 80; i++)
		*(normal_share((low + high) / 2) < p ? &low : &high) = (low + high) / 2;
	return low;
}

/*
 * 1,000 sets of verdicts of six tags whose shares of right images are known: `prompts` prompts each, `images`
 * images of a prompt.  An image is right where a normal number is below the share's quantile, and those of a
 * prompt share a part of it whose weight makes verdicts of one prompt correlate by `correlation`.  Returns
 * how many of the intervals hold the mean of the shares.
 */
static int covered(int prompts, int images, double shared)
{
	static const double share[TAGS] = { 0.92, 0.7, 0.3, 0.8, 0.45, 0.6 };
	double truth = 0;
	int good = 0;

	for (int t = 0; t < TAGS; t++)
		truth += share[t] / TAGS;
	for (int round = 0; round < 1000; round++) {
		struct cluster c[TAGS][64];
		struct stratum s[TAGS];
		struct rng r = rng_make(7, RNG_EVAL, (uint64_t)round, 0);

		for (int t = 0; t < TAGS; t++) {
			double at = normal_quantile(share[t]);

			s[t] = (struct stratum) { c[t], prompts };
			for (int p = 0; p < prompts; p++) {
				double common = sqrt(shared) * rng_normal(&r);

				c[t][p] = (struct cluster) { 0, images };
				for (int i = 0; i < images; i++)
					c[t][p].sum += common + sqrt(1 - shared) * rng_normal(&r) < at;
			}
		}
		struct interval in = interval_of(s, TAGS, 0, 1);
		good += in.low <= truth && truth <= in.high;
	}
	return good;
}

/* Verdicts of a prompt that are independent, and such that correlate by 0.3: normal numbers that share 0.46
 * of their variance do (at shares around one half: (2 / pi) asin(0.46) = 0.30). */
static void coverage(void **state)
{
	(void)state;
	for (int correlated = 0; correlated < 2; correlated++) {
		int few = covered(8, 4, correlated ? 0.46 : 0), many = covered(24, 4, correlated ? 0.46 : 0);

		print_message("correlation %.1f: %d of 1000 with 8 prompts a tag, %d with 24\n",
			      correlated ? 0.3 : 0.0, few, many);
		assert_in_range(few, 930, 970);
		assert_in_range(many, 930, 970);
	}
}

static void near(double a, double b, double within)
{
	if (!(fabs(a - b) <= within) && !(isnan(a) && isnan(b)))
		fail_msg("%.17g is not %.17g", a, b);
}

/* Wilson's interval of k right of n: the roots of (p - k/n)^2 = z^2 p (1 - p) / n. */
static void at_the_ends(void **state)
{
	static const double z2 = 1.959963984540054 * 1.959963984540054;
	struct cluster all[24], none[24], one = { 3, 4 }, two[2] = { { 1, 4 }, { 3, 4 } };
	struct stratum s[2] = { { all, 24 }, { none, 24 } };
	struct interval in;

	(void)state;
	for (int i = 0; i < 24; i++) {
		all[i] = (struct cluster) { i + 1, i + 1 };
		none[i] = (struct cluster) { 0, 4 };
	}
	in = interval_of(s, 1, 0, 1);
	near(in.low, 24 / (24 + z2), 1e-12);
	near(in.high, 1, 0);
	in = interval_of(s + 1, 1, 0, 1);
	near(in.low, 0, 0);
	near(in.high, z2 / (24 + z2), 1e-12);
	/* one tag at each end: half of each one's way */
	in = interval_of(s, 2, 0, 1);
	near(in.low, 0.5 - z2 / (24 + z2) / 2, 1e-12);
	near(in.high, 0.5 + z2 / (24 + z2) / 2, 1e-12);
	/* no pair differs: by as much to either side */
	in = interval_of(s + 1, 1, -1, 1);
	near(in.low, -z2 / (24 + z2), 1e-12);
	near(in.high, z2 / (24 + z2), 1e-12);
	/* a number without bounds that never varies */
	in = interval_of(s, 1, 0, 0);
	near(in.low, 1, 0);
	near(in.high, 1, 0);
	/* one prompt says next to nothing of others; without bounds, nothing */
	s[0] = (struct stratum) { &one, 1 };
	in = interval_of(s, 1, 0, 1);
	assert_true(in.low >= 0 && in.low < 0.2 && in.high > 0.9 && in.high <= 1);
	assert_true(isnan(interval_of(s, 1, 0, 0).low));
	/* tags of one prompt each are as the prompts of one tag */
	struct stratum apart[2] = { { two, 1 }, { two + 1, 1 } }, joint = { two, 2 };
	struct interval x = interval_of(apart, 2, 0, 1), y = interval_of(&joint, 1, 0, 1);
	near(x.low, y.low, 1e-12);
	near(x.high, y.high, 1e-12);
}

/* Of numbers without bounds, by the textbook: mean +- t sd / sqrt(n) of the prompts' means. */
static void plain_numbers(void **state)
{
	struct cluster c[40];
	struct stratum s = { c, 40 };
	struct rng r = rng_make(1, RNG_EVAL, 0, 0);
	double sum = 0, squares = 0;

	(void)state;
	for (int i = 0; i < 40; i++) {
		double v = 20 + 3 * rng_normal(&r);

		c[i] = (struct cluster) { 2 * v, 2 };
		sum += v / 40;
		squares += v * v / 40;
	}
	double half = 2.0227 * sqrt((squares - sum * sum) * 40 / 39 / 40);
	struct interval in = interval_of(&s, 1, 0, 0);
	near(in.low, sum - half, 0.1 * half);
	near(in.high, sum + half, 0.1 * half);
	struct interval again = interval_of(&s, 1, 0, 0);
	near(in.low, again.low, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(coverage),
		cmocka_unit_test(at_the_ends),
		cmocka_unit_test(plain_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
