/* Kernels against float64. at_gelu; and at_sdpa against softmax(scale q k^T + bias) v, values and gradients,
 * inside and outside the sizes that have a kernel of their own. B batch, H heads, I queries, J keys, K width.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "base/rng.h"
#include "tests/unit/handles.h"

static at_t random_tensor(struct at_dims shape, double size, uint64_t sample)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t t = at_empty(shape, AT_F32, AT_CPU);
	struct rng r = rng_make(3, RNG_USER, 0, sample);

	rng_normals(&r, at_f32(t), (size_t)at_numel(t));
	return at_return(s, at_mul(t, size));
}

static double distance(at_t a, at_t b)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x = at_cast(a, AT_F64), y = at_cast(b, AT_F64);
	double d = sqrt(at_sum_squares(at_sub(x, y))), n = sqrt(at_sum_squares(y));

	at_end(s);
	return n > 0 ? d / n : d;
}

struct shape {
	int64_t B, H, I, J, K;
	double scale, size; /* of q and k: large ones make sharp weights */
	bool tokens;        /* (B, S, H, K) in memory, as a projection makes it; else (B, H, S, K) */
	unsigned frozen;    /* bits: q, k, v without a gradient */
};

static at_t operand(const struct shape *c, int64_t S, double size, uint64_t sample)
{
	return c->tokens ? random_tensor(DIMS(c->B, S, c->H, c->K), size, sample)
			 : random_tensor(DIMS(c->B, c->H, S, c->K), size, sample);
}

static at_t weighted(const struct shape *c, const at_t *x)
{
	at_t q = x[0], k = x[1], v = x[2];

	if (c->tokens)
		q = at_transpose(q, 1, 2), k = at_transpose(k, 1, 2), v = at_transpose(v, 1, 2);
	double scale = c->scale != 0 ? c->scale : 1 / sqrt((double)c->K);
	return at_matmul(at_softmax(at_mul(at_matmul(q, at_transpose(k, 2, 3)), scale), -1), v);
}

static void check(const struct shape *c)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	at_t x[3] = { operand(c, c->I, c->size, 1), operand(c, c->J, c->size, 2), operand(c, c->J, 1, 3) };
	at_t x64[3], leaf[3], leaf64[3], grad[3], want[3], part[3], y, y64, g;
	int n = 0;

	for (int i = 0; i < 3; i++) {
		x64[i] = at_cast(x[i], AT_F64);
		if (c->frozen >> i & 1)
			continue;
		at_set_requires_grad(x[i], true);
		at_set_requires_grad(x64[i], true);
		leaf[n] = x[i];
		leaf64[n++] = x64[i];
	}
	for (int i = 0; i < 3; i++)
		part[i] = c->tokens ? at_transpose(x[i], 1, 2) : x[i];
	y = at_sdpa(part[0], part[1], part[2], NULL, false, c->scale);
	y64 = weighted(c, x64);
	assert_true(at_shape_is(y, DIMS(c->B, c->H, c->I, c->K)));
	assert_true(distance(y, y64) < 1e-6 * (1 + c->size));
	if (n) {
		g = random_tensor(DIMS(c->B, c->H, c->I, c->K), 1, 4);
		at_grad(at_sum(at_mul(y, g)), n, leaf, grad);
		at_grad(at_sum(at_mul(y64, at_cast(g, AT_F64))), n, leaf64, want);
		for (int i = 0; i < n; i++)
			assert_true(distance(grad[i], want[i]) < 3e-6 * (1 + c->size));
		at_grad(at_sum(at_sdpa(part[0], part[1], part[2], NULL, false, c->scale)), n, leaf,
			grad); /* strides of 0 */
		at_grad(at_sum(weighted(c, x64)), n, leaf64, want);
		for (int i = 0; i < n; i++)
			assert_true(distance(at_add(grad[i], 1), at_add(want[i], 1)) < 3e-6 * (1 + c->size));
	}
	at_end(s);
}

