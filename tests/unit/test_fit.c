/* trainer/fit.h: the largest size that fits, on lines, steps and noise of which the answer is known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "base/rng.h"
#include "trainer/fit.h"

#define CASES 2000

/* What a size takes: constant + slope * n, up to a multiple of `block`, times 1 +- noise. */
struct world {
	double constant, slope, block, noise;
	uint64_t seed;
	double largest; /* of all runs */
	int runs;
};

static double takes(const struct world *w, int64_t n)
{
	struct rng r = rng_make(w->seed, RNG_USER, 1, (uint64_t)n);
	double v = w->constant + w->slope * (double)n;

	v = w->block > 0 ? ceil(v / w->block) * w->block : v;
	return v * (1 + w->noise * (2 * rng_uniform(&r) - 1));
}

static double run(void *ctx, int64_t n)
{
	struct world *w = ctx;
	double v = takes(w, n);

	w->runs++;
	w->largest = fmax(w->largest, v);
	return v;
}

static struct world draw(struct rng *r, uint64_t seed)
{
	return (struct world) { .constant = (double)rng_below(r, 1000),
				.slope = 1 + (double)rng_below(r, 300),
				.seed = seed };
}

/* A line whose constant is known: the answer is a division, and no run takes more than the limit. */
static void test_lines(void **state)
{
	struct rng r = rng_make(1, RNG_USER, 0, 0);

	(void)state;
	for (int i = 0; i < CASES; i++) {
		struct world w = draw(&r, 0);
		int64_t most = 1 + rng_below(&r, 500), before = 0;
		for (double limit = w.constant; limit < w.constant + 400 * w.slope;
		     limit += 37 * w.slope / 3) {
			struct fit_work f = { run, &w, w.constant, 0, limit, most };
			int64_t want = (int64_t)floor((limit - w.constant) / w.slope), n;
			double bytes;

			want = want > most ? most : want;
			w.largest = 0;
			w.runs = 0;
			n = fit_search(&f, &bytes);
			assert_int_equal(n, want);
			assert_true(n >= before); /* more room never makes it smaller */
			before = n;
			if (n) {
				assert_true(bytes == takes(&w, n));
				assert_true(w.largest <= limit);
			}
			assert_true(w.runs <= 7); /* 1, 2, 8, 32, 128, 500 */
		}
	}
}

/* The constant is not known: it is taken for a part of the slope until a second run tells them apart. */
static void test_unknown_constant(void **state)
{
	struct rng r = rng_make(2, RNG_USER, 0, 0);

	(void)state;
	for (int i = 0; i < CASES; i++) {
		struct world w = draw(&r, 0);
		double limit = 2 * (w.constant + w.slope) + (double)rng_below(&r, 50000), bytes;
		struct fit_work f = { run, &w, 0, 0, limit, 1000000 };

		assert_int_equal(fit_search(&f, &bytes), (int64_t)floor((limit - w.constant) / w.slope));
		assert_true(w.largest <= limit);
	}
}

/* Allocators round, and what is measured scatters: the answer ran within the limit, the tries little beyond.
 */
static void test_noise(void **state)
{
	struct rng r = rng_make(3, RNG_USER, 0, 0);

	(void)state;
	for (uint64_t i = 0; i < CASES; i++) {
		struct world w = draw(&r, i);
		double limit = (w.constant + w.slope) * (0.5 + 100 * rng_uniform(&r)), bytes;
		struct fit_work f = { run, &w, 0, 0, limit, 100000 };

		w.constant = fmin(w.constant, 4 * w.slope);
		w.noise = 0.02 * rng_uniform(&r);
		w.block = i % 2 ? 64 : 0;
		int64_t n = fit_search(&f, &bytes);
		if (!n) {
			assert_true(takes(&w, 1) > limit);
			continue;
		}
		assert_true(bytes == takes(&w, n) && bytes <= limit);
		assert_true(w.largest <= 1.3 * limit || w.runs == 1);
		/* and it is no needlessly small one: half as much again would not fit */
		if (2 * takes(&w, 1) <= limit)
			assert_true(takes(&w, n + n / 2 + 1) * (1 + 2 * w.noise) + w.block > limit);
	}
}

