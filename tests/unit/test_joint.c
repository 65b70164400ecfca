/* The fused ops of a transformer's block against their formulas in float64: an attention's result into the
 * stream and its norm, queries, keys and values of two streams.  B batch, N image and L text tokens, S
 * tokens, D channels, H heads, K width of a head. Compiled with CONTRAFLOW_FIBRES and rows_fibres.cpp it has
 * the GPU's kernels run on the CPU's tensors. */
#include "tests/unit/places.h"

/* Chunks of a wider product again. With gradients of both results, of one, and of the other. */
static void check_gate_modulate(const struct place *p, int64_t B, int64_t S, int64_t D, bool trained)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	at_t leaf[3] = { random_at(p, DIMS(B, S, D), 1), random_at(p, DIMS(B, S, D), 2),
			 random_at(p, DIMS(B, 1, 4 * D), 3) },
	     leaf64[3], part[4], part64[4], out, m;
	int n = trained ? 3 : 2;

	make_leaves(n, leaf, leaf64);
	if (!trained)
		leaf64[2] = exact(leaf[2]);
	for (int which = 0; which < 3; which++) {
		at_chunk(4, part, leaf[2], -1);
		at_chunk(4, part64, leaf64[2], -1);
		at_t out64 = at_add(leaf64[0], at_mul(part64[1], leaf64[1]));
		at_t m64 =
		    at_add(at_mul(at_layer_norm(out64, NULL, NULL, 1e-6), at_add(part64[3], 1)), part64[2]);
		at_gate_modulate(leaf[0], part[1], leaf[1], part[2], part[3], 1e-6, &out, &m);
		assert_true(distance(out, out64) < p->tol && distance(m, m64) < p->tol);
		if (which == 0)
			compare(p, at_cat2(out, m, 1), at_cat2(out64, m64, 1), n, leaf, leaf64);
		else if (which == 1)
			compare(p, m, m64, n, leaf, leaf64);
		else if (!trained) /* shift and scale have none */
			compare(p, out, out64, n, leaf, leaf64);
	}
	at_end(s);
}

static void test_gate_modulate(void **state)
{
	(void)state;
	for (int i = 0; i < PLACES; i++)
		for (int trained = 0; trained < 2 && there_is(&places[i]); trained++) {
			check_gate_modulate(&places[i], 3, 5, 33, trained); /* no whole packs */
			check_gate_modulate(&places[i], 7, 19, 128, trained);
			check_gate_modulate(&places[i], 2, 9, 1536, trained);
			check_gate_modulate(&places[i], 1, 3, 1544, trained);
			check_gate_modulate(&places[i], 1, 2, 2568,
					    trained); /* wider than the kernel's rows */
		}
}

/* x / rms(x) * w of heads in float64. */
static at_t norm64(at_t x, at_t w)
{
	return at_mul(at_mul(x, at_rsqrt(at_add(at_mean_dim(at_square(x), -1, true), 1e-6))), w);
}

/* Sizes of a joint attention; L 0: of one stream. */
struct joint {
	int64_t B, N, L, H, K;
	bool norms, all_queries, trained, transposed; /* transposed: gradients come as (B, H, S, K) */
};