static void test_shapes(void **state)
{
	static const struct shape cases[] = {
		{ 3, 4, 46, 46, 32, 0, 1, true, 0 },   { 2, 4, 9, 46, 32, 0, 1, true, 0 },
		{ 2, 2, 19, 19, 64, 0, 1, true, 0 },   { 1, 1, 1, 1, 16, 0, 1, false, 0 },
		{ 2, 3, 5, 17, 48, 0.3, 1, false, 0 }, { 2, 2, 64, 64, 64, 0, 1, true, 0 },
		{ 2, 2, 13, 33, 16, 0, 8, true, 0 },   { 2, 2, 65, 20, 32, 0, 1, true, 0 },
		{ 2, 2, 20, 65, 32, 0, 1, false, 0 },  { 2, 2, 7, 7, 8, 0, 1, true, 0 },
		{ 2, 2, 7, 7, 128, 0, 1, true, 0 },    { 2, 2, 7, 7, 32, -0.5, 1, true, 0 },
		{ 2, 2, 12, 18, 32, 0, 1, true, 1 },   { 2, 2, 12, 18, 32, 0, 1, true, 2 },
		{ 2, 2, 12, 18, 32, 0, 1, true, 4 },   { 2, 2, 12, 18, 32, 0, 1, false, 6 },
		{ 2, 2, 12, 18, 32, 0, 1, true, 7 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		check(&cases[i]);
}

/* Scores so far apart that all weight lies on one key. */
static void test_extreme(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t q = at_full(DIMS(1, 1, 5, 16), 100, AT_F32, AT_CPU),
	     k = at_zeros(DIMS(1, 1, 20, 16), AT_F32, AT_CPU);
	at_t v = random_tensor(DIMS(1, 1, 20, 16), 1, 1);

	(void)state;
	at_copy_(at_narrow(k, 2, 11, 1), at_full(DIMS(1, 1, 1, 16), 50, AT_F32, AT_CPU));
	at_t y = at_sdpa(q, k, v, NULL, false, 0),
	     want = at_expand(at_narrow(v, 2, 11, 1), DIMS(1, 1, 5, 16));
	assert_true(at_equal(at_contiguous(y), at_contiguous(want)));
	y = at_sdpa(at_neg(q), k, v, NULL, false, 0); /* and on all but one */
	want = at_mul(at_sub(at_sum_dim(v, 2, true), at_narrow(v, 2, 11, 1)), 1.0 / 19);
	assert_true(distance(y, at_expand(want, DIMS(1, 1, 5, 16))) < 1e-6);
	at_end(s);
}

/* A number that is not one must not disappear: the update's check of the loss relies on it. */
static void test_not_finite(void **state)
{
	static const float bad[] = { NAN, INFINITY, -INFINITY };

	(void)state;
	for (int which = 0; which < 3; which++)
		for (int b = 0; b < 3; b++) {
			struct at_scope *s = at_begin(AT_NO_GRAD);
			at_t x[3];

			for (int i = 0; i < 3; i++)
				x[i] = random_tensor(DIMS(1, 1, 20, 16), 1, (uint64_t)i);
			at_f32(x[which])[17 * 16 + 3] = bad[b];
			at_t y = at_sdpa(x[0], x[1], x[2], NULL, false, 0);
			bool weightless =
			    which == 1 && b > 0; /* a score of -inf is a weight of 0, where no +inf is */
			if (!weightless)
				assert_false(at_finite(y));
			at_end(s);
		}
}

/* Fewer heads of keys and values: each serves a run of neighbouring heads of the queries. */
static void test_few_heads(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t q = random_tensor(DIMS(2, 6, 5, 16), 1, 1), k = random_tensor(DIMS(2, 2, 5, 16), 1, 2),
	     v = random_tensor(DIMS(2, 2, 5, 16), 1, 3), bias = random_tensor(DIMS(2, 1, 5, 5), 1, 4);
	at_t k64 = at_cast(at_repeat_interleave(k, 3, 1), AT_F64),
	     v64 = at_cast(at_repeat_interleave(v, 3, 1), AT_F64);
	at_t score = at_mul(at_matmul(at_cast(q, AT_F64), at_transpose(k64, 2, 3)), 0.25);
	float mask[25];

	(void)state;
	assert_true(distance(at_sdpa(q, k, v, NULL, false, 0), at_matmul(at_softmax(score, -1), v64)) < 1e-6);
	at_t want = at_matmul(at_softmax(at_add(score, at_cast(bias, AT_F64)), -1), v64);
	assert_true(distance(at_sdpa(q, k, v, bias, false, 0), want) < 1e-6);
	for (int i = 0; i < 25; i++)
		mask[i] = i % 5 > i / 5 ? -INFINITY : 0;
	want = at_matmul(at_softmax(at_add(score, at_from(mask, DIMS(5, 5), AT_F32)), -1), v64);
	assert_true(distance(at_sdpa(q, k, v, NULL, true, 0), want) < 1e-6);
	at_end(s);
}

/* With a bias, with a causal mask, in other dtypes: libtorch's. */
static void test_others(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t q = random_tensor(DIMS(2, 2, 6, 16), 1, 1), k = random_tensor(DIMS(2, 2, 6, 16), 1, 2),
	     v = random_tensor(DIMS(2, 2, 6, 16), 1, 3), bias = random_tensor(DIMS(2, 2, 6, 6), 1, 4);
	at_t q64 = at_cast(q, AT_F64), k64 = at_cast(k, AT_F64), v64 = at_cast(v, AT_F64);
	at_t score = at_mul(at_matmul(q64, at_transpose(k64, 2, 3)), 0.25);
	float mask[36];

	(void)state;
	at_t want = at_matmul(at_softmax(at_add(score, at_cast(bias, AT_F64)), -1), v64);
	assert_true(distance(at_sdpa(q, k, v, bias, false, 0), want) < 1e-6);
	for (int i = 0; i < 36; i++)
		mask[i] = i % 6 > i / 6 ? -INFINITY : 0;
	want = at_matmul(at_softmax(at_add(score, at_from(mask, DIMS(6, 6), AT_F32)), -1), v64);
	assert_true(distance(at_sdpa(q, k, v, NULL, true, 0), want) < 1e-6);
	want = at_matmul(at_softmax(score, -1), v64);
	assert_true(distance(at_sdpa(q64, k64, v64, NULL, false, 0), want) < 1e-12);
	at_t half = at_sdpa(at_cast(q, AT_BF16), at_cast(k, AT_BF16), at_cast(v, AT_BF16), NULL, false, 0);
	assert_int_equal(at_dtype_of(half), AT_BF16);
	assert_true(distance(half, want) < 2e-2);
	assert_string_not_equal(at_sdpa_kernel(q64, k64, v64), "short");
	at_t many = random_tensor(DIMS(1, 2, 65, 16), 1, 5); /* one too many for the kernel of ours */
	assert_string_equal(at_sdpa_kernel(many, many, many), "flash");
	assert_string_equal(at_sdpa_kernel(q, k, v), strstr(at_version(), "AVX") ? "short" : "flash");
	at_end(s);
}

/* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, and its derivative, in the form without cancellation. */
static void gelu_formula(double x, double *y, double *slope)
{
	double c = sqrt(2 / acos(-1.0)), u = 2 * c * (x + 0.044715 * x * x * x), share = 1 / (1 + exp(-u));

	*y = x * share;
	*slope = share + x * share / (1 + exp(u)) * 2 * c * (1 + 3 * 0.044715 * x * x);
}

static void test_gelu(void **state)
{
	enum { N = 4001 }; /* not a multiple of the vector's length */
	/* Relative, also where hardly anything is left; the exponent itself is rounded in float32. libtorch's
	   own, which stands in where there is no kernel, leaves rounding errors of 1 there. */
	const bool own = strstr(at_version(), "AVX");
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	at_t x = at_empty(DIMS(N), AT_F32, AT_CPU), y, g;

	(void)state;
	for (int i = 0; i < N; i++)
		at_f32(x)[i] = (float)(i - N / 2) / 160; /* -12.5 to 12.5 */
	at_set_requires_grad(x, true);
	y = at_gelu(x, true);
	at_grad(at_sum(y), 1, &x, &g);
	y = at_detach(y);
	g = at_contiguous(g);
	for (int i = 0; i < N; i++) {
		double value, slope;

		gelu_formula(at_f32(x)[i], &value, &slope);
		assert_true(fabs(at_f32(y)[i] - value) <=
			    1e-6 * (1 + fabs((double)at_f32(x)[i])) * (own ? fabs(value) : 1) + 1e-30);
		assert_true(fabs(at_f32(g)[i] - slope) <= 1e-5 * fabs(slope) + 1e-6);
	}
	at_end(s);
	for (int64_t n = 0; n < 40; n++) { /* every length of the rest, and nothing behind it */
		s = at_begin(AT_NO_GRAD);
		x = random_tensor(DIMS(n), 1, 5);
		at_t x64 = at_cast(x, AT_F64);
		assert_true(distance(at_gelu(x, true), at_gelu(x64, true)) < 1e-6);
		assert_true(distance(at_gelu(x, false), at_gelu(x64, false)) < 1e-6);
		at_end(s);
	}
	s = at_begin(AT_NO_GRAD);
	x = random_tensor(DIMS(6, 10), 1, 6);
	assert_true(distance(at_gelu(at_transpose(x, 0, 1), true), at_transpose(at_gelu(x, true), 0, 1)) <
		    1e-6);
	at_f32(x)[59] = NAN;
	assert_false(at_finite(at_gelu(x, true)));
	at_f32(x)[59] = INFINITY;
	assert_true(at_item(at_max(at_gelu(x, true))) == INFINITY);
	at_end(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, count_handles, no_handle_left)

int main(void)
{
	const struct CMUnitTest tests[] = { T(test_gelu),       T(test_shapes),    T(test_extreme),
					    T(test_not_finite), T(test_few_heads), T(test_others) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