/* Work that bends upwards, which no line foresees: still within the limit. */
static double bends(void *ctx, int64_t n)
{
	struct world *w = ctx;
	double v = w->constant + w->slope * pow((double)n, 1.7);

	w->largest = fmax(w->largest, v);
	return v;
}

static void test_bent(void **state)
{
	struct rng r = rng_make(4, RNG_USER, 0, 0);

	(void)state;
	for (int i = 0; i < CASES; i++) {
		struct world w = draw(&r, 0);
		double limit = (w.constant + w.slope) * (1 + 500 * rng_uniform(&r)), bytes;
		struct fit_work f = { bends, &w, 0, 0, limit, 100000 };
		int64_t n = fit_search(&f, &bytes);

		assert_true(n >= 1);
		assert_true(w.constant + w.slope * pow((double)n, 1.7) <= limit);
	}
}

/* The first sizes take little and the later ones ten times as much: who knows it says so, and no run goes
 * over the limit; without it, one does, and the answer is the same. */
static double kinked(void *ctx, int64_t n)
{
	struct world *w = ctx;
	double v = 100 + (double)n + (n > 6 ? 9 * (double)(n - 6) : 0);

	w->largest = fmax(w->largest, v);
	return v;
}

static void test_given_slope(void **state)
{
	int over[2] = { 0, 0 };

	(void)state;
	for (int given = 0; given < 2; given++)
		for (double limit = 108; limit < 400; limit++) {
			struct world w = { 0 };
			struct fit_work f = { kinked, &w, 100, given ? 10 : 0, limit, 60 };
			double bytes;

			assert_true(fit_search(&f, &bytes) >= 1);
			assert_true(bytes <= limit && limit - bytes < 10);
			over[given] += w.largest > limit;
		}
	assert_int_equal(over[1], 0);
	assert_true(over[0] > 0);
}

/* Where not even one fits, what it takes is told. */
static void test_none(void **state)
{
	struct world w = { .constant = 90, .slope = 10 };
	struct fit_work f = { run, &w, 0, 0, 99, 60 };
	double bytes;

	(void)state;
	assert_int_equal(fit_search(&f, &bytes), 0);
	assert_true(bytes == 100);
	assert_int_equal(w.runs, 1);
}

static void test_even(void **state)
{
	(void)state;
	for (int64_t n = 1; n < 200; n++)
		for (int64_t most = 1; most < 220; most++) {
			int64_t even = fit_even(n, most), batches = (n + most - 1) / most;

			assert_true(even <= most && even <= n);
			assert_int_equal((n + even - 1) / even, batches);                /* no more of them */
			assert_true(even == 1 || (n + even - 2) / (even - 1) > batches); /* none smaller */
		}
}

static void test_memory(void **state)
{
	static const struct {
		const char *text;
		double share, bytes;
	} right[] = { { "0.9", 0.9, 0 },
		      { "1", 1, 0 },
		      { "1e-3", 1e-3, 0 },
		      { "600MiB", 0, 629145600 },
		      { "2.5GiB", 0, 2684354560.0 },
		      { "4KiB", 0, 4096 } };
	static const char *const wrong[] = { "",     "0",      "-1",     "1.5", "2",     "GiB",
					     "0GiB", "-2GiB",  "2 GiB",  "2GB", "2GiBs", "nan",
					     "inf",  "infGiB", "0x1GiB", "90%" };
	struct err e;
	double share, bytes;

	(void)state;
	for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
		assert_int_equal(fit_parse_memory(&share, &bytes, right[i].text, &e), 0);
		assert_true(share == right[i].share && bytes == right[i].bytes);
	}
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_int_equal(fit_parse_memory(&share, &bytes, wrong[i], &e), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),       cmocka_unit_test(test_unknown_constant),
		cmocka_unit_test(test_noise),       cmocka_unit_test(test_bent),
		cmocka_unit_test(test_given_slope), cmocka_unit_test(test_none),
		cmocka_unit_test(test_even),        cmocka_unit_test(test_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
