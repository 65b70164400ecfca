/* What aten/at.h refuses, and what stays true when it does: misuse of handles, borrowed memory, panics inside
 * callbacks, threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "aten/at.h"
#include "base/rng.h"

static jmp_buf caught;
static char said[8192];
static int64_t live_before;

static void catch_panic(const char *message)
{
	strncpy(said, message, sizeof said - 1);
	longjmp(caught, 1);
}

static int begin(void **state)
{
	(void)state;
	live_before = at_live();
	at_set_panic(catch_panic);
	return 0;
}

static int end(void **state)
{
	(void)state;
	at_set_panic(NULL);
	return at_live() == live_before && at_grad_enabled() ? 0 : -1;
}

/* Runs f, which must panic with a message that has each of the parts; then closes every scope. */
static void expect_panic(void (*f)(void *), void *arg, const char *const *parts)
{
	const char *const *volatile part = parts;

	said[0] = '\0';
	if (!setjmp(caught)) {
		f(arg);
		fail_msg("no panic where '%s' was expected", part[0]);
	}
	at_unwind();
	for (; *part; part++)
		if (!strstr(said, *part))
			fail_msg("'%s' lacks '%s'", said, *part);
}
#define PANICS(f, arg, ...) expect_panic(f, arg, (const char *const[]) { __VA_ARGS__, NULL })

static at_t random_tensor(struct at_dims shape, uint64_t sample)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t t = at_empty(shape, AT_F32, AT_CPU);
	struct rng r = rng_make(2, RNG_USER, 0, sample);

	rng_normals(&r, at_f32(t), (size_t)at_numel(t));
	return at_return(s, t);
}

/* ---- Misuse ---- */

static void free_scoped(void *arg)
{
	(void)arg;
	at_begin(AT_NO_GRAD);
	at_free(at_zeros(DIMS(2), AT_F32, AT_CPU));
}

static void escape_outermost(void *arg)
{
	(void)arg;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_escape(s, at_zeros(DIMS(2), AT_F32, AT_CPU));
}

static void add_null(void *arg)
{
	(void)arg;
	at_begin(AT_NO_GRAD);
	at_add_tt(at_zeros(DIMS(2), AT_F32, AT_CPU), NULL);
}

static void cat_shapes(void *arg)
{
	(void)arg;
	at_begin(AT_NO_GRAD);
	at_t x[3] = { at_zeros(DIMS(2, 2), AT_F32, AT_CPU), at_zeros(DIMS(2, 2), AT_F64, AT_CPU),
		      at_full(DIMS(2, 5), 1, AT_F32, AT_CPU) };
	at_cat(3, x, 0);
}

static void linear_bias(void *arg)
{
	(void)arg;
	at_begin(AT_NO_GRAD);
	at_linear(at_zeros(DIMS(2, 3), AT_F32, AT_CPU), at_zeros(DIMS(4, 3), AT_F32, AT_CPU),
		  at_zeros(DIMS(7), AT_F32, AT_CPU));
}

static void rms_weight(void *arg)
{
	(void)arg;
	at_begin(AT_NO_GRAD);
	at_rms_norm(at_zeros(DIMS(2, 8), AT_F32, AT_CPU), at_zeros(DIMS(4), AT_F32, AT_CPU), 1e-6);
}

static void adamw_shapes(void *arg)
{
	(void)arg;
	at_begin(AT_NO_GRAD);
	at_t a = at_zeros(DIMS(8), AT_F32, AT_CPU), b = at_zeros(DIMS(4), AT_F32, AT_CPU);
	at_adamw_(a, b, a, a, 1e-3, 0.9, 0.999, 1e-8, 0, 1);
}

static void no_threads(void *arg)
{
	(void)arg;
	at_begin(AT_NO_GRAD);
	at_set_threads(0);
}

