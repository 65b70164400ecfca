/* Layout, files and the linear of models/nn.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/file.h"
#include "models/lora/lora.h"
#include "models/nn.h"
#include "tests/unit/handles.h"

/* Two modules stacked, one alone without bias, a norm and a buffer. */
struct net {
	struct nn_net net;
	struct nn_linear two, alone;
	at_t norm, table;
};

static void lay_out(struct net *n)
{
	*n = (struct net) { 0 };
	nn_add_linear(&n->net, &n->two, 2, (const char *const[]) { "a.q", "a.k" }, (int64_t[]) { 3, 2 }, 4,
		      true);
	nn_add_linear(&n->net, &n->alone, 1, (const char *const[]) { "b" }, (int64_t[]) { 2 }, 5, false);
	nn_add_tensor(&n->net, &n->norm, "norm.weight", DIMS(4), true);
	nn_add_tensor(&n->net, &n->table, "table", DIMS(1, 6), false);
}

static char dir[] = "/tmp/test_nn.XXXXXX";
static char *path;

static int set_up(void **state)
{
	(void)state;
	path = mkdtemp(dir) ? file_join(dir, "net.safetensors") : NULL;
	return path ? 0 : -1;
}

static int tear_down(void **state)
{
	struct err e;

	(void)state;
	free(path);
	return file_remove_tree(dir, &e);
}

static void layout(void **state)
{
	static const char *const names[] = { "a.q.weight", "a.q.bias",    "a.k.weight", "a.k.bias",
					     "b.weight",   "norm.weight", "table" };
	struct net n;

	(void)state;
	lay_out(&n);
	assert_int_equal(n.net.n_param, 7);
	for (int i = 0; i < 7; i++) {
		assert_string_equal(n.net.param[i].name, names[i]);
		assert_int_equal(n.net.param[i].trainable, i != 6);
	}
	assert_int_equal(n.net.n_site, 2);
	assert_int_equal(n.two.site, 0);
	assert_int_equal(n.alone.site, 1);
	assert_int_equal(n.net.site[0].row[1], 3);
	assert_int_equal(n.net.site[0].row[2], 5);
	assert_int_equal(n.net.site[0].in, 4);
	assert_int_equal(nn_count(&n.net), 12 + 3 + 8 + 2 + 10 + 4 + 6);
	nn_release(&n.net);
	assert_null(n.two.w_OI);
}

static void init(void **state)
{
	struct net n, same, other;

	(void)state;
	lay_out(&n);
	lay_out(&same);
	lay_out(&other);
	nn_init(&n.net, 3);
	nn_init(&same.net, 3);
	nn_init(&other.net, 4);
	assert_true(at_shape_is(n.two.w_OI, DIMS(5, 4)));
	assert_true(at_shape_is(n.two.b_O, DIMS(5)));
	assert_null(n.alone.b_O);
	assert_true(at_equal(n.two.w_OI, same.two.w_OI));
	assert_true(at_equal(n.two.b_O, same.two.b_O));
	assert_false(at_equal(n.two.w_OI, other.two.w_OI));
	for (int i = 0; i < 20; i++)
		assert_true(fabsf(at_f32(n.two.w_OI)[i]) <= 0.5f);
	for (int i = 0; i < 5; i++) {
		assert_true(fabsf(at_f32(n.two.b_O)[i]) <= 0.5f);
		assert_true(at_f32(n.two.b_O)[i] != 0);
	}
	for (int i = 0; i < 4; i++)
		assert_true(at_f32(n.norm)[i] == 1);
	for (int i = 0; i < 6; i++)
		assert_true(at_f32(n.table)[i] == 0);
	nn_release(&n.net);
	nn_release(&same.net);
	nn_release(&other.net);
}

/* ---- Files ----------------------------------------------------------------------------------- */

#define TENSORS 7
struct file {
	struct st_item item[TENSORS + 1];
	int n;
};

