/* Fused ops against their formulas in float64: values and gradients, in every storage, on the CPU and, where
 * there is one, on the GPU; sizes with kernels of their own and sizes without.  B batch, S tokens, D
 * channels, H heads, K width of a head.
 * Compiled with CONTRAFLOW_FIBRES and rows_fibres.cpp it has the GPU's kernels run on the CPU's tensors. */
#include "aten/images.h"
#include "aten/normals.h"
#include "tests/unit/places.h"

static void check_modulate(const struct place *p, int64_t B, int64_t S, int64_t D, bool strided)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	int parts = strided ? 6 : 2;
	at_t leaf[2] = { random_at(p, DIMS(B, S, D), 1), random_at(p, DIMS(B, 1, parts * D), 2) }, leaf64[2];
	at_t part[6], part64[6];

	make_leaves(2, leaf, leaf64);
	at_chunk(parts, part, leaf[1], -1);
	at_chunk(parts, part64, leaf64[1], -1);
	at_t y64 =
	    at_add(at_mul(at_layer_norm(leaf64[0], NULL, NULL, 1e-6), at_add(part64[1], 1)), part64[0]);
	compare(p, at_modulate(leaf[0], part[0], part[1], 1e-6), y64, 2, leaf, leaf64);
	at_end(s);
}

static void test_modulate(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++)
		if (there_is(&places[i])) {
			check_modulate(&places[i], 3, 5, 33, false); /* no whole packs */
			check_modulate(&places[i], 2, 1, 8, true);
			check_modulate(&places[i], 7, 19, 128, true);
			check_modulate(&places[i], 1, 46, 1536, false);
		}
}

/* The gate is a chunk of a wider product; it needs a gradient only where an adapter is on that product. */
static void check_gate(const struct place *p, int64_t B, int64_t S, int64_t D, bool trained)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	at_t leaf[3] = { random_at(p, DIMS(B, S, D), 1), random_at(p, DIMS(B, S, D), 2),
			 random_at(p, DIMS(B, 1, 3 * D), 3) },
	     leaf64[3], part[3], part64[3];
	int n = trained ? 3 : 2;

	make_leaves(n, leaf, leaf64);
	if (!trained)
		leaf64[2] = exact(leaf[2]);
	at_chunk(3, part, leaf[2], -1);
	at_chunk(3, part64, leaf64[2], -1);
	compare(p, at_gate(leaf[0], part[1], leaf[1]), at_add(leaf64[0], at_mul(part64[1], leaf64[1])), n,
		leaf, leaf64);
	at_end(s);
}

static void test_gate(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++)
		for (int trained = 0; trained < 2 && there_is(&places[i]); trained++) {
			check_gate(&places[i], 3, 5, 33, trained); /* no whole packs */
			check_gate(&places[i], 7, 19, 128, trained);
			check_gate(&places[i], 1, 46, 1536, trained);
		}
}

/* The heads of a stacked projection, as the transformer has them, or a plain tensor. */
static void check_rms(const struct place *p, struct at_dims shape, bool of_product)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	int64_t K = shape.d[shape.n - 1];
	struct at_dims all = shape;

	if (of_product) /* (B, S, 3, H, K) of (B, S, H, K) */
		all = DIMS(shape.d[0], shape.d[1], 3, shape.d[2], K);
	at_t leaf[2] = { random_at(p, all, 1), random_at(p, DIMS(K), 2) }, leaf64[2];
	make_leaves(2, leaf, leaf64);
	at_t x = of_product ? at_select(leaf[0], 2, 1) : leaf[0],
	     x64 = of_product ? at_select(leaf64[0], 2, 1) : leaf64[0];
	at_t scale = at_rsqrt(at_add(at_mean_dim(at_square(x64), -1, true), 1e-6));
	compare(p, at_rms_norm(x, leaf[1], 1e-6), at_mul(at_mul(x64, scale), leaf64[1]), 2, leaf, leaf64);
	at_set_requires_grad(leaf[1], false); /* a frozen weight, as training has it */
	at_set_requires_grad(leaf64[1], false);
	scale = at_rsqrt(at_add(at_mean_dim(at_square(x64), -1, true), 1e-6));
	compare(p, at_rms_norm(x, leaf[1], 1e-6), at_mul(at_mul(x64, scale), leaf64[1]), 1, leaf, leaf64);
	at_end(s);
}