static void check_qkv(const struct place *p, const struct joint *j)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	int streams = j->L ? 2 : 1, n = 0;
	at_t x[2], x64[2], w[4] = { NULL }, w64[4], leaf[6], leaf64[6], out[3], want[3], grad[6], grad64[6];

	for (int i = 0; i < streams; i++)
		leaf[n++] = random_at(p, DIMS(j->B, i ? j->L : j->N, 3, j->H, j->K), 1 + (uint64_t)i);
	for (int i = 0; j->norms && i < 2 * streams; i++)
		leaf[n++] = random_at(p, DIMS(j->K), 5 + (uint64_t)i);
	make_leaves(n, leaf, leaf64);
	if (!j->trained)
		for (int i = streams; i < n; i++) {
			at_set_requires_grad(leaf[i], false);
			at_set_requires_grad(leaf64[i], false);
		}
	for (int i = 0; i < streams; i++) {
		x[i] = leaf[i], x64[i] = leaf64[i];
		for (int k = 0; k < 2 && j->norms; k++)
			w[2 * i + k] = leaf[streams + 2 * i + k],
				  w64[2 * i + k] = leaf64[streams + 2 * i + k];
	}
	at_qkv(streams, x, (at_t[]) { w[0], w[2] }, (at_t[]) { w[1], w[3] }, j->all_queries, 1e-6, &out[0],
	       &out[1], &out[2]);
	at_t loss = NULL, loss64 = NULL, still[3];
	struct at_scope *frozen = at_begin(AT_NO_GRAD);

	at_qkv(streams, x, (at_t[]) { w[0], w[2] }, (at_t[]) { w[1], w[3] }, j->all_queries, 1e-6, &still[0],
	       &still[1], &still[2]);
	for (int k = 0; k < 3; k++)
		if (j->trained) /* that is no kernel's */
			assert_true(distance(still[k], out[k]) < p->tol);
		else if (!at_equal(still[k], at_detach(out[k])))
			fail_msg("%d x %d + %d tokens, %d heads of %d: %s differs by %.1e without gradients",
				 (int)j->B, (int)j->N, (int)j->L, (int)j->H, (int)j->K, at_describe(out[k]),
				 distance(still[k], out[k]));
	at_end(frozen);
	for (int k = 0; k < 3; k++) {
		at_t part[2];

		for (int i = 0; i < streams; i++) {
			part[i] = at_select(x64[i], 2, k);
			part[i] = j->norms && k < 2 ? norm64(part[i], w64[2 * i + k]) : part[i];
		}
		want[k] = streams > 1 && (k || j->all_queries) ? at_cat2(part[0], part[1], 1) : part[0];
		assert_int_equal(at_dtype_of(out[k]), p->dt);
		assert_true(distance(out[k], want[k]) < p->tol);
		struct at_dims d = at_shape(want[k]);
		at_t g = j->transposed
			     ? at_transpose(random_at(p, DIMS(d.d[0], d.d[2], d.d[1], d.d[3]), 20), 1, 2)
			     : random_at(p, d, 20);
		at_t y = at_mul(out[k], g), y64 = at_mul(want[k], exact(g));
		loss = loss ? at_add(loss, at_sum(y)) : at_sum(y);
		loss64 = loss64 ? at_add(loss64, at_sum(y64)) : at_sum(y64);
	}
	int leaves = j->trained ? n : streams;
	at_grad(loss, leaves, leaf, grad);
	at_grad(loss64, leaves, leaf64, grad64);
	for (int i = 0; i < leaves; i++)
		if (grad64[i])
			assert_true(distance(grad[i], grad64[i]) < 2 * p->tol);
		else /* a norm of queries that nobody has */
			assert_null(grad[i]);
	at_end(s);
}

static void test_qkv(void **state)
{
	static const struct joint sizes[] = {
		{ 2, 7, 3, 4, 64, true, true, false, false },  { 3, 9, 5, 3, 64, true, false, false, true },
		{ 1, 13, 0, 5, 64, true, true, false, true },  { 2, 3, 2, 2, 64, false, true, false, false },
		{ 2, 3, 0, 2, 64, false, true, false, false }, { 2, 5, 1, 3, 8, true, true, false, true },
		{ 1, 5, 3, 1, 16, true, false, false, false }, { 2, 6, 3, 3, 32, true, true, false, false },
		{ 1, 3, 2, 3, 128, true, true, false, true },  { 1, 2, 1, 3, 256, true, true, false, false },
		{ 2, 3, 2, 2, 96, true, true, false, false },  /* no power of two */
		{ 1, 9, 4, 24, 64, true, true, false, false }, /* as SD3.5 Medium's */
		{ 2, 5, 3, 2, 64, true, true, true, false },
	};

	(void)state;
	for (int i = 0; i < PLACES; i++)
		for (size_t k = 0; k < sizeof sizes / sizeof *sizes && there_is(&places[i]); k++)
			check_qkv(&places[i], &sizes[k]);
}

#ifdef CONTRAFLOW_FIBRES
static void test_every_kernel(void **state)
{
	(void)state;
	ALL_RAN("qkv", "qkv_back", "gate_modulate", "gate_modulate_back", "gate", "modulate");
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_gate_modulate),
		T(test_qkv),
#ifdef CONTRAFLOW_FIBRES
		T(test_every_kernel),
#endif
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
