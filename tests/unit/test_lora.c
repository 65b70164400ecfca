/* Targets, layout, merging and gradients of adapters, and the messages about their files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/conf/conf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include "tests/unit/handles.h"

#define R     2
#define SCALE 1.5

/* Names as the transformer has them, registered in an order that is not the alphabet's. */
struct net {
	struct nn_net net;
	struct nn_linear qkv, out, up;
};

static void lay_out(struct net *n)
{
	static const char *const qkv[] = { "blocks.0.attn.to_q", "blocks.0.attn.to_k", "blocks.0.attn.to_v" };

	*n = (struct net) { 0 };
	nn_add_linear(&n->net, &n->up, 1, (const char *const[]) { "blocks.0.ff.net.0.proj" },
		      (int64_t[]) { 6 }, 3, true);
	nn_add_linear(&n->net, &n->qkv, 3, qkv, (int64_t[]) { 3, 3, 3 }, 4, true);
	nn_add_linear(&n->net, &n->out, 1, (const char *const[]) { "blocks.0.attn.to_out.0" },
		      (int64_t[]) { 4 }, 3, true);
	nn_init(&n->net, 7);
}

static int try_init(struct lora *l, const struct net *n, const char *const *targets, struct err *e)
{
	struct lora_conf c = { .rank = R,
			       .alpha = R * SCALE,
			       .init = (char[]) { "gaussian" },
			       .targets = { (char **)(uintptr_t)targets, 0 } };

	while (targets[c.targets.n])
		c.targets.n++;
	return lora_init(l, &n->net, &c, 3, AT_CPU, e);
}

static struct lora make(const struct net *n, const char *const *targets)
{
	struct lora l;
	struct err e = { "" };

	if (try_init(&l, n, targets, &e))
		fail_msg("%s", e.msg);
	return l;
}
#define TARGETS(...) ((const char *const[]) { __VA_ARGS__, NULL })

static void fill(at_t t, double step)
{
	for (int64_t i = 0; i < at_numel(t); i++)
		at_f32(t)[i] = (float)sin(step * (double)(i + 1));
}

static char dir[] = "/tmp/test_lora.XXXXXX";

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(dir, &e);
}

/* ---- Structure ------------------------------------------------------------------------------- */

static const char *name(const struct lora *l, int i)
{
	return l->net->site[l->pair[i].site].name[l->pair[i].part];
}

static void expect(const struct net *n, const char *const *targets, const char *const *names)
{
	struct lora l = make(n, targets);

	for (int i = 0; i < l.n; i++)
		assert_string_equal(name(&l, i), names[i]);
	assert_null(names[l.n]);
	lora_release(&l);
}

static void targets(void **state)
{
	struct net n;
	struct lora l;
	struct err e = { "" };

	(void)state;
	lay_out(&n);
	expect(&n, TARGETS("to_q"), TARGETS("blocks.0.attn.to_q"));
	expect(&n, TARGETS("to_v", "attn.to_k"), TARGETS("blocks.0.attn.to_k", "blocks.0.attn.to_v"));
	expect(&n, TARGETS("blocks.0.ff.net.0.proj"), TARGETS("blocks.0.ff.net.0.proj"));
	expect(&n, TARGETS("0.proj", "to_q", "to_out.0"),
	       TARGETS("blocks.0.attn.to_out.0", "blocks.0.attn.to_q", "blocks.0.ff.net.0.proj"));
	char *log = file_join(dir, "log.txt"), *said;
	size_t size;
	assert_int_equal(log_file(log, &e), 0);
	expect(&n, TARGETS("to_q", "to_nothing", "attn.to_q"), TARGETS("blocks.0.attn.to_q"));
	log_close();
	assert_int_equal(file_read(&said, &size, log, &e), 0);
	assert_non_null(strstr(said, "no module matches 'to_nothing'"));
	assert_null(strstr(said, "'attn.to_q'"));
	free(said);
	free(log);

	/* a suffix begins after a dot, and an end is not a middle */
	assert_int_equal(try_init(&l, &n, TARGETS("o_q", "attn", "to_qq", ".to_q", ""), &e), -1);
	assert_non_null(strstr(e.msg, "lora.targets"));
	assert_non_null(strstr(e.msg, " attn.to_q "));
	assert_non_null(strstr(e.msg, " ff.net.0.proj"));
	assert_null(l.pair);
	nn_release(&n.net);
}