/* The queries of a stacked projection; angles of each sample's own, or of all.  Pairs by index in float64. */
static void check_rope(const struct place *p, struct at_dims shape, bool half, bool own)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	int64_t B = shape.d[0], S = shape.d[1], H = shape.d[2], K = shape.d[3], E = K / 2;
	at_t leaf = random_at(p, DIMS(B, S, 3, H, K), 1), leaf64;
	struct place f32 = { p->dev, AT_F32, 0 };
	at_t angle = random_at(&f32, own ? DIMS(B, S, E) : DIMS(S, E), 2);
	at_t cos64 = at_unsqueeze(exact(at_cos(angle)), -2), sin64 = at_unsqueeze(exact(at_sin(angle)), -2);
	int64_t first[64], second[64], back[128];

	for (int64_t e = 0; e < E; e++) {
		first[e] = half ? e : 2 * e;
		second[e] = half ? e + E : 2 * e + 1;
		back[first[e]] = e;
		back[second[e]] = E + e;
	}
	make_leaves(1, &leaf, &leaf64);
	at_t x64 = at_select(leaf64, 2, 1);
	at_t a64 = at_index_select(x64, 3, at_from(first, DIMS(E), AT_I64));
	at_t b64 = at_index_select(x64, 3, at_from(second, DIMS(E), AT_I64));
	at_t y64 = at_cat2(at_sub(at_mul(a64, cos64), at_mul(b64, sin64)),
			   at_add(at_mul(a64, sin64), at_mul(b64, cos64)), 3);
	compare(p, at_rope(at_select(leaf, 2, 1), at_cos(angle), at_sin(angle), half),
		at_index_select(y64, 3, at_from(back, DIMS(K), AT_I64)), 1, &leaf, &leaf64);
	at_end(s);
}

static void test_rope(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++)
		for (int half = 0; half < 2 && there_is(&places[i]); half++) {
			check_rope(&places[i], DIMS(2, 5, 3, 16), half, false);
			check_rope(&places[i], DIMS(3, 7, 2, 6), half, true);
			check_rope(&places[i], DIMS(1, 33, 4, 128), half, false);
		}
}

static void test_rms_norm(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++)
		if (there_is(&places[i])) {
			check_rms(&places[i], DIMS(2, 3, 4, 64), true);
			check_rms(&places[i], DIMS(3, 5, 2, 96), true);
			check_rms(&places[i], DIMS(3, 7, 2, 9), false);
			check_rms(&places[i], DIMS(5, 24), false);
		}
}

/* Of few groups, as decoding one image has them, and of many. */
static void test_group_norm(void **state)
{
	static const int64_t sizes[][4] = { { 1, 12, 9, 7 }, { 3, 8, 1, 5 }, { 300, 8, 2, 2 } };

	(void)state;
	for (int i = 0; i < PLACES; i++)
		for (size_t k = 0; k < sizeof sizes / sizeof *sizes && there_is(&places[i]); k++) {
			const struct place *p = &places[i];
			const int64_t *n = sizes[k], groups = 4;
			struct at_scope *s = at_begin(AT_NO_GRAD);
			at_t x = at_add(random_at(p, DIMS(n[0], n[1], n[2], n[3]), 1), 0.5);
			at_t w = random_at(p, DIMS(n[1]), 2), b = random_at(p, DIMS(n[1]), 3);
			at_t rows = at_view(exact(x), DIMS(n[0], groups, -1));
			at_t far = at_sub(rows, at_mean_dim(rows, 2, true));
			at_t y = at_mul(far, at_rsqrt(at_add(at_mean_dim(at_square(far), 2, true), 1e-6)));

			y = at_view(y, DIMS(n[0], n[1], n[2], n[3]));
			y = at_add(at_mul(y, at_view(exact(w), DIMS(1, n[1], 1, 1))),
				   at_view(exact(b), DIMS(1, n[1], 1, 1)));
			assert_true(distance(at_group_norm(x, (int)groups, w, b, 1e-6), y) < p->tol);
			at_end(s);
		}
}

