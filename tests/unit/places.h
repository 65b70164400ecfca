/* places.h -- where tests of kernels run them, and how results are compared with float64: on the CPU and,
 * where there is one, on the GPU, in every storage. */
#ifndef PLACES_H
#define PLACES_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "base/rng.h"
#include "tests/unit/handles.h"

/* Where and how numbers are kept, and how far apart two roundings of them may be. */
struct place {
	enum at_device dev;
	enum at_dtype dt;
	double tol;
};
static const struct place places[] = {
	{ AT_CPU, AT_F32, 2e-6 },  { AT_CPU, AT_BF16, 6e-3 },  { AT_CPU, AT_F16, 1e-3 },
	{ AT_CUDA, AT_F32, 2e-6 }, { AT_CUDA, AT_BF16, 6e-3 }, { AT_CUDA, AT_F16, 1e-3 },
};
enum { PLACES = sizeof places / sizeof *places };

static bool there_is(const struct place *p)
{
	return p->dev == AT_CPU || at_cuda_devices() > 0;
}

static at_t random_at(const struct place *p, struct at_dims shape, uint64_t sample)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t t = at_empty(shape, AT_F32, AT_CPU);
	struct rng r = rng_make(5, RNG_USER, 0, sample);

	rng_normals(&r, at_f32(t), (size_t)at_numel(t));
	return at_return(s, at_to(t, p->dt, p->dev));
}

static at_t exact(at_t x)
{
	return at_detach(at_to(x, AT_F64, AT_CPU));
}

static double distance(at_t a, at_t b)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x = exact(a), y = exact(b);
	double d = sqrt(at_sum_squares(at_sub(x, y))), n = sqrt(at_sum_squares(y));

	at_end(s);
	return n > 0 ? d / n : d;
}

/* Leaves in both precisions: leaf64[i] is leaf[i] to the bit. */
static void make_leaves(int n, at_t *leaf, at_t *leaf64)
{
	for (int i = 0; i < n; i++) {
		leaf64[i] = exact(leaf[i]);
		at_set_requires_grad(leaf[i], true);
		at_set_requires_grad(leaf64[i], true);
	}
}

static void compare(const struct place *p, at_t y, at_t y64, int n, const at_t *leaf, const at_t *leaf64)
{
	at_t g = random_at(p, at_shape(y), 9), grad[4], want[4];

	assert_int_equal(at_dtype_of(y), p->dt);
	assert_true(distance(y, y64) < p->tol);
	at_grad(at_sum(at_mul(y, g)), n, leaf, grad);
	at_grad(at_sum(at_mul(y64, exact(g))), n, leaf64, want);
	for (int i = 0; i < n; i++) {
		assert_int_equal(at_dtype_of(grad[i]), p->dt);
		assert_true(distance(grad[i], want[i]) < 2 * p->tol);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, count_handles, no_handle_left)

#ifdef CONTRAFLOW_FIBRES /* the GPU's kernels, by rows_fibres.cpp: did all of these run? */
int fibres_ran(const char *kernel);
#define ALL_RAN(...)                                                                                         \
	do {                                                                                                 \
		static const char *const kernel[] = { __VA_ARGS__ };                                         \
		for (size_t i = 0; i < sizeof kernel / sizeof *kernel; i++)                                  \
			if (!fibres_ran(kernel[i]))                                                          \
				fail_msg("%s did not run", kernel[i]);                                       \
	} while (0)
#endif
#endif