static void layout(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct net n;
	float at = 0;

	(void)state;
	lay_out(&n);
	struct lora l = make(&n, TARGETS("to_v", "to_q", "proj")), copy;
	assert_int_equal(l.numel, R * (4 + 3) + R * (4 + 3) + R * (3 + 6));
	assert_int_equal(at_numel(l.flat), l.numel);
	for (int64_t i = 0; i < l.numel; i++)
		at_f32(l.flat)[i] = (float)i;
	for (int i = 0; i < l.n; i++) { /* to_q, to_v, proj: A then B of each */
		assert_int_equal(l.at[l.pair[i].site * NN_PARTS + l.pair[i].part], i);
		for (int64_t k = 0; k < at_numel(l.pair[i].a_RI); k++)
			assert_true(at_f32(l.pair[i].a_RI)[k] == at++);
		for (int64_t k = 0; k < at_numel(l.pair[i].b_OR); k++)
			assert_true(at_f32(l.pair[i].b_OR)[k] == at++);
	}
	assert_true(at_shape_is(l.pair[2].a_RI, DIMS(R, 3)) && at_shape_is(l.pair[2].b_OR, DIMS(6, R)));
	assert_true(lora_touches(&l, n.qkv.site) && !lora_touches(&l, n.out.site));

	lora_copy_init(&copy, &l);
	assert_true(at_equal(copy.flat, l.flat));
	assert_int_equal(lora_hash(&copy), lora_hash(&l));
	at_f32(copy.flat)[5] = -1;
	assert_true(at_f32(l.flat)[5] == 5 && at_f32(copy.pair[0].a_RI)[5] == -1);
	assert_true(lora_hash(&copy) != lora_hash(&l));
	lora_set(&l, &copy);
	assert_true(at_f32(l.pair[0].a_RI)[5] == -1);
	lora_release(&l);
	lora_release(&copy);
	nn_release(&n.net);
	at_end(s);
}