/* The decoder's sizes in small: one group a pack and several, pieces of pixels that end early, threads that
 * are left over (C = 96), a mean far from zero. */
static void test_group_norm_channels_last(void **state)
{
	static const int64_t sizes[][5] = { { 2, 16, 9, 7, 4 },
					    { 1, 128, 33, 40, 32 },
					    { 3, 96, 5, 31, 8 },
					    { 1, 512, 8, 8, 32 },
					    { 2, 12, 4, 4, 4 } };

	(void)state;
	for (int i = 0; i < PLACES; i++)
		for (size_t k = 0; k < sizeof sizes / sizeof *sizes && there_is(&places[i]); k++) {
			const struct place *p = &places[i];
			const int64_t *n = sizes[k];
			struct at_scope *s = at_begin(AT_NO_GRAD);
			struct at_dims shape = DIMS(n[0], n[1], n[2], n[3]);
			at_t x = at_add(random_at(p, shape, 1), 3);
			at_t w = random_at(p, DIMS(n[1]), 2), b = random_at(p, DIMS(n[1]), 3),
			     last = at_channels_last(x);
			at_t rows = at_view(exact(x), DIMS(n[0], n[4], -1));
			at_t far = at_sub(rows, at_mean_dim(rows, 2, true));
			at_t y = at_mul(far, at_rsqrt(at_add(at_mean_dim(at_square(far), 2, true), 1e-6)));

			y = at_add(at_mul(at_view(y, shape), at_view(exact(w), DIMS(1, n[1], 1, 1))),
				   at_view(exact(b), DIMS(1, n[1], 1, 1)));
			assert_true(distance(at_group_norm(last, (int)n[4], w, b, 1e-6), y) < p->tol);
			at_t z = at_group_norm_silu(last, (int)n[4], w, b, 1e-6);
			assert_true(distance(z, at_mul(y, at_sigmoid(y))) < p->tol);
			assert_true(distance(at_group_norm_silu(x, (int)n[4], w, b, 1e-6),
					     at_mul(y, at_sigmoid(y))) < 2 * p->tol);
			at_end(s);
		}
}

/* On every device the bits of rng_normals, of streams that differ in all that a name has. */
static void test_normals(void **state)
{
	const struct at_dims shapes[] = { DIMS(3, 4, 7, 5), DIMS(3, 16, 64, 64), DIMS(3, 1) };
	const uint64_t seed = 0x123456789abcdef;
	const struct rng stream[] = { rng_make(seed, RNG_DIFFUSE, 3, 7),
				      rng_make(seed, RNG_LATENT, (uint64_t)5 << 32 | 9, 4000000000),
				      rng_make_step(seed, RNG_SOLVER, 2, 1, 65535) };
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t name = at_empty(DIMS(3, 2), AT_I64, AT_CPU);

	(void)state;
	for (int b = 0; b < 3; b++)
		rng_name(&stream[b], (int64_t *)at_data(name) + 2 * b);
	for (int i = 0; i < PLACES; i++)
		for (size_t k = 0;
		     k < sizeof shapes / sizeof *shapes && places[i].dt == AT_F32 && there_is(&places[i]);
		     k++) {
			at_t want = at_empty(shapes[k], AT_F32, AT_CPU);
			size_t each = (size_t)at_numel(want) / 3;

			for (size_t b = 0; b < 3; b++) {
				struct rng r = stream[b];
				rng_normals(&r, at_f32(want) + each * b, each);
			}
			at_t got = at_normals(seed, at_to(name, AT_I64, places[i].dev), shapes[k]);
			assert_true(at_device_of(got) == places[i].dev &&
				    at_equal(at_to(got, AT_F32, AT_CPU), want));
		}
	at_end(s);
}

