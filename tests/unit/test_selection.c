/* Which images of those drawn are trained, against a search over all of them. */
#include "algorithms/selection.h"
#include "base/rng.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <cmocka.h>

enum { MOST = 12 };

/* The image that comes next from one end, of those not taken; -1: none has a score. */
static int next(const double *total, const bool *taken, int n, double sign)
{
	int found = -1;

	for (int i = 0; i < n; i++)
		if (!taken[i] && !isnan(total[i]) && (found < 0 || sign * total[i] > sign * total[found]))
			found = i;
	return found;
}

static void oracle(const double *total, int n, int keep, bool *taken)
{
	int left = keep;

	for (int i = 0; i < n; i++)
		taken[i] = false;
	for (int k = 0; k < (keep + 1) / 2 && left; k++) {
		int i = next(total, taken, n, 1);
		if (i >= 0) {
			taken[i] = true;
			left--;
		}
	}
	for (int i; left && (i = next(total, taken, n, -1)) >= 0; left--)
		taken[i] = true;
	for (int i = 0; i < n && left; i++)
		if (!taken[i]) {
			taken[i] = true;
			left--;
		}
}

static void test_any(void **state)
{
	struct rng r = rng_make(1, RNG_USER, 0, 0);

	(void)state;
	for (int round = 0; round < 5000; round++) {
		double total[MOST];
		int64_t out[MOST];
		bool taken[MOST];
		int n = 1 + (int)rng_below(&r, MOST), keep = 1 + (int)rng_below(&r, (uint32_t)n), k = 0;
		uint32_t values = 1 + rng_below(&r, 5),
			 lacking = rng_below(&r, 4); /* many ties, some without */

		for (int i = 0; i < n; i++)
			total[i] = rng_below(&r, 10) < lacking ? NAN : (double)rng_below(&r, values) - 1;
		selection_best_worst(total, n, keep, out);
		oracle(total, n, keep, taken);
		for (int i = 0; i < n; i++)
			if (taken[i])
				assert_int_equal(out[k++], i);
		assert_int_equal(k, keep);
	}
}

static void test_half_and_half(void **state)
{
	const double total[] = { 0, 1, 0, 0, 1, 1, 0, 1 };
	int64_t out[4];

	(void)state;
	selection_best_worst(total, 8, 4, out);
	const int64_t want[] = { 0, 1, 2, 4 };
	assert_memory_equal(out, want, sizeof out);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_any),
					    cmocka_unit_test(test_half_and_half) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