/* What a checkpoint of the net holds; the values count up over all tensors. */
static struct file contents(void)
{
	static const struct {
		const char *name;
		struct at_dims shape;
	} t[TENSORS] = {
		{ "a.q.weight", { 2, { 3, 4 } } }, { "a.q.bias", { 1, { 3 } } },
		{ "a.k.weight", { 2, { 2, 4 } } }, { "a.k.bias", { 1, { 2 } } },
		{ "b.weight", { 2, { 2, 5 } } },   { "norm.weight", { 1, { 4 } } },
		{ "table", { 2, { 1, 6 } } },
	};
	struct file f = { .n = TENSORS };
	double first = 0;

	for (int i = 0; i < TENSORS; i++) {
		int64_t count = t[i].shape.d[0] * (t[i].shape.n > 1 ? t[i].shape.d[1] : 1);
		at_t v = at_add(at_arange(count, AT_F32, AT_CPU), first);

		f.item[i] = (struct st_item) { t[i].name, at_reshape(v, t[i].shape) };
		first += (double)count;
	}
	return f;
}

static int load(struct net *n, const struct file *file, enum at_dtype dt, struct err *e)
{
	struct st_file f;
	int ret;

	lay_out(n);
	if (st_write(path, file->item, file->n, NULL, 0, e) || st_open(&f, path, e))
		return -1;
	ret = nn_load(&n->net, &f, dt, AT_CPU, e);
	st_close(&f);
	return ret;
}

static void load_and_save(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct file file = contents(), swapped = file;
	struct net n, again;
	struct st_file f;
	struct err e;

	(void)state;
	for (int i = 0; i < TENSORS; i++) /* the order in the file does not matter */
		swapped.item[i] = file.item[TENSORS - 1 - i];
	assert_int_equal(load(&n, &swapped, AT_F32, &e), 0);
	for (int i = 0; i < 12; i++) /* a.q then a.k, stacked */
		assert_true(at_f32(n.two.w_OI)[i] == (float)i);
	for (int i = 0; i < 8; i++)
		assert_true(at_f32(n.two.w_OI)[12 + i] == (float)(15 + i));
	assert_true(at_f32(n.two.b_O)[2] == 14 && at_f32(n.two.b_O)[3] == 23);

	assert_int_equal(nn_save(&n.net, NULL, path, AT_F32, &e), 0);
	assert_int_equal(st_open(&f, path, &e), 0);
	assert_int_equal(f.n, TENSORS);
	for (int i = 0; i < TENSORS; i++)
		assert_true(at_equal(st_get(st_find(&f, file.item[i].name)), file.item[i].t));
	lay_out(&again);
	assert_int_equal(nn_load(&again.net, &f, AT_BF16, AT_CPU, &e), 0);
	st_close(&f);
	assert_int_equal(at_dtype_of(again.two.w_OI), AT_BF16);
	assert_true(at_equal(at_cast(again.two.w_OI, AT_F32), n.two.w_OI));
	nn_release(&n.net);
	nn_release(&again.net);
	at_end(s);
}

static void refuses(const struct file *file, const char *const *parts)
{
	struct net n;
	struct err e = { "" };

	assert_int_equal(load(&n, file, AT_F32, &e), -1);
	for (; *parts; parts++)
		if (!strstr(e.msg, *parts))
			fail_msg("'%s' does not say '%s'", e.msg, *parts);
	nn_release(&n.net);
}
#define REFUSES(f, ...) refuses(&(f), (const char *const[]) { path, __VA_ARGS__, NULL })

static void load_errors(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct file f = contents();

	(void)state;
	f.item[2] = f.item[--f.n];
	REFUSES(f, "a.k.weight");
	f = contents();
	f.item[f.n++] = (struct st_item) { "c.bias", f.item[1].t };
	REFUSES(f, "'c.bias'", "does not belong to this model");
	f = contents();
	f.item[2].t = at_reshape(f.item[2].t, DIMS(4, 2));
	REFUSES(f, "a.k.weight", "[2, 4]", "[4, 2]");
	f = contents();
	f.item[4].t = at_cast(f.item[4].t, AT_I64);
	REFUSES(f, "'b.weight'", "int64", "floating-point");
	at_end(s);
}