static void test_x0_loss(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++) {
		const struct place *p = &places[i];
		if (p->dt != AT_F32 || !there_is(p))
			continue;
		struct at_scope *s = at_begin(AT_WITH_GRAD);
		struct at_dims shape = DIMS(3, 4, 7, 5);
		at_t v[1] = { random_at(p, shape, 1) }, v64[1], xt = random_at(p, shape, 2),
		     x0 = random_at(p, shape, 3), t = at_abs(random_at(p, DIMS(3), 4)), grad, want;

		/* the second sample's error is all but zero: there the weight is the smallest one */
		at_zero_(at_narrow(x0, 0, 1, 1));
		at_zero_(at_narrow(xt, 0, 1, 1));
		at_copy_(at_narrow(v[0], 0, 1, 1), at_mul(at_narrow(v[0], 0, 1, 1), 1e-7));
		make_leaves(1, v, v64);
		at_t y = at_x0_loss(v[0], xt, x0, t);
		at_t e =
		    at_sub(at_sub(exact(xt), at_mul(v64[0], at_view(exact(t), DIMS(3, 1, 1, 1)))), exact(x0));
		at_t w =
		    at_clamp(at_mean_dim(at_flatten(at_abs(at_detach(e)), 1, -1), 1, false), 1e-5, 1e300);
		at_t y64 = at_div(at_mean_dim(at_flatten(at_square(e), 1, -1), 1, false), w);
		at_t g = random_at(p, DIMS(3), 5);

		assert_int_equal(at_dtype_of(y), AT_F64);
		for (int k = 0; k < 3; k++)
			assert_true(distance(at_narrow(y, 0, k, 1), at_narrow(y64, 0, k, 1)) < 1e-5);
		at_grad(at_sum(at_mul(y, at_cast(g, AT_F64))), 1, v, &grad);
		at_grad(at_sum(at_mul(y64, exact(g))), 1, v64, &want);
		for (int k = 0; k < 3; k++)
			assert_true(distance(at_narrow(grad, 0, k, 1), at_narrow(want, 0, k, 1)) < 1e-5);
		at_t broken = at_x0_loss(at_detach(at_full(shape, NAN, AT_F32, p->dev)), xt, x0, t);
		assert_true(isnan(at_item(at_sum(broken))));
		at_end(s);
	}
}

/* PyTorch's AdamW, from its documentation, in double. */
static void check_adamw(const struct place *p)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	enum { N = 37 };
	at_t theta = random_at(p, DIMS(N), 1), m = at_zeros_like(theta), v = at_zeros_like(theta);
	double t[N], is[N], gd[N], dm[N] = { 0 }, dv[N] = { 0 };

	at_copy_out(theta, t, AT_F64);
	for (int step = 1; step <= 5; step++) {
		at_t g = random_at(p, DIMS(N), (uint64_t)(10 + step));
		at_copy_out(g, gd, AT_F64);
		at_adamw_(theta, g, m, v, 0.01, 0.9, 0.999, 1e-8, 0.1, step);
		for (int i = 0; i < N; i++) {
			dm[i] = 0.9 * dm[i] + 0.1 * gd[i];
			dv[i] = 0.999 * dv[i] + 0.001 * gd[i] * gd[i];
			t[i] -= 0.01 * 0.1 * t[i];
			t[i] -= 0.01 * dm[i] / (1 - pow(0.9, step)) /
				(sqrt(dv[i] / (1 - pow(0.999, step))) + 1e-8);
		}
	}
	at_copy_out(theta, is, AT_F64);
	for (int i = 0; i < N; i++)
		assert_true(fabs(is[i] - t[i]) < 1e-6);
	at_end(s);
}

static void test_adamw(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++)
		if (places[i].dt == AT_F32 && there_is(&places[i]))
			check_adamw(&places[i]);
}