static void test_misuse(void **state)
{
	(void)state;
	PANICS(free_scoped, NULL, "at_free", "a scope owns this tensor", "float32[2] from at_zeros",
	       "free_scoped");
	PANICS(escape_outermost, NULL, "at_escape", "no scope outside");
	PANICS(add_null, NULL, "at_add", "NULL operand", "operand float32[2] from at_zeros", "operand NULL");
	PANICS(cat_shapes, NULL, "at_cat", "float64[2, 2]", "float32[2, 5] from at_full");
	PANICS(linear_bias, NULL, "at_linear", "operand float32[7] from at_zeros");
	PANICS(rms_weight, NULL, "at_rms_norm", "one value for each", "float32[4]");
	PANICS(adamw_shapes, NULL, "at_adamw_", "differ in shape");
	PANICS(no_threads, NULL, "at_set_threads");
}

static void test_drop(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD), *inner;
	at_t a = at_zeros(DIMS(2), AT_F32, AT_CPU), b = at_zeros(DIMS(2), AT_F32, AT_CPU), foreign = a;
	int64_t live = at_live();

	(void)state;
	at_drop(b);
	at_drop(NULL);
	at_free(NULL);
	assert_int_equal(at_live(), live - 1);
	inner = at_begin(AT_NO_GRAD);
	assert_ptr_equal(at_escape(inner, foreign), a); /* not the inner scope's: passes through */
	at_end(inner);
	assert_true(at_item(at_sum(a)) == 0);
	at_end(s);
}

static void test_describe(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);

	(void)state;
	assert_string_equal(at_describe(at_zeros(DIMS(2, 3), AT_BF16, AT_CPU)),
			    "bfloat16[2, 3] from at_zeros");
	assert_string_equal(at_describe(at_scalar(1, AT_BOOL, AT_CPU)), "bool[] from at_scalar");
	assert_string_equal(at_describe(NULL), "NULL");
	at_end(s);
}

/* ---- Borrowed memory ---- */

static int released;

static void release(void *ctx)
{
	released += *(int *)ctx;
}

static void write_to(void *t)
{
	at_begin(AT_NO_GRAD);
	at_mul_(t, 2);
}

static void copy_to_view(void *t)
{
	at_begin(AT_NO_GRAD);
	at_copy_(at_narrow(t, 0, 0, 1), at_zeros(DIMS(1), AT_F32, AT_CPU));
}

static void test_borrow(void **state)
{
	static const float values[4] = { 1, 2, 3, 4 };
	int one = 1;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t t = at_borrow(values, DIMS(4), AT_F32, release, &one);
	at_t kept = at_keep(t), view = at_keep(at_narrow(t, 0, 1, 2)),
	     same = at_keep(at_to(t, AT_F32, AT_CPU)), own;

	(void)state;
	released = 0;
	assert_ptr_equal(at_f32(t), values);
	own = at_clone(t);
	at_mul_(own, 2);
	assert_true(at_f32(own)[3] == 8 && values[3] == 4);
	at_end(s);
	PANICS(write_to, kept, "at_mul_", "read-only", "at_borrow");
	PANICS(write_to, view, "at_mul_", "read-only");
	PANICS(write_to, same, "at_mul_", "read-only");
	PANICS(copy_to_view, kept, "at_copy_", "read-only");
	at_free(kept);
	at_free(same);
	assert_int_equal(released, 0);
	at_free(view);
	assert_int_equal(released, 1);
	s = at_begin(AT_NO_GRAD);
	at_borrow(values, DIMS(4), AT_F32, NULL, NULL); /* never released */
	at_end(s);
}

/* ---- Panics inside a checkpointed function: libtorch's frames lie between it and at_checkpoint or at_grad
 * ---- */

struct fault {
	int run, fail_at;
};

static void faulty(void *ctx, const at_t *in, at_t *out)
{
	struct fault *f = *(struct fault **)ctx; /* the pointer is what is copied */
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t h = at_mul(in[0], in[0]);

	if (++f->run == f->fail_at)
		at_matmul(h, at_full(DIMS(7, 7), 1, AT_F32, AT_CPU));
	out[0] = at_escape(s, h);
	at_end(s);
}

static void nested(void *ctx, const at_t *in, at_t *out)
{
	at_checkpoint(faulty, ctx, sizeof(void *), 1, in, 1, out);
}

static void forgetful(void *ctx, const at_t *in, at_t *out)
{
	(void)ctx;
	(void)in;
	out[0] = NULL;
}

