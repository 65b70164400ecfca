/* aten/at.h: who owns what, what a failed op says, and the fused ops against their formulas in float64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include "base/err.h"
#include "base/machine/one_thread.h"
#include "base/rng.h"
#include "tests/unit/handles.h"

static at_t random_tensor(struct at_dims shape, uint64_t sample)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t t = at_empty(shape, AT_F32, AT_CPU);
	struct rng r = rng_make(1, RNG_USER, 0, sample);

	rng_normals(&r, at_f32(t), (size_t)at_numel(t));
	return at_return(s, t);
}

static double distance(at_t a, at_t b)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x = at_cast(a, AT_F64), y = at_cast(b, AT_F64);
	double d = sqrt(at_sum_squares(at_sub(x, y))), n = sqrt(at_sum_squares(y));

	at_end(s);
	return n > 0 ? d / n : d;
}

static at_t twice(at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t middle = at_add(x, x);
	return at_return(s, middle);
}

static void test_scopes(void **state)
{
	struct at_scope *outer = at_begin(AT_NO_GRAD);
	at_t x = at_full(DIMS(2), 3, AT_F32, AT_CPU), y = twice(x), kept, loop = x;
	int64_t live = at_live();

	(void)state;
	assert_true(at_item(at_sum(y)) == 12);
	kept = at_keep(y);
	for (int i = 0; i < 5; i++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		at_t unused = at_mul(loop, 100);
		(void)unused;
		at_replace(s, &loop, at_add(loop, 1));
		at_end(s);
	}
	assert_true(at_item(at_max(loop)) == 8);
	assert_true(at_live() <= live + 4); /* loop-carried values do not pile up */
	at_end(outer);
	outer = at_begin(AT_NO_GRAD);
	assert_true(at_item(at_max(kept)) == 6);
	at_set(&kept, at_add(kept, 1));
	assert_true(at_item(at_max(kept)) == 7);
	at_set(&kept, kept); /* itself */
	assert_true(at_item(at_max(kept)) == 7);
	at_set(&kept, NULL);
	assert_null(kept);
	at_end(outer);
}

static void test_grad_modes(void **state)
{
	struct at_scope *a = at_begin(AT_NO_GRAD);

	(void)state;
	assert_false(at_grad_enabled());
	struct at_scope *b = at_begin(AT_WITH_GRAD);
	assert_true(at_grad_enabled());
	struct at_scope *c = at_begin(AT_GRAD_AS_IS);
	assert_true(at_grad_enabled());
	at_end(c);
	at_end(b);
	assert_false(at_grad_enabled());
	at_end(a);
}

static jmp_buf caught;
static char said[8192];

static void catch_panic(const char *message)
{
	strncpy(said, message, sizeof said - 1);
	longjmp(caught, 1);
}

static void test_panic(void **state)
{
	at_panic_fn *before = at_set_panic(catch_panic);

	(void)state;
	at_panic_context("rank %d, step %d", 3, 17);
	if (!setjmp(caught)) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		at_t a = at_zeros(DIMS(2, 3), AT_F32, AT_CPU), b = at_full(DIMS(4, 5), 1, AT_F32, AT_CPU);
		at_matmul(a, b);
		at_end(s);
		fail_msg("no panic");
	}
	static const char *const parts[] = { "at_matmul",
					     "float32[2, 3] from at_zeros",
					     "float32[4, 5] from at_full",
					     "test_panic",
					     "test_at.c",
					     "rank 3, step 17" };
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		if (!strstr(said, parts[i]))
			fail_msg("'%s' lacks '%s'", said, parts[i]);
	assert_null(strstr(said, "c10::")); /* no C++ backtrace */
	at_unwind();
	if (!setjmp(caught)) {
		at_zeros(DIMS(1), AT_F32, AT_CPU);
		fail_msg("no panic");
	}
	assert_non_null(strstr(said, "no scope is open"));
	if (!setjmp(caught)) {
		struct at_scope *s = at_begin(AT_NO_GRAD), *inner = at_begin(AT_NO_GRAD);
		(void)inner;
		at_end(s);
		fail_msg("no panic");
	}
	assert_non_null(strstr(said, "innermost"));
	at_unwind();
	if (!setjmp(caught)) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		at_f32(at_zeros(DIMS(2), AT_F64, AT_CPU));
		at_end(s);
		fail_msg("no panic");
	}
	assert_non_null(strstr(said, "not float32"));
	at_unwind();
	at_panic_context("%s", "");
	at_set_panic(before);
}