static void test_products(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++) {
		const struct place *p = &places[i];
		if (!there_is(p))
			continue;
		struct at_scope *s = at_begin(AT_WITH_GRAD);
		at_t leaf[4] = { random_at(p, DIMS(2, 5, 16), 1), random_at(p, DIMS(32, 16), 2),
				 random_at(p, DIMS(32), 3), random_at(p, DIMS(10, 32), 4) },
		     leaf64[4];

		make_leaves(4, leaf, leaf64);
		at_t y64 = at_gelu(at_linear(leaf64[0], leaf64[1], leaf64[2]), true);
		compare(p, at_linear_gelu(leaf[0], leaf[1], leaf[2]), y64, 3, leaf, leaf64);
		struct at_scope *still = at_begin(AT_NO_GRAD); /* the epilogue, on a GPU */
		assert_true(distance(at_linear_gelu(leaf[0], leaf[1], leaf[2]), y64) < p->tol);
		at_end(still);
		/* c := 0.5 c + 2 a b, c a product's own result */
		at_t a = at_view(leaf[0], DIMS(10, 16)), c = at_linear(a, leaf[1], NULL);
		at_t a64 = at_view(leaf64[0], DIMS(10, 16)), c64 = at_linear(a64, leaf64[1], NULL);
		at_t b = at_transpose(leaf[1], 0, 1), b64 = at_transpose(leaf64[1], 0, 1);
		compare(p, at_addmm_(c, a, b, 0.5, 2),
			at_add(at_mul(c64, 0.5), at_mul(at_matmul(a64, b64), 2)), 2, leaf, leaf64);
		at_end(s);
	}
}

/* E4M3: 3 bits of mantissa, so half a unit is 1/16 of a value, and the largest value of a row is exact. */
static void test_fp8(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++) {
		const struct place *p = &places[i];
		if (!there_is(p))
			continue;
		struct at_scope *s = at_begin(AT_NO_GRAD);
		enum { R = 32, C = 48 };
		at_t w = random_at(p, DIMS(R, C), 1), x = random_at(p, DIMS(3, 16, C), 2),
		     b = random_at(p, DIMS(R), 3);
		at_t bytes, scale;
		double v[R * C], largest[R];

		at_copy_(at_narrow(w, 0, 4, 1), at_zeros(DIMS(1, C), p->dt, p->dev)); /* a row of nothing */
		at_quantise_rows(w, &bytes, &scale);
		assert_true(at_shape_is(bytes, DIMS(R, C)) && at_dtype_of(bytes) == AT_U8);
		at_copy_out(w, v, AT_F64);
		at_copy_out(scale, largest, AT_F64);
		for (int r = 0; r < R; r++) {
			double most = 0;
			for (int c = 0; c < C; c++)
				most = fmax(most, fabs(v[r * C + c]));
			assert_true(r == 4 ? largest[r] == 1 : fabs(largest[r] * 448 / most - 1) < 1e-6);
		}
		/* an identity shows the weights: x = I, whose rows are exact */
		at_t eye = at_to(at_cast(at_view(at_arange(C * C, AT_I64, AT_CPU), DIMS(C, C)), AT_F32),
				 AT_F32, AT_CPU);
		for (int64_t k = 0; k < C * C; k++)
			at_f32(eye)[k] = k % (C + 1) == 0;
		at_t shown =
		    exact(at_transpose(at_linear_fp8(at_to(eye, p->dt, p->dev), bytes, scale, NULL), 0, 1));
		double is[R * C];
		at_copy_out(shown, is, AT_F64);
		for (int k = 0; k < R * C; k++)
			assert_true(fabs(is[k] - v[k]) <=
				    fabs(v[k]) / 16 + 448 * largest[k / C] * 1e-5 + 4e-3 * fabs(v[k]));
		at_t y = at_linear_fp8(x, bytes, scale, b), y64 = at_linear(exact(x), exact(w), exact(b));
		assert_true(at_shape_is(y, DIMS(3, 16, R)) && at_dtype_of(y) == p->dt);
		double far = distance(y, y64);
		assert_true(far < 0.05 && far > 0.005); /* 8 bits, and no fewer */
		at_end(s);
	}
}

/* Rounded as float32's own arithmetic has it, on every device: the largest value over 448 divides a row, and
 * half a unit goes to even. Rows for a warp and for a block, of nothing, of one value, and far from 1. */
