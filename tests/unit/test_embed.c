/* What transformers read: patches of latents, sinusoids, and angles of rotary positions, against formulas. */
#include "models/layers/embed.h"
#include "models/layers/rope.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "tests/unit/handles.h"

/* Element (b, c, y, x) of latents that count up, wherever its patch puts it. */
static void check_patches(int64_t B, int64_t C, int64_t h, int64_t w, int64_t p, enum embed_order order)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x = at_view(at_arange(B * C * h * w, AT_F32, AT_CPU), DIMS(B, C, h, w));
	at_t patches = at_contiguous(embed_patches(x, p, order));
	int64_t F = C * p * p, N = h / p * (w / p);

	assert_true(at_shape_is(patches, DIMS(B, N, F)));
	for (int64_t i = 0; i < at_numel(x); i++) {
		int64_t column = i % w, row = i / w % h, c = i / (w * h) % C, b = i / (C * h * w);
		int64_t token = row / p * (w / p) + column / p, dy = row % p, dx = column % p;
		int64_t f = order == EMBED_CYX ? (c * p + dy) * p + dx : (dy * p + dx) * C + c;

		assert_true(at_f32(patches)[(b * N + token) * F + f] == (float)i);
	}
	assert_true(at_equal(embed_unpatch(patches, h, w, p, order), x));
	at_end(s);
}

static void test_patches(void **state)
{
	(void)state;
	for (int order = 0; order < 2; order++) {
		check_patches(2, 3, 4, 6, 2, (enum embed_order)order);
		check_patches(1, 2, 6, 3, 3, (enum embed_order)order);
		check_patches(3, 5, 2, 7, 1, (enum embed_order)order);
	}
}

static void test_sinusoids(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	const double x[] = { 0, 0.5, 17, 999.25 };
	at_t out = embed_sinusoids(at_from(x, DIMS(4), AT_F64), 16, AT_F64);

	(void)state;
	for (int i = 0; i < 4; i++)
		for (int k = 0; k < 8; k++) { /* an angle of 1000 has 6e-5 in float32 */
			double angle = x[i] * pow(10000, -k / 8.0);
			const double *row = (const double *)at_data(out) + 16 * (ptrdiff_t)i;

			assert_true(fabs(row[k] - cos(angle)) < 2e-4);
			assert_true(fabs(row[8 + k] - sin(angle)) < 2e-4);
		}
	at_end(s);
}

/* pos: what rope_grid or rope_line should have made. */
static void check_angles(const struct rope *r, at_t pos_SA, const double *pos, double tol)
{
	at_t cosine, sine;
	int64_t E = 0, S = at_size(pos_SA, 0), e = 0;

	for (int a = 0; a < r->axes; a++)
		E += r->width[a] / 2;
	rope_angles(r, pos_SA, &cosine, &sine);
	assert_true(at_shape_is(cosine, DIMS(S, E)) && at_dtype_of(sine) == AT_F32);
	for (int a = 0; a < r->axes; a++)
		for (int64_t j = 0; j < r->width[a] / 2; j++, e++)
			for (int64_t i = 0; i < S; i++) {
				double angle = pos[i * r->axes + a] *
					       pow(r->theta, -2 * (double)j / (double)r->width[a]);

				assert_true(fabs(at_f32(cosine)[i * E + e] - cos(angle)) < tol);
				assert_true(fabs(at_f32(sine)[i * E + e] - sin(angle)) < tol);
			}
}

static void test_angles(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct rope flux = { 3, { 16, 56, 56 }, 10000, AT_F64 }, z = { 3, { 32, 48, 48 }, 256, AT_F64 },
		    single = { 3, { 4, 6, 6 }, 10000, AT_F32 }, flux2 = { 4, { 4, 4, 6, 8 }, 2000, AT_F64 };
	double grid[6 * 3], line[5 * 4];

	(void)state;
	for (int i = 0; i < 6; i++) {
		grid[3 * i] = 9;
		grid[3 * i + 1] = i / 3 - 1;
		grid[3 * i + 2] = i % 3 + 500;
	}
	at_t pos = rope_grid(3, 2, 3, (const double[]) { 9, -1, 500 }, AT_CPU);
	check_angles(&flux, pos, grid, 1e-7);
	check_angles(&z, pos, grid, 1e-7);
	check_angles(&single, pos, grid, 1e-4);
	for (int i = 0; i < 5; i++)
		for (int a = 0; a < 4; a++)
			line[4 * i + a] = a + (a == 3 ? 2 * i : 0);
	pos = rope_line(4, 5, (const double[]) { 0, 1, 2, 3 }, (const double[]) { 0, 0, 0, 2 }, AT_CPU);
	check_angles(&flux2, pos, line, 1e-7);

	at_t both = at_stack(2, (at_t[]) { pos, at_mul(pos, 2) }, 0), cosine, sine, cosine1, sine1;
	rope_angles(&flux2, both, &cosine, &sine);
	rope_angles(&flux2, at_mul(pos, 2), &cosine1, &sine1);
	assert_true(at_equal(at_select(cosine, 0, 1), cosine1) && at_equal(at_select(sine, 0, 1), sine1));
	at_end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_patches, count_handles, no_handle_left),
		cmocka_unit_test_setup_teardown(test_sinusoids, count_handles, no_handle_left),
		cmocka_unit_test_setup_teardown(test_angles, count_handles, no_handle_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
