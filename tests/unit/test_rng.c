/* base/rng.h: published vectors, moments, and that a number depends on its name alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "base/rng.h"

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
static void test_published_vectors(void **state)
{
	static const struct {
		uint32_t counter[4], key[2], out[4];
	} kat[] = {
		{ { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
		{ { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
		  { 0xffffffff, 0xffffffff },
		  { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
		{ { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
		  { 0xa4093822, 0x299f31d0 },
		  { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
	};
	(void)state;
	for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
		uint32_t out[4];
		philox4x32(kat[i].counter, kat[i].key, out);
		assert_memory_equal(out, kat[i].out, sizeof out);
	}
}

static void test_normals(void **state)
{
	enum { N = 200000 };
	float *x = mem_alloc(N * sizeof *x);
	struct rng r = rng_make(1, RNG_LATENT, 2, 3);
	double m[5] = { 0 };

	(void)state;
	rng_normals(&r, x, N);
	for (int i = 0; i < N; i++) {
		assert_true(isfinite(x[i]));
		for (int k = 1; k < 5; k++)
			m[k] += pow(x[i], k) / N;
	}
	/* Standard errors: 0.0022, 0.0032, 0.0087 and 0.022. */
	assert_true(fabs(m[1]) < 0.01 && fabs(m[2] - 1) < 0.015 && fabs(m[3]) < 0.04 && fabs(m[4] - 3) < 0.1);
	free(x);
}

/* Kolmogorov-Smirnov distance of sorted normals from the normal distribution. */
static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static void test_normals_distribution(void **state)
{
	enum { N = 20000 };
	static float x[N];
	struct rng r = rng_make(77, RNG_EVAL, 0, 0);
	double worst = 0;

	(void)state;
	rng_normals(&r, x, N);
	qsort(x, N, sizeof *x, ascending);
	for (int i = 0; i < N; i++) {
		double p = 0.5 * erfc(-x[i] / sqrt(2));
		worst = fmax(worst, fmax(fabs(p - (double)i / N), fabs(p - (double)(i + 1) / N)));
	}
	assert_true(worst < 1.63 / sqrt(N)); /* the 1 % level */
}

static void test_streams_are_named(void **state)
{
	float a[37], b[37];
	struct rng r = rng_make(5, RNG_LATENT, 9, 11), s = r;

	(void)state;
	rng_normals(&r, a, 37);
	rng_normals(&s, b, 37);
	assert_memory_equal(a, b, sizeof a);
	const struct rng others[] = {
		rng_make(6, RNG_LATENT, 9, 11),          rng_make(5, RNG_DIFFUSE, 9, 11),
		rng_make(5, RNG_LATENT, 10, 11),         rng_make(5, RNG_LATENT, 9, 12),
		rng_make(5ull << 32, RNG_LATENT, 9, 11), rng_make(5, RNG_LATENT, 9ull << 32, 11)
	};
	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		r = others[i];
		rng_normals(&r, b, 37);
		assert_memory_not_equal(a, b, sizeof a);
	}
}

static void test_below_and_shuffle(void **state)
{
	struct rng r = rng_make(1, RNG_SHUFFLE, 0, 0);
	int count[7] = { 0 };
	int64_t v[50], seen[50] = { 0 };

	(void)state;
	for (int i = 0; i < 70000; i++)
		count[rng_below(&r, 7)]++;
	for (int i = 0; i < 7; i++)
		assert_in_range(count[i], 9600, 10400);
	for (int i = 0; i < 50; i++)
		v[i] = i;
	rng_shuffle(&r, v, 50);
	bool moved = false;
	for (int i = 0; i < 50; i++) {
		assert_in_range(v[i], 0, 49);
		seen[v[i]]++;
		moved = moved || v[i] != i;
	}
	for (int i = 0; i < 50; i++)
		assert_int_equal(seen[i], 1);
	assert_true(moved);
	for (int i = 0; i < 1000; i++) {
		double u = rng_uniform(&r);
		assert_true(u >= 0 && u < 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_published_vectors),    cmocka_unit_test(test_normals),
		cmocka_unit_test(test_normals_distribution), cmocka_unit_test(test_streams_are_named),
		cmocka_unit_test(test_below_and_shuffle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