static void test_quantise(void **state)
{
	static const int64_t widths[] = { 16, 24, 48, 1536, 2056, 6144, 33 };

	(void)state;
	for (int i = 0; i < PLACES; i++)
		for (size_t k = 0; k < sizeof widths / sizeof *widths && there_is(&places[i]); k++) {
			const struct place *p = &places[i];
			int64_t R = 11, C = widths[k];

			if (C % 8 &&
			    p->dev == AT_CUDA) /* no kernel's: libtorch multiplies by 1 / 448 there */
				continue;
			struct at_scope *s = at_begin(AT_NO_GRAD);
			at_t x = random_at(p, DIMS(R, C), 3), bytes, scale;
			at_mul_(at_narrow(x, 0, 2, 1), 0);
			at_mul_(at_narrow(x, 0, 3, 1), 1e-4);
			at_mul_(at_narrow(x, 0, 4, 1), 1000);
			at_mul_(at_narrow(at_narrow(x, 0, 5, 1), 1, 1, C - 1), 0);
			at_quantise_rows(x, &bytes, &scale);
			at_t v = at_to(x, AT_F32, AT_CPU), b = at_to(bytes, AT_U8, AT_CPU);
			at_t f = at_to(scale, AT_F32, AT_CPU);
			for (int64_t r = 0; r < R; r++) {
				const float *a = at_f32(v) + r * C;
				const uint8_t *q = (const uint8_t *)at_data(b) + r * C;
				float most = 0;
				for (int64_t c = 0; c < C; c++)
					most = fmaxf(most, fabsf(a[c]));
				float by = most > 0 ? most / 448 : 1;
				assert_true(at_f32(f)[r] == by);
				for (int64_t c = 0; c < C; c++) {
					float y = a[c] / by, size = fminf(fabsf(y), 448);
					/* 3 bits of mantissa from 2^-6 on, below it steps of 2^-9; rint goes
					 * to even */
					float unit =
					    size < 0x1p-6f ? 0x1p-9f : exp2f(floorf(log2f(size)) - 3);
					float want = rintf(size / unit) * unit, is;
					int e = q[c] >> 3 & 15, m = q[c] & 7;
					is = e ? ldexpf(1 + (float)m / 8, e - 7) : ldexpf((float)m, -9);
					assert_true(is == want && (is == 0 || (q[c] >> 7) == (y < 0)));
				}
			}
			at_end(s);
		}
}

struct scale {
	double by;
	int *runs;
};
static void scaled(void *ctx, const at_t *in, at_t *out)
{
	const struct scale *c = ctx;

	++*c->runs;
	out[0] = at_add(at_mul(in[0], c->by), in[1]);
}

static void test_graph(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++) {
		const struct place *p = &places[i];
		if (!there_is(p))
			continue;
		struct at_scope *s = at_begin(AT_NO_GRAD);
		int runs = 0;
		struct scale c = { 1.5, &runs };
		struct at_graph *g = at_graph_new(scaled, &c, sizeof c, 2, 1);
		const char *why;

		c.by = 0; /* it was copied */
		for (uint64_t k = 0; k < 5; k++) {
			at_t in[2] = { random_at(p, DIMS(4, 6), k), random_at(p, DIMS(4, 6), 10 + k) }, out;
			at_graph_run(g, in, &out);
			assert_true(distance(out, at_add(at_mul(exact(in[0]), 1.5), exact(in[1]))) < p->tol);
		}
		assert_int_equal(at_graph_replays(g, &why), p->dev == AT_CUDA);
		assert_null(why);
		if (p->dev == AT_CPU)
			assert_int_equal(runs, 5);
		else /* plain; plain, on the side, captured; then no more */
			assert_int_equal(runs, 4);
		at_graph_free(g);
		at_end(s);
	}
}

#ifdef CONTRAFLOW_FIBRES
static void test_every_kernel(void **state)
{
	(void)state;
	ALL_RAN("modulate", "modulate_back", "modulate_columns", "rms", "rms_back", "gate", "x0", "x0_back",
		"adamw", "quantise", "quantise_wide");
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_modulate),     T(test_gate),       T(test_rms_norm), T(test_rope),
		T(test_x0_loss),      T(test_group_norm), T(test_adamw),    T(test_products),
		T(test_fp8),          T(test_quantise),   T(test_graph),    T(test_group_norm_channels_last),
		T(test_normals),
#ifdef CONTRAFLOW_FIBRES
		T(test_every_kernel),
#endif
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