/* d/dx of sum(x^2 * w) is 2 x w; a leaf that is not reached gets NULL. */
static void test_grad(void **state)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	const float xs[3] = { 1, 2, -3 }, ws[3] = { 4, 5, 6 };
	at_t x = at_from(xs, DIMS(3), AT_F32), w = at_from(ws, DIMS(3), AT_F32),
	     z = at_from(ws, DIMS(3), AT_F32);
	at_t leaf[3] = { x, w, z }, grad[3];

	(void)state;
	for (int i = 0; i < 3; i++)
		at_set_requires_grad(leaf[i], true);
	at_grad(at_sum(at_mul(at_square(x), w)), 3, leaf, grad);
	for (int i = 0; i < 3; i++) {
		assert_true(at_f32(grad[0])[i] == 2 * xs[i] * ws[i]);
		assert_true(at_f32(grad[1])[i] == xs[i] * xs[i]);
	}
	assert_null(grad[2]);
	at_end(s);
}

static int runs;

static void block(void *ctx, const at_t *in, at_t *out)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	runs++;
	at_t h = at_gelu(at_linear(in[0], in[1], NULL), true);
	out[0] = at_escape(s, at_mul(at_linear(h, in[2], NULL), *(double *)ctx));
	out[1] = at_escape(s, at_sum_dim(h, 1, false));
	at_end(s);
}

static void test_checkpoint(void **state)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	at_t leaf[3] = { random_tensor(DIMS(4, 3), 1), random_tensor(DIMS(5, 3), 2),
			 random_tensor(DIMS(2, 5), 3) };
	at_t plain[3], again[3], out[2];
	double scale = 1.5;

	(void)state;
	at_set_requires_grad(leaf[0], true);
	at_set_requires_grad(leaf[2], true); /* leaf[1] stays frozen */
	at_t wanted[2] = { leaf[0], leaf[2] };
	block(&scale, leaf, out);
	at_grad(at_add(at_sum(at_square(out[0])), at_sum(out[1])), 2, wanted, plain);
	runs = 0;
	at_checkpoint(block, &scale, sizeof scale, 3, leaf, 2, out);
	scale = 0; /* it was copied */
	assert_int_equal(runs, 1);
	at_grad(at_add(at_sum(at_square(out[0])), at_sum(out[1])), 2, wanted, again);
	assert_int_equal(runs, 2);
	assert_true(at_equal(plain[0], again[0]));
	assert_true(at_equal(plain[1], again[1]));
	at_end(s);
}

static void test_ops(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	const float f[6] = { 1, 2, 3, 4, 5, 6 };
	at_t x = at_from(f, DIMS(2, 3), AT_F32), part[3];

	(void)state;
	assert_true(at_item(at_sum(x)) == 21 && at_item(at_max(x)) == 6 && at_sum_squares(x) == 91);
	assert_true(at_dims_equal(at_shape(x), DIMS(2, 3)) && !at_dims_equal(at_shape(x), DIMS(2, 4)));
	assert_true(!at_dims_equal(at_shape(x), DIMS(2, 3, 1)) && !at_dims_equal(DIMS(2, 3, 1), at_shape(x)));
	assert_true(at_shape_is(at_mean_keep_batch(at_reshape(x, DIMS(2, 1, 3))), DIMS(2, 1, 1)));
	assert_true(at_item(at_select(at_mean_dim(x, 1, false), 0, 1)) == 5);
	at_chunk(3, part, x, 1);
	assert_true(at_item(at_sum(part[2])) == 9);
	assert_true(at_item(at_sum(at_matmul(x, at_transpose(x, 0, 1)))) == 14 + 32 + 32 + 77);
	assert_true(at_item(at_select(at_select(at_lerp(x, at_mul(x, 3), 0.5), 0, 0), 0, 0)) == 2);
	at_t q = random_tensor(DIMS(2, 3, 5, 8), 1), k = random_tensor(DIMS(2, 3, 7, 8), 2),
	     v = random_tensor(DIMS(2, 3, 7, 8), 3);
	at_t q64 = at_cast(q, AT_F64), k64 = at_cast(k, AT_F64), v64 = at_cast(v, AT_F64);
	at_t want = at_matmul(at_softmax(at_div(at_matmul(q64, at_transpose(k64, 2, 3)), sqrt(8)), -1), v64);
	assert_true(distance(at_sdpa(q, k, v, NULL, false, 0), want) < 1e-6);
	assert_true(at_finite(x));
	assert_false(at_finite(at_log(at_neg(x))));
	assert_true(at_equal(at_log(at_neg(x)), at_log(at_neg(x)))); /* by bits */
	at_end(s);
}

/* Of views from one op, the gradients lie side by side where the views did; one that nobody reads gets zeros.
 */
