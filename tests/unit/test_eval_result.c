/* trainer/eval_result.h: means over tags, what lacks a score, and there and back through JSON. */
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
#include "tests/unit/made_up.h"
#include "trainer/eval_result.h"

static const struct reward_type judge = {
	.abi = REWARD_ABI, .name = "judge", .sub_names = { "other", "strict" }, .score = value_score
};

#define N 6
static const char *const tags[N] = { "a", "a", "a", "b", "b", "a" };
static const double soft[N] = { 0.5, 1, 0, 0.25, 0.75, 0.9 }, strict[N] = { 0, 1, 0, 0, 1, 1 };

/* N images, each a group of its own, of a plain reward (3 for all) and the judge, whose scores in `lacks`
 * could not be had; the judge may be left out. */
static struct eval_result count(const struct reward_type *type, unsigned lacks, unsigned plain_lacks,
				double quorum)
{
	const struct mixture_entry entry[] = { { .type = &value_reward, .weight = 1 },
					       { .type = type, .weight = 2, .quorum = quorum } };
	struct mixture *m = mixture_new(entry, 2, 1);
	struct eval_result r = { 0 };
	struct mixture_scores s;
	int64_t group[N];

	mixture_scores_init(&s, N, 2);
	mixture_begin(m, &s);
	for (int i = 0; i < N; i++) {
		group[i] = i;
		s.value[i] = plain_lacks >> i & 1 ? NAN : 3;
		if (lacks >> i & 1)
			continue;
		s.value[N + i] = soft[i];
		s.sub[(N + i) * REWARD_SUBS + 1] = strict[i];
	}
	mixture_total(m, &s, group, N);
	for (int i = 0; i < N; i++)
		eval_count(&r, m, &s, i, tags[i]);
	eval_finish(&r);
	mixture_scores_free(&s);
	mixture_close(m);
	return r;
}

static void near(double a, double b)
{
	if (!(fabs(a - b) < 1e-12) && !(isnan(a) && isnan(b)))
		fail_msg("%.17g is not %.17g", a, b);
}

/* To a file and back: the same, by name. */
static void round_trip(struct eval_result *r)
{
	char path[] = "/tmp/eval_result-XXXXXX";
	struct eval_result back = { 0 };
	struct err e = { "" };
	json_t *j = eval_json(r), *read;

	close(mkstemp(path));
	assert_non_null(j);
	assert_int_equal(json_write(path, j, &e), 0);
	assert_non_null(read = json_read(path, &e));
	assert_int_equal(eval_from_json(&back, read, path, &e), 0);
	assert_int_equal(eval_from_json(&back, read, path, &e), 0); /* over an earlier one */
	assert_true(back.has_strict == r->has_strict && back.n_tags == r->n_tags);
	assert_true(back.images == r->images && back.unavailable == r->unavailable);
	assert_true(back.n_strict == r->n_strict);
	near(eval_held_out(&back), eval_held_out(r));
	near(back.soft, r->soft);
	near(back.total, r->total);
	for (int i = 0; i < r->n_tags; i++)
		for (int k = 0; k < r->n_tags; k++) {
			if (strcmp(r->tag[i].name, back.tag[k].name))
				continue;
			near(back.tag[k].soft, r->tag[i].soft);
			near(back.tag[k].strict, r->tag[i].strict);
			assert_int_equal(back.tag[k].images, r->tag[i].images);
		}
	json_t *again = eval_json(&back);
	assert_true(json_equal(again, read)); /* every digit */
	json_decref(again);
	json_decref(read);
	json_decref(j);
	unlink(path);
	eval_release(&back);
	assert_null(back.tag);
}

static void all_there(void **state)
{
	struct eval_result r = count(&judge, 0, 0, 0);

	(void)state;
	assert_true(r.images == N && r.unavailable == 0 && r.has_strict && r.n_strict == N && r.n_tags == 2);
	assert_string_equal(r.tag[0].name, "a");
	near(r.tag[0].strict, 0.5);
	near(r.tag[0].soft, 0.6);
	near(r.tag[1].strict, 0.5);
	near(r.strict, 0.5);
	near(r.soft, (0.6 + 0.5) / 2);
	near(r.total, 3 + 2 * (0.5 + 1 + 0 + 0.25 + 0.75 + 0.9) / N);
	near(r.strict_95, 1.96 * sqrt(0.25 / 4 + 0.25 / 2) / 2);
	near(eval_held_out(&r), r.strict);
	round_trip(&r);
	eval_release(&r);
}

/* Without a reward that has "strict": the total's means. */
static void no_strict(void **state)
{
	struct eval_result r = count(&value_reward, 0, 0, 0);

	(void)state;
	assert_false(r.has_strict);
	assert_true(isnan(r.strict) && isnan(r.tag[0].strict) && isnan(r.strict_95) && r.n_strict == 0);
	near(r.tag[0].soft, 3 + 2 * 0.6);
	near(eval_held_out(&r), r.soft);
	round_trip(&r);
	eval_release(&r);
}

