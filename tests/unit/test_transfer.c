/* aten/transfer.h: what arrives is what was sent, in any order, whatever is computed meanwhile; on a GPU too,
 * where there is one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "aten/transfer.h"

#define N    70000
#define MANY 16

static enum at_device devices[2];
static int n_devices;

/* 0, k, 2 k, ... modulo a prime: computed again here, in integers. */
static int64_t expected(int64_t i, int64_t k)
{
	return i * k % 65521;
}

static at_t numbers(int64_t k, enum at_device dev)
{
	at_t x = at_pinned(DIMS(N), AT_I32, dev);
	int32_t *v = at_data(x);

	for (int64_t i = 0; i < N; i++)
		v[i] = (int32_t)expected(i, k);
	return x;
}

static void check(at_t x, int64_t k, int64_t add)
{
	const int32_t *v = at_data(x);

	assert_true(at_shape_is(x, DIMS(N)));
	assert_true(at_device_of(x) == AT_CPU);
	for (int64_t i = 0; i < N; i++)
		if (v[i] != expected(i, k) + add)
			fail_msg("element %lld is %d, not %lld", (long long)i, v[i],
				 (long long)(expected(i, k) + add));
}

/* There and back; the source is dropped while it is on its way. */
static void test_round_trip(void **state)
{
	(void)state;
	for (int d = 0; d < n_devices; d++) {
		struct at_scope *s = at_begin(AT_NO_GRAD), *inner = at_begin(AT_NO_GRAD);
		at_t x = at_send(numbers(7, devices[d]), devices[d]);
		assert_true(at_device_of(x) == devices[d]);
		struct at_fetch *f = at_fetch_begin(x);

		at_end(inner);
		if (devices[d] == AT_CPU)
			assert_true(at_fetch_ready(f));
		check(at_fetch_end(f), 7, 0);
		at_end(s);
	}
}

/* Several at once, each of a value that is computed last and followed by other work in the same memory. */
static void test_many(void **state)
{
	(void)state;
	for (int d = 0; d < n_devices; d++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		struct at_fetch *f[MANY];

		for (int k = 0; k < MANY; k++) {
			struct at_scope *inner = at_begin(AT_NO_GRAD);
			at_t x = at_send(numbers(k + 3, devices[d]), devices[d]);

			for (int i = 0; i < 100; i++)
				at_replace(inner, &x, at_add(x, 1.0));
			f[k] = at_fetch_begin(at_cast(x, AT_I32));
			at_end(inner);
			at_zeros(DIMS(N), AT_I32, devices[d]);
		}
		for (int k = MANY - 1; k >= 0; k--)
			check(at_fetch_end(f[k]), k + 3, 100);
		at_end(s);
	}
}

/* A view comes back in its own order. */
static void test_views(void **state)
{
	(void)state;
	for (int d = 0; d < n_devices; d++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		at_t x = at_send(numbers(5, devices[d]), devices[d]);
		at_t y = at_fetch_end(at_fetch_begin(at_transpose(at_view(x, DIMS(7, N / 7)), 0, 1)));
		const int32_t *v = at_data(y);

		for (int64_t i = 0; i < N / 7; i++)
			for (int64_t j = 0; j < 7; j++)
				assert_int_equal(v[i * 7 + j], expected(j * (N / 7) + i, 5));
		at_end(s);
	}
}

static int find_devices(void **state)
{
	(void)state;
	devices[n_devices++] = AT_CPU;
	if (at_cuda_devices() > 0)
		devices[n_devices++] = AT_CUDA;
	return 0;
}

/* Tensors of several types arrive with their shapes, a missing one stays missing; the CPU's are dropped at
 * once. */
static void test_together(void **state)
{
	(void)state;
	for (int d = 0; d < n_devices; d++) {
		struct at_scope *s = at_begin(AT_NO_GRAD), *inner = at_begin(AT_NO_GRAD);
		const double f[3] = { 0.1, -2, 1e300 };
		const float g[6] = { 0, 1, 2, 3, 4, 5.5 };
		at_t x[4] = { at_from(f, DIMS(3), AT_F64), NULL, at_from(g, DIMS(2, 3), AT_F32),
			      numbers(3, AT_CPU) },
		     out[4];

		at_send_all(4, x, out, devices[d]);
		assert_null(out[1]);
		for (int i = 0; i < 4; i++)
			if (out[i]) {
				assert_true(at_device_of(out[i]) == devices[d]);
				out[i] = at_escape(inner, out[i]);
			}
		at_end(inner);
		for (int i = 0; i < 4; i++)
			if (out[i])
				out[i] = at_to(out[i], at_dtype_of(out[i]), AT_CPU);
		assert_true(at_equal(out[0], at_from(f, DIMS(3), AT_F64)));
		assert_true(at_equal(out[2], at_from(g, DIMS(2, 3), AT_F32)));
		check(out[3], 3, 0);
		at_end(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_round_trip), cmocka_unit_test(test_many),
					    cmocka_unit_test(test_views), cmocka_unit_test(test_together) };

	return cmocka_run_group_tests(tests, find_devices, NULL);
}