static void test_views(void **state)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	at_t x = random_tensor(DIMS(3, 4, 5), 1), a[4], b[3], grad;
	at_t g = random_tensor(DIMS(3, 4, 5), 2);

	(void)state;
	at_set_requires_grad(x, true);
	at_unbind(4, a, x, 1);
	for (int i = 0; i < 4; i++)
		assert_true(at_equal(at_detach(a[i]), at_detach(at_select(x, 1, i))));
	at_t loss =
	    at_add(at_sum(at_mul(a[0], at_select(g, 1, 0))), at_sum(at_mul(a[3], at_select(g, 1, 3))));
	at_grad(loss, 1, &x, &grad);
	assert_true(at_equal(at_select(grad, 1, 0), at_contiguous(at_select(g, 1, 0))));
	assert_true(at_equal(at_select(grad, 1, 3), at_contiguous(at_select(g, 1, 3))));
	assert_true(at_sum_squares(at_narrow(grad, 1, 1, 2)) == 0);
	at_split(3, b, (int64_t[]) { 1, 3, 1 }, x, 2);
	assert_true(at_shape_is(b[1], DIMS(3, 4, 3)));
	assert_true(at_equal(at_detach(b[1]), at_detach(at_narrow(x, 2, 1, 3))));
	at_grad(at_sum(at_mul(b[1], at_narrow(g, 2, 1, 3))), 1, &x, &grad);
	assert_true(at_equal(at_contiguous(at_narrow(grad, 2, 1, 3)), at_contiguous(at_narrow(g, 2, 1, 3))));
	assert_true(at_sum_squares(at_select(grad, 2, 0)) == 0 && at_sum_squares(at_select(grad, 2, 4)) == 0);
	at_end(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, count_handles, no_handle_left)

/* "auto" is what was said last, for everybody who asks later. */
static void test_devices(void **state)
{
	enum at_device dev = AT_CUDA;
	struct err e;

	(void)state;
	assert_int_equal(at_device_parse(&dev, "auto", &e), 0);
	assert_int_equal(dev, at_cuda_devices() ? AT_CUDA : AT_CPU);
	at_device_set_auto(AT_CUDA);
	assert_int_equal(at_device_parse(&dev, "auto", &e), 0);
	assert_int_equal(dev, AT_CUDA);
	assert_int_equal(at_device_parse(&dev, "cpu", &e), 0);
	assert_int_equal(dev, AT_CPU);
	at_device_set_auto(AT_CPU);
	assert_int_equal(at_device_parse(&dev, "auto", &e), 0);
	assert_int_equal(dev, AT_CPU);
	assert_int_equal(at_device_parse(&dev, "tpu", &e), -1);
	assert_string_equal(e.msg, "device 'tpu': auto, cpu or cuda");
	assert_string_equal(at_device_name(AT_CUDA), "cuda");
	assert_string_equal(at_device_name(AT_CPU), "cpu");
	for (int i = 0; at_weight_dtypes[i]; i++) {
		enum at_dtype dt;

		assert_int_equal(at_dtype_parse(&dt, at_weight_dtypes[i], &e), 0);
		assert_string_equal(at_dtype_name(dt), at_weight_dtypes[i]);
	}
}

/* ---- one thread ---- */

typedef void parallel(void (*f)(void *), void *ctx, unsigned threads, unsigned flags);

static parallel *region;
static atomic_int region_threads;

static void in_region(void *ctx)
{
	(void)ctx;
	atomic_fetch_add(&region_threads, 1);
}

static int count_threads(void)
{
	region_threads = 0;
	region(in_region, NULL, 4, 0);
	return region_threads;
}

static void count_alone(void *ctx)
{
	*(int *)ctx = count_threads();
}

static void *count_elsewhere(void *ctx)
{
	*(int *)ctx = count_threads();
	return NULL;
}

/* With another thread's region in its middle: that has all of its threads. */
static void count_both(void *ctx)
{
	int *n = ctx;
	pthread_t other;

	n[0] = count_threads();
	pthread_create(&other, NULL, count_elsewhere, &n[1]);
	pthread_join(other, NULL);
}

static void test_one_thread(void **state)
{
	void *found = dlsym(RTLD_DEFAULT, "GOMP_parallel");
	int n[2] = { 0 };

	(void)state;
	if (!found)
		skip(); /* another runtime than GCC's */
	memcpy(&region, &found, sizeof region);
	assert_int_equal(count_threads(), 4);
	one_thread(count_alone, n);
	assert_int_equal(n[0], 1);
	one_thread(count_both, n);
	assert_int_equal(n[0], 1);
	assert_int_equal(n[1], 4);
	assert_int_equal(count_threads(), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = { T(test_scopes), T(test_grad_modes), T(test_panic),
					    T(test_grad),   T(test_checkpoint), T(test_ops),
					    T(test_views),  T(test_devices),    T(test_one_thread) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