static void fields(void **state)
{
	struct lora_conf c = { 0 };
	struct conf_node *none = conf_empty();
	struct err e = { "" };

	(void)state;
	if (conf_fill(&c, lora_fields, none, "", NULL, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(c.rank, 32);
	assert_float_equal(c.alpha, 64, 0);
	assert_string_equal(c.init, "gaussian");
	assert_int_equal(c.targets.n, 8);
	assert_string_equal(c.targets.v[0], "attn.to_q");
	assert_string_equal(c.targets.v[7], "attn.to_add_out");
	conf_release(&c, lora_fields);
	conf_node_free(none);
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* sum over r of b[o][r] a[r][i], in double */
static double product(const struct lora_pair *p, int64_t o, int64_t i)
{
	double sum = 0;

	for (int64_t r = 0; r < R; r++)
		sum +=
		    (double)at_f32(p->b_OR)[o * R + r] * (double)at_f32(p->a_RI)[r * at_size(p->a_RI, 1) + i];
	return sum;
}

static void merge(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct lora_merged m = { 0 };
	struct net n;
	double norm = 0;

	(void)state;
	lay_out(&n);
	struct lora l = make(&n, TARGETS("to_q", "to_v"));
	fill(l.flat, 0.9);
	lora_merge(&m, &l);
	assert_int_equal(m.n_site, 3);
	assert_null(m.w[n.out.site]);
	assert_null(m.w[n.up.site]);
	for (int64_t o = 0; o < 9; o++)
		for (int64_t i = 0; i < 4; i++) {
			const struct lora_pair *p = o < 3 ? &l.pair[0] : o < 6 ? NULL : &l.pair[1];
			double delta = p ? SCALE * product(p, o % 3, i) : 0;

			assert_float_equal(at_f32(m.w[n.qkv.site])[o * 4 + i],
					   (double)at_f32(n.qkv.w_OI)[o * 4 + i] + delta, 1e-6);
			norm += delta * delta;
		}
	assert_float_equal(lora_norm(&l), sqrt(norm), 1e-6);

	/* again into the same storage, and then with other modules */
	const float *storage = at_f32(m.w[n.qkv.site]);
	uint64_t hash = m.hash;
	assert_int_equal(hash, lora_hash(&l));
	at_zero_(l.flat);
	lora_merge(&m, &l);
	assert_ptr_equal(at_f32(m.w[n.qkv.site]), storage);
	assert_true(at_equal(m.w[n.qkv.site], n.qkv.w_OI));
	assert_true(m.hash != hash);
	struct lora other = make(&n, TARGETS("proj"));
	lora_merge(&m, &other);
	assert_null(m.w[n.qkv.site]);
	assert_non_null(m.w[n.up.site]);
	lora_merged_release(&m);
	assert_null(m.w);
	lora_release(&l);
	lora_release(&other);
	nn_release(&n.net);
	at_end(s);
}

/* bfloat16: W + scale * B A is rounded once, from float32. */
static void merge_rounds_once(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct lora_merged m = { 0 };
	struct net n;

	(void)state;
	lay_out(&n);
	at_set(&n.out.w_OI, at_cast(n.out.w_OI, AT_BF16));
	struct lora l = make(&n, TARGETS("to_out.0"));
	fill(l.flat, 0.01);
	lora_merge(&m, &l);
	assert_int_equal(at_dtype_of(m.w[n.out.site]), AT_BF16);
	at_t w = at_cast(m.w[n.out.site], AT_F32), base = at_cast(n.out.w_OI, AT_F32);
	at_t exact = at_clone(base);
	for (int64_t i = 0; i < 12; i++)
		at_f32(exact)[i] += (float)(SCALE * product(&l.pair[0], i / 3, i % 3));
	assert_true(at_equal(w, at_cast(at_cast(exact, AT_BF16), AT_F32)));
	assert_false(at_equal(w, base));
	lora_merged_release(&m);
	lora_release(&l);
	nn_release(&n.net);
	at_end(s);
}

static at_t low_rank(const struct lora *l, const struct nn_linear *linear, at_t x)
{
	at_t a_RI, b_OR;

	lora_stack_as(l, linear->site, AT_F32, &a_RI, &b_OR);
	return at_linear_low_rank(x, linear->w_OI, linear->b_O, a_RI, b_OR, NULL);
}

/* What merging keeps of adapters of three sizes, by a sum over what became of the weights. */
static void survival(void **state)
{
	static const double sizes[] = { 0.01, 0.05, 1 };
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct lora_merged m = { 0 };
	struct net n;
	double last = 0;

	(void)state;
	lay_out(&n);
	at_set(&n.out.w_OI, at_cast(n.out.w_OI, AT_BF16));
	struct lora l = make(&n, TARGETS("to_out.0"));
	for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
		double kept = 0, all = 0;

		fill(l.flat, 0.9);
		at_copy_(l.flat, at_mul(l.flat, sizes[k]));
		lora_merge(&m, &l);
		at_t became = at_sub(at_cast(m.w[n.out.site], AT_F64), at_cast(n.out.w_OI, AT_F64));
		for (int64_t i = 0; i < 12; i++) {
			double d = SCALE * product(&l.pair[0], i / 3, i % 3);

			kept += d * ((const double *)at_data(became))[i];
			all += d * d;
		}
		assert_float_equal(lora_survival(&l, AT_BF16), kept / all, 1e-5);
		assert_float_equal(lora_survival(&l, AT_F32), 1, 0.02);
		last = kept / all;
	}
	assert_float_equal(last, 1, 0.02);
	assert_true(lora_rounds(&l));
	lora_merged_release(&m);
	lora_release(&l);
	nn_release(&n.net);
	at_end(s);
}

/* Weights of 16 bits have their pairs beside them, in memory that stays; those of 32 in them. */
static void forms(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct lora_merged m = { 0 };
	struct net n;

	(void)state;
	lay_out(&n);
	struct lora l = make(&n, TARGETS("to_out.0"));
	fill(l.flat, 0.3);
	lora_ready(&m, &l, LORA_AUTO);
	assert_non_null(m.w[n.out.site]);
	assert_null(m.a_RI[n.out.site]);
	lora_ready(&m, &l, LORA_BESIDE);
	assert_null(m.w[n.out.site]);
	assert_non_null(m.a_RI[n.out.site]);
	at_set(&n.out.w_OI, at_cast(n.out.w_OI, AT_BF16));
	lora_ready(&m, &l, LORA_AUTO);
	const void *a = at_data(m.a_RI[n.out.site]), *wide = at_data(m.wide_OK[n.out.site]);
	uint64_t hash = m.hash;
	assert_true(at_shape_is(m.wide_OK[n.out.site], DIMS(4, 3 + R)));
	fill(l.flat, 0.4);
	lora_ready(&m, &l, LORA_AUTO);
	assert_ptr_equal(at_data(m.a_RI[n.out.site]), a);
	assert_ptr_equal(at_data(m.wide_OK[n.out.site]), wide);
	assert_true(m.hash != hash);
	lora_ready(&m, &l, LORA_IN_WEIGHTS);
	assert_int_equal(at_dtype_of(m.w[n.out.site]), AT_BF16);
	assert_null(m.wide_OK[n.out.site]);
	lora_merged_release(&m);
	lora_release(&l);
	nn_release(&n.net);
	at_end(s);
}

/* Gradients of sum(y * g): with G = g^T x, dB = scale G A^T and dA = scale B^T G; on the fly, merged and
 * by one product, added to what the buffer holds. */
static void gradients(void **state)
{
	struct net n;

	(void)state;
	lay_out(&n);
	for (int merged = 0; merged < 3; merged++) {
		struct at_scope *s = at_begin(AT_WITH_GRAD);
		struct lora l = make(&n, TARGETS("to_q", "to_v", "proj"));
		struct lora_merged m = { 0 };
		at_t x = at_empty(DIMS(5, 4), AT_F32, AT_CPU), g = at_empty(DIMS(5, 9), AT_F32, AT_CPU);
		int64_t at = 0;

		fill(x, 0.7);
		fill(g, 1.9);
		fill(l.flat, 0.9);
		lora_require_grad(&l);
		if (merged == 1)
			lora_merge_grad(&m, &l);
		at_t y = merged == 2 ? low_rank(&l, &n.qkv, x)
				     : nn_linear(&n.qkv,
						 &(struct pass) { .lora = merged ? NULL : &l,
								  .merged = merged ? &m : NULL },
						 x);
		at_t grad = lora_backward(&l, at_sum(at_mul(y, g)));
		for (int i = 0; i < 2; i++, at += R * 7) {
			const float *a = at_f32(l.pair[i].a_RI), *b = at_f32(l.pair[i].b_OR),
				    *d = at_f32(grad) + at;
			double G[3][4] = { { 0 } }, da[R][4] = { { 0 } }, db[3][R] = { { 0 } };

			for (int64_t t = 0; t < 60; t++)
				G[t / 4 % 3][t % 4] +=
				    (double)at_f32(g)[t / 12 * 9 + (i ? 6 : 0) + t / 4 % 3] *
				    (double)at_f32(x)[t / 12 * 4 + t % 4];
			for (int64_t t = 0; t < 3 * 4 * R; t++) {
				int64_t o = t / (4 * R), k = t / R % 4, r = t % R;

				db[o][r] += SCALE * G[o][k] * (double)a[r * 4 + k];
				da[r][k] += SCALE * G[o][k] * (double)b[o * R + r];
			}
			for (int64_t k = 0; k < R * 4; k++)
				assert_float_equal(d[k], da[k / 4][k % 4], 2e-5);
			for (int64_t k = 0; k < 3 * R; k++)
				assert_float_equal(d[R * 4 + k], db[k / R][k % R], 2e-5);
		}
		for (; at < l.numel; at++) /* the loss does not reach proj */
			assert_true(at_f32(grad)[at] == 0);
		lora_merged_release(&m);
		lora_release(&l);
		at_end(s);
	}
	nn_release(&n.net);
}

/* Leaves share the flat vector's storage: a step on it is a step of theirs. */
static void leaves(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct net n;

	(void)state;
	lay_out(&n);
	struct lora l = make(&n, TARGETS("to_q"));
	lora_require_grad(&l);
	lora_require_grad(&l);
	assert_true(at_requires_grad(l.pair[0].a_RI) && at_requires_grad(l.pair[0].b_OR) &&
		    !at_requires_grad(l.flat));
	at_add_(l.flat, at_full(DIMS(l.numel), 1, AT_F32, AT_CPU));
	assert_true(at_f32(l.pair[0].b_OR)[0] == 1);
	lora_release(&l);
	nn_release(&n.net);
	at_end(s);
}

/* Which way is cheaper follows the sizes: the shapes world merges, SD3.5-Medium at 512 x 512 does not. */
static void cheaper(void **state)
{
	static const struct {
		int64_t width, rank, tokens;
		bool merge;
	} cases[] = { { 96, 16, 64 * 46, true },
		      { 160, 32, 64 * 46, true },
		      { 1536, 32, 8 * 1300, false },
		      { 96, 16, 8, false } };

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct nn_net net = { 0 };
		struct nn_linear l;
		struct lora lora;
		int64_t D = cases[i].width;
		struct lora_size size = { cases[i].rank, 1 }, all[NN_PARTS] = { size, size, size };

		nn_add_linear(&net, &l, 3, (const char *const[]) { "q", "k", "v" }, (int64_t[]) { D, D, D },
			      D, true);
		lora_lay_out(&lora, &net, all, AT_CPU);
		assert_int_equal(lora_prefers_merge(&lora, cases[i].tokens), cases[i].merge);
		lora_release(&lora);
		nn_release(&net);
	}
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void files(void **state)
{
	char *path = file_join(dir, "adapter"), *temp, *weights, *none = file_join(dir, "none");
	struct net n, other;
	struct lora back;
	struct err e = { "" };

	(void)state;
	lay_out(&n);
	struct lora l = make(&n, TARGETS("to_q", "proj"));
	fill(l.flat, 0.3);
	assert_int_equal(lora_save(&l, path, &e), 0);
	assert_int_equal(lora_save(&l, path, &e), -1); /* never over another */
	assert_non_null(strstr(e.msg, path));
	assert_int_equal(lora_load(&back, &n.net, path, AT_CPU, &e), 0);
	assert_true(at_equal(back.flat, l.flat));
	assert_int_equal(back.pair[1].size.rank, R);
	assert_float_equal(back.pair[1].size.alpha, R * SCALE, 0);
	lora_release(&back);

	/* the same module with other sizes */
	other = (struct net) { 0 };
	nn_add_linear(&other.net, &other.up, 1, (const char *const[]) { "blocks.0.attn.to_q" },
		      (int64_t[]) { 5 }, 8, true);
	nn_add_linear(&other.net, &other.out, 1, (const char *const[]) { "blocks.0.ff.net.0.proj" },
		      (int64_t[]) { 6 }, 3, true);
	assert_int_equal(lora_load(&back, &other.net, path, AT_CPU, &e), -1);
	assert_non_null(strstr(e.msg, "has rank 2 for blocks.0.attn.to_q of shape [5, 8], but its"));
	assert_null(back.pair);

	assert_int_equal(lora_load(&back, &n.net, none, AT_CPU, &e), -1);
	assert_non_null(strstr(e.msg, none));
	weights = file_join(path, "adapter_model.safetensors");
	assert_int_equal(file_write(weights, "short", 5, &e), 0);
	assert_int_equal(lora_load(&back, &n.net, path, AT_CPU, &e), -1);
	assert_non_null(strstr(e.msg, weights));

	/* nothing is left of a save that fails */
	temp = mem_printf("%s/a file", dir);
	assert_int_equal(file_write(temp, "", 0, &e), 0);
	free(none);
	none = file_join(temp, "adapter");
	assert_int_equal(lora_save(&l, none, &e), -1);
	assert_false(file_exists(none));
	lora_release(&l);
	nn_release(&n.net);
	nn_release(&other.net);
	free(temp);
	free(weights);
	free(none);
	free(path);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, count_handles, no_handle_left)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(targets),  TEST(layout), TEST(fields),    TEST(merge),  TEST(merge_rounds_once),
		TEST(survival), TEST(forms),  TEST(gradients), TEST(leaves), TEST(cheaper),
		TEST(files),
	};

	at_set_threads(1);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