static void run_faulty(void *ctx)
{
	static const float values[9] = { 1 };
	static int one = 1;

	at_begin(AT_WITH_GRAD);
	at_t x = at_borrow(values, DIMS(3, 3), AT_F32, release, &one), y, g;
	at_set_requires_grad(x, true);
	at_checkpoint(faulty, &ctx, sizeof ctx, 1, &x, 1, &y);
	at_grad(at_sum(y), 1, &x, &g);
}

static void run_nested(void *ctx)
{
	at_begin(AT_WITH_GRAD);
	at_t x = random_tensor(DIMS(3, 3), 1), y, g;
	at_set_requires_grad(x, true);
	at_checkpoint(nested, &ctx, sizeof ctx, 1, &x, 1, &y);
	at_grad(at_sum(y), 1, &x, &g);
}

static void run_forgetful(void *ctx)
{
	at_begin(AT_WITH_GRAD);
	at_t x = random_tensor(DIMS(3, 3), 1), y;
	at_checkpoint(forgetful, ctx, 0, 1, &x, 1, &y);
}

static void test_panic_in_callback(void **state)
{
	(void)state;
	for (int at = 1; at <= 2; at++) { /* in the forward, in the backward */
		struct fault f = { 0, at };
		released = 0;
		PANICS(run_faulty, &f, "at_matmul", "float32[7, 7] from at_full", "in faulty",
		       "in run_faulty");
		assert_int_equal(released,
				 1); /* libtorch's frames were left properly: none holds the input */
		assert_int_equal(f.run, at);
	}
	for (int at = 1; at <= 3; at++) { /* ... in the backward's forward, in the backward's backward */
		struct fault f = { 0, at };
		PANICS(run_nested, &f, "at_matmul", "float32[7, 7] from at_full", "in faulty");
		assert_int_equal(f.run, at);
	}
	PANICS(run_forgetful, NULL, "at_checkpoint", "left an output NULL");

	/* Autograd works as before, and nested checkpoints are right. */
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	struct fault none = { 0, -1 }, *ctx = &none;
	at_t x = random_tensor(DIMS(3, 3), 1), y, g;
	at_set_requires_grad(x, true);
	at_checkpoint(nested, &ctx, sizeof ctx, 1, &x, 1, &y);
	at_grad(at_sum(y), 1, &x, &g);
	assert_true(at_equal(g, at_mul(at_detach(x), 2)));
	at_end(s);
}

/* ---- Threads ---- */

static void *double_kept(void *arg)
{
	at_t *slot = arg;
	bool grad = at_grad_enabled();
	struct at_scope *s = at_begin(AT_NO_GRAD);

	for (int i = 0; i < 100; i++)
		at_add(*slot, i);
	at_set(slot, at_mul(*slot, grad ? 2 : 0));
	at_end(s);
	return NULL;
}

static void test_threads(void **state)
{
	enum { N = 4 };
	struct at_scope *s = at_begin(AT_NO_GRAD);
	pthread_t thread[N];
	at_t kept[N];

	(void)state;
	for (int i = 0; i < N; i++)
		kept[i] = at_keep(at_full(DIMS(3), i + 1, AT_F32, AT_CPU));
	for (int i = 0; i < N; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, double_kept, &kept[i]), 0);
	for (int i = 0; i < N; i++) {
		pthread_join(thread[i], NULL);
		assert_true(at_item(at_max(kept[i])) ==
			    2 * (i + 1)); /* a new thread starts with gradients on */
		at_free(kept[i]);
	}
	at_end(s);
}

/* Everything that the shim computes itself, with as many threads as at_set_threads says. */
static void compute(int threads, at_t *out, double *squares)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	int before = at_threads();
	at_t x = random_tensor(DIMS(40, 30, 4, 32), 1), w = random_tensor(DIMS(32), 2),
	     mod = random_tensor(DIMS(40, 1, 256), 3);
	at_t leaf[3] = { x, w, mod }, part[2], y, o;

	at_set_threads(threads);
	assert_int_equal(at_threads(), threads);
	*squares = at_sum_squares(random_tensor(DIMS(300001), 4));
	for (int i = 0; i < 3; i++)
		at_set_requires_grad(leaf[i], true);
	at_chunk(2, part, mod, -1);
	y = at_modulate(at_view(at_rms_norm(x, w, 1e-6), DIMS(40, 30, 128)), part[0], part[1], 1e-6);
	o = at_transpose(at_view(y, DIMS(40, 30, 4, 32)), 1, 2);
	o = at_gelu(at_contiguous(at_sdpa(o, o, o, NULL, false, 0)), true);
	at_grad(at_sum(at_square(o)), 3, leaf, out);
	out[3] = at_detach(o);
	for (int i = 0; i < 4; i++)
		at_escape(s, out[i]);
	at_set_threads(before);
	at_end(s);
}