/* The judge is left out of image 1, which has a total all the same: strict and soft are of the others. */
static void left_out(void **state)
{
	struct eval_result r = count(&judge, 1 << 1, 0, 0.5);

	(void)state;
	assert_true(r.images == N && r.unavailable == 0 && r.n_strict == N - 1);
	assert_int_equal(r.tag[0].images, 4);
	near(r.tag[0].strict, 1.0 / 3);
	near(r.tag[0].soft, 1.4 / 3);
	near(r.strict, (1.0 / 3 + 0.5) / 2);
	round_trip(&r);
	eval_release(&r);
}

/* Another reward lacks image 1: no total, but what the judge said counts. */
static void another_lacks(void **state)
{
	struct eval_result r = count(&judge, 0, 1 << 1, 0);

	(void)state;
	assert_true(r.images == N - 1 && r.unavailable == 1 && r.n_strict == N);
	near(r.tag[0].strict, 0.5);
	assert_int_equal(r.tag[0].images, 3);
	round_trip(&r);
	eval_release(&r);
}

/* A tag without a score counts in no mean and is no 0; with none at all there is no number, and still a file.
 */
static void nothing_there(void **state)
{
	struct eval_result r = count(&judge, 1 << 3 | 1 << 4, 0, 0.5);

	(void)state;
	assert_true(isnan(r.tag[1].strict) && isnan(r.tag[1].soft));
	near(r.strict, 0.5);
	near(r.strict_95, 1.96 * 0.25);
	round_trip(&r);
	eval_print(&r, NULL, "images");
	eval_release(&r);
	r = count(&judge, 63, 0, 0.5);
	assert_true(r.images == N && r.has_strict && isnan(r.strict) && isnan(r.soft) && isnan(r.strict_95));
	near(r.total, 3);
	assert_true(isnan(eval_held_out(&r)));
	round_trip(&r);
	eval_print(&r, &r, "images");
	eval_release(&r);
	r = count(&judge, 63, 63, 0);
	assert_true(r.images == 0 && r.unavailable == N && isnan(r.total));
	round_trip(&r);
	eval_release(&r);
}

/* Before any evaluation. */
static void empty(void **state)
{
	struct eval_result r = { 0 };

	(void)state;
	round_trip(&r);
}

/* As many tags as there are, as long as they are. */
static void many_tags(void **state)
{
	const struct mixture_entry entry = { .type = &judge, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 1);
	struct eval_result r = { 0 };
	struct mixture_scores s;
	char name[80];

	(void)state;
	mixture_scores_init(&s, 200, 1);
	for (int i = 0; i < 200; i++) {
		s.value[i] = i % 100;
		s.sub[i * REWARD_SUBS + 1] = i < 100;
	}
	mixture_total(m, &s, NULL, 0);
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof name, "a tag of more than thirty-two characters, number %d", i % 100);
		eval_count(&r, m, &s, i, i == 199 ? "" : name);
	}
	eval_finish(&r);
	assert_int_equal(r.n_tags, 101);
	assert_string_equal(r.tag[100].name, "all");
	for (int i = 0; i < 99; i++) {
		assert_int_equal(r.tag[i].images, 2);
		near(r.tag[i].soft, i);
		near(r.tag[i].strict, 0.5);
	}
	round_trip(&r);
	eval_release(&r);
	mixture_scores_free(&s);
	mixture_close(m);
}

/* Files of earlier versions: a number says that there is such a score; and what is no number is an error. */
static void other_files(void **state)
{
	static const char old[] =
	    "{\"strict\": 0.5, \"strict_95\": 0.1, \"soft\": 0.75, \"images\": 3, \"tags\": "
	    "{\"x\": {\"strict\": 0.5, \"soft\": 0.75, \"images\": 3}}}";
	static const char none[] = "{\"strict\": null, \"soft\": 0.75}", bad[] = "{\"soft\": \"much\"}";
	struct eval_result r = { 0 };
	struct err e = { "" };
	json_t *j = json_parse(old, strlen(old), "old", &e);

	(void)state;
	assert_int_equal(eval_from_json(&r, j, "old", &e), 0);
	assert_true(r.has_strict && r.strict == 0.5 && r.n_tags == 1 && r.tag[0].images == 3);
	json_decref(j);
	j = json_parse(none, strlen(none), "none", &e);
	assert_int_equal(eval_from_json(&r, j, "none", &e), 0);
	assert_true(!r.has_strict && r.n_tags == 0 && eval_held_out(&r) == 0.75);
	json_decref(j);
	j = json_parse(bad, strlen(bad), "bad", &e);
	assert_int_equal(eval_from_json(&r, j, "bad", &e), -1);
	assert_string_equal(e.msg, "bad: 'soft' is not a number");
	json_decref(j);
	eval_release(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_there),     cmocka_unit_test(no_strict),     cmocka_unit_test(left_out),
		cmocka_unit_test(another_lacks), cmocka_unit_test(nothing_there), cmocka_unit_test(empty),
		cmocka_unit_test(many_tags),     cmocka_unit_test(other_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