static void truncated(void **state)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct file f = contents();
	struct st_file st;
	struct err e = { "" };
	char *data;
	size_t size;

	(void)state;
	assert_int_equal(st_write(path, f.item, f.n, NULL, 0, &e), 0);
	assert_int_equal(file_read(&data, &size, path, &e), 0);
	for (size_t cut = 1; cut < size; cut += 13) {
		assert_int_equal(file_write(path, data, size - cut, &e), 0);
		assert_int_equal(st_open(&st, path, &e), -1);
		assert_non_null(strstr(e.msg, path));
	}
	free(data);
	at_end(s);
}

/* ---- Forward --------------------------------------------------------------------------------- */

static void fill(at_t t, double step)
{
	for (int64_t i = 0; i < at_numel(t); i++)
		at_f32(t)[i] = (float)sin(step * (double)(i + 1));
}

/* Row o of y = (W + scale * B A) x + b in double, with the pair's rows from `row` on. */
static double expected(const struct net *n, const struct lora_pair *p, int64_t row, double scale,
		       const float *x, int64_t o)
{
	const float *w = at_f32(n->two.w_OI);
	double y = at_f32(n->two.b_O)[o];

	for (int i = 0; i < 4; i++) {
		double v = w[o * 4 + i];

		if (p && o >= row && o < row + at_size(p->b_OR, 0))
			for (int r = 0; r < 2; r++)
				v += scale * (double)at_f32(p->b_OR)[(o - row) * 2 + r] *
				     (double)at_f32(p->a_RI)[r * 4 + i];
		y += v * (double)x[i];
	}
	return y;
}

/* On the fly, merged and beside, with a pair on both parts, or on one of them, or on none. */
static void linear(void **state)
{
	static char *const targets[] = { "a.q", "a.k" };
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct net n;
	struct err e;

	(void)state;
	lay_out(&n);
	nn_init(&n.net, 1);
	at_t x = at_empty(DIMS(2, 3, 4), AT_F32, AT_CPU);
	fill(x, 0.7);
	for (int which = 0; which < 4; which++) {
		struct lora_conf c = {
			.rank = 2,
			.alpha = 3,
			.init = (char[]) { "gaussian" },
			.targets = { (char **)&targets[which == 1], which == 2 ? 2 : 1 },
		};
		struct lora_merged merged = { 0 }, beside = { 0 };
		struct pass pass[3] = { { 0 }, { 0 }, { 0 } };
		struct lora l = { 0 };

		if (which < 3) {
			assert_int_equal(lora_init(&l, &n.net, &c, 5, AT_CPU, &e), 0);
			fill(l.flat, 1.3);
			lora_merge(&merged, &l);
			pass[0].lora = &l;
			pass[1].merged = &merged;
			lora_beside(&beside, &l, true);
			pass[2].merged = &beside;
		}
		for (int k = 0; k < 3; k++) {
			at_t y = nn_linear(&n.two, &pass[k], x);

			assert_true(at_shape_is(y, DIMS(2, 3, 5)));
			for (int64_t i = 0; i < 30; i++) {
				int pair = which < 3 ? l.at[i % 5 >= 3] : -1;
				double want = expected(&n, pair < 0 ? NULL : &l.pair[pair],
						       i % 5 >= 3 ? 3 : 0, 1.5, at_f32(x) + i / 5 * 4, i % 5);
				assert_float_equal(at_f32(y)[i], want, 1e-5);
			}
		}
		lora_merged_release(&merged);
		lora_merged_release(&beside);
		lora_release(&l);
	}
	assert_true(at_equal(nn_linear(&n.two, NULL, x), nn_linear(&n.two, &(struct pass) { 0 }, x)));
	nn_release(&n.net);
	at_end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(layout, count_handles, no_handle_left),
		cmocka_unit_test_setup_teardown(init, count_handles, no_handle_left),
		cmocka_unit_test_setup_teardown(load_and_save, count_handles, no_handle_left),
		cmocka_unit_test_setup_teardown(load_errors, count_handles, no_handle_left),
		cmocka_unit_test_setup_teardown(truncated, count_handles, no_handle_left),
		cmocka_unit_test_setup_teardown(linear, count_handles, no_handle_left),
	};

	at_set_threads(1);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