static void test_thread_counts(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t one[4], many[4];
	double square_one, square_many;

	(void)state;
	compute(1, one, &square_one);
	for (int threads = 2; threads <= 3; threads++) {
		compute(threads, many, &square_many);
		assert_true(square_one == square_many);
		for (int i = 0; i < 4; i++)
			assert_true(at_equal(one[i], many[i]));
	}
	at_end(s);
}

/* ---- Values ---- */

static void test_finite(void **state)
{
	enum { N = 200003 };
	struct at_scope *s = at_begin(AT_NO_GRAD);
	static const int place[] = { 0, 1, 17, N / 2, N - 2, N - 1 };
	static const float bad[] = { INFINITY, -INFINITY, NAN };
	at_t x = at_full(DIMS(N), 3e38, AT_F32, AT_CPU); /* finite, though no sum of two is */

	(void)state;
	assert_true(at_finite(x));
	assert_true(at_finite(at_zeros(DIMS(0), AT_F32, AT_CPU)));
	for (size_t i = 0; i < sizeof place / sizeof *place; i++)
		for (int k = 0; k < 3; k++) {
			at_f32(x)[place[i]] = bad[k];
			assert_false(at_finite(x));
			assert_false(at_finite(at_cast(x, AT_BF16)));
			at_f32(x)[place[i]] = -1;
		}
	assert_true(at_finite(at_narrow(x, 0, 5, 100)));
	at_end(s);
}

static void test_values_out(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	const float f[6] = { 1, -2, 3, 4, 5, 6 }, zero[2] = { 0.0f, -0.0f };
	at_t x = at_from(f, DIMS(2, 3), AT_F32), z = at_from(zero, DIMS(2), AT_F32);
	int64_t turned[6];
	uint8_t flag[6];

	(void)state;
	at_copy_out(at_transpose(x, 0, 1), turned, AT_I64);
	assert_memory_equal(turned, ((int64_t[]) { 1, 4, -2, 5, 3, 6 }), sizeof turned);
	at_copy_out(at_ge(x, 3), flag, AT_U8);
	assert_memory_equal(flag, ((uint8_t[]) { 0, 0, 1, 1, 1, 1 }), sizeof flag);
	assert_false(at_equal(at_narrow(z, 0, 0, 1), at_narrow(z, 0, 1, 1))); /* 0 and -0 differ in bits */
	assert_false(at_equal(x, at_cast(x, AT_F64)));
	assert_false(at_equal(x, at_view(x, DIMS(3, 2))));
	assert_true(at_equal(at_transpose(at_contiguous(at_transpose(x, 0, 1)), 0, 1), x));
	assert_true(at_sum_squares(at_cast(x, AT_I64)) == 91 && at_sum_squares(at_cast(x, AT_BF16)) == 91);
	at_t many = random_tensor(DIMS(300001), 5);
	double want = 0;
	for (int i = 0; i < 300001; i++)
		want += (double)at_f32(many)[i] * (double)at_f32(many)[i];
	assert_true(fabs(at_sum_squares(many) - want) < 1e-12 * want);
	assert_true(fabs(at_sum_squares(at_cast(many, AT_F64)) - want) < 1e-12 * want);
	assert_true(at_sum_squares(at_zeros(DIMS(0), AT_F32, AT_CPU)) == 0);
	assert_true(at_equal(at_mean_keep_batch(at_reshape(x, DIMS(6))), at_reshape(x, DIMS(6))));
	at_end(s);
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_misuse),
		T(test_drop),
		T(test_describe),
		T(test_borrow),
		T(test_panic_in_callback),
		T(test_threads),
		T(test_thread_counts),
		T(test_finite),
		T(test_values_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
