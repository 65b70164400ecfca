/* trainer/evaluation/eval_result.h: means over tags, what lacks a score, differences, and there and back
 * through JSON. */
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
#include "trainer/evaluation/eval_result.h"

static const struct reward_type judge = { .abi = REWARD_ABI,
					  .name = "judge",
					  .sub_names = { "other", "strict", "correct" },
					  .score = value_score };

#define N 6
static const char *const tags[N] = { "a", "a", "a", "b", "b", "a" };
static const double soft[N] = { 0.5, 1, 0, 0.25, 0.75, 0.9 }, strict[N] = { 0, 1, 0, 0, 1, 1 },
		    correct[N] = { 1, 1, 0, 0, 1, 1 };
static const char *const texts[N] = { "p", "p", "q", "p", "q", "r" };

/* N images, each a group of its own, of a plain reward (3 for all) and the judge, whose scores in `lacks`
 * could not be had; the judge may be left out. */
static struct eval_result count(const struct reward_type *type, unsigned lacks, unsigned plain_lacks,
				double quorum)
{
	const struct mixture_entry entry[] = {
		{ .type = &value_reward, .name = mem_str("plain"), .weight = 1 },
		{ .type = type, .weight = 2, .quorum = quorum }
	};
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
		s.sub[(N + i) * REWARD_SUBS + 2] = correct[i];
	}
	mixture_total(m, &s, group, N);
	for (int i = 0; i < N; i++)
		eval_count(&r, m, &s, i, tags[i], texts[i]);
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

static void same(const struct eval_number *a, const struct eval_number *b)
{
	near(a->mean, b->mean);
	near(a->in.low, b->in.low);
	near(a->in.high, b->in.high);
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
	assert_true(!memcmp(back.has, r->has, sizeof r->has) && back.n_tags == r->n_tags);
	assert_true(back.prompts == r->prompts && back.n_rewards == r->n_rewards);
	assert_true(back.images == r->images && back.unavailable == r->unavailable);
	same(&back.total, &r->total);
	for (int k = 0; k < EVAL_KINDS; k++)
		same(&back.of[k], &r->of[k]);
	for (int i = 0; i < r->n_tags; i++)
		for (int k = 0; k < r->n_tags; k++) {
			if (strcmp(r->tag[i].name, back.tag[k].name))
				continue;
			for (int of = 0; of < EVAL_KINDS; of++)
				near(back.tag[k].of[of].mean, r->tag[i].of[of].mean);
			assert_int_equal(back.tag[k].images, r->tag[i].images);
			assert_int_equal(back.tag[k].prompts, r->tag[i].prompts);
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
	assert_true(r.images == N && r.unavailable == 0 && r.has[EVAL_STRICT] && r.has[EVAL_GENEVAL]);
	assert_true(r.of[EVAL_STRICT].n == N && r.n_tags == 2 && r.prompts == 5);
	assert_true(r.tag[0].prompts == 3 && r.tag[1].prompts == 2);
	assert_string_equal(r.tag[0].name, "a");
	near(r.tag[0].of[EVAL_GENEVAL].mean, 0.75);
	near(r.tag[0].of[EVAL_STRICT].mean, 0.5);
	near(r.tag[0].of[EVAL_SOFT].mean, 0.6);
	near(r.tag[1].of[EVAL_STRICT].mean, 0.5);
	near(r.of[EVAL_GENEVAL].mean, (0.75 + 0.5) / 2);
	near(r.of[EVAL_STRICT].mean, 0.5);
	near(r.of[EVAL_SOFT].mean, (0.6 + 0.5) / 2);
	near(r.total.mean, 3 + 2 * (0.5 + 1 + 0 + 0.25 + 0.75 + 0.9) / N);
	assert_int_equal(r.n_rewards, 2);
	near(r.reward[0].score.mean, 3);
	near(r.reward[0].score.in.low, 3);
	near(r.reward[1].score.mean, (0.5 + 1 + 0 + 0.25 + 0.75 + 0.9) / N);
	assert_true(r.of[EVAL_STRICT].in.low < 0.5 && r.of[EVAL_STRICT].in.high > 0.5);
	assert_ptr_equal(eval_held_out(&r), &r.of[EVAL_STRICT]);
	near(eval_lacking(&r), 0);
	round_trip(&r);
	eval_release(&r);
}

/* Without a reward that has "strict": the total's means. */
static void no_strict(void **state)
{
	struct eval_result r = count(&value_reward, 0, 0, 0);

	(void)state;
	assert_false(r.has[EVAL_STRICT] || r.has[EVAL_GENEVAL]);
	assert_true(isnan(r.of[EVAL_STRICT].mean) && isnan(r.tag[0].of[EVAL_STRICT].mean));
	assert_true(isnan(r.of[EVAL_STRICT].in.low) && r.of[EVAL_STRICT].n == 0);
	near(r.tag[0].of[EVAL_SOFT].mean, 3 + 2 * 0.6);
	assert_ptr_equal(eval_held_out(&r), &r.of[EVAL_SOFT]);
	round_trip(&r);
	eval_print(&r, NULL, "images");
	eval_release(&r);
}

/* The judge is left out of image 1, which has a total all the same: strict and soft are of the others. */
static void left_out(void **state)
{
	struct eval_result r = count(&judge, 1 << 1, 0, 0.5);

	(void)state;
	assert_true(r.images == N && r.unavailable == 0 && r.of[EVAL_STRICT].n == N - 1);
	assert_int_equal(r.tag[0].images, 4);
	near(r.tag[0].of[EVAL_STRICT].mean, 1.0 / 3);
	near(r.tag[0].of[EVAL_SOFT].mean, 1.4 / 3);
	near(r.of[EVAL_STRICT].mean, (1.0 / 3 + 0.5) / 2);
	near(eval_lacking(&r), 1.0 / N);
	near(r.reward[1].score.mean, (0.5 + 0 + 0.25 + 0.75 + 0.9) / 5);
	round_trip(&r);
	eval_release(&r);
}

/* Another reward lacks image 1: no total, but what the judge said counts. */
static void another_lacks(void **state)
{
	struct eval_result r = count(&judge, 0, 1 << 1, 0);

	(void)state;
	assert_true(r.images == N - 1 && r.unavailable == 1 && r.of[EVAL_STRICT].n == N);
	near(r.tag[0].of[EVAL_STRICT].mean, 0.5);
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
	assert_true(isnan(r.tag[1].of[EVAL_STRICT].mean) && isnan(r.tag[1].of[EVAL_SOFT].mean));
	near(r.of[EVAL_STRICT].mean, 0.5);
	round_trip(&r);
	eval_print(&r, NULL, "images");
	eval_release(&r);
	r = count(&judge, 63, 0, 0.5);
	assert_true(r.images == N && r.has[EVAL_STRICT] && isnan(r.of[EVAL_STRICT].mean));
	assert_true(isnan(r.of[EVAL_SOFT].mean) && isnan(r.of[EVAL_STRICT].in.high));
	near(r.total.mean, 3);
	near(eval_lacking(&r), 1);
	round_trip(&r);
	eval_print(&r, &r, "images");
	eval_release(&r);
	r = count(&judge, 63, 63, 0);
	assert_true(r.images == 0 && r.unavailable == N && isnan(r.total.mean));
	round_trip(&r);
	eval_release(&r);
}

/* a minus b, of the images that both have; equal ones differ by nothing, and only so far as prompts tell. */
static void difference(void **state)
{
	struct eval_result a = count(&judge, 0, 0, 0), b = count(&judge, 1 << 1, 0, 0.5), c, d;
	struct err e = { "" };

	(void)state;
	assert_int_equal(eval_difference(&d, &a, &b, &e), 0);
	assert_true(d.of[EVAL_STRICT].n == N - 1 && d.prompts == 5 && d.tag[1].prompts == 2);
	for (int k = 0; k < EVAL_KINDS; k++)
		near(d.of[k].mean, 0);
	near(d.of[EVAL_SOFT].in.low, 0);
	near(d.of[EVAL_SOFT].in.high, 0);
	assert_true(d.of[EVAL_STRICT].in.high > 0.1 && d.of[EVAL_STRICT].in.high < 1);
	near(d.of[EVAL_STRICT].in.low, -d.of[EVAL_STRICT].in.high);
	eval_print_difference(&d, "a", "b");
	eval_release(&d);
	b.rows.value[1] = 0; /* image 0's strict was 0 already; 4 and 5 were 1 */
	b.rows.value[4 * b.rows.columns + 1] = 0;
	b.rows.value[5 * b.rows.columns + 1] = 0;
	assert_int_equal(eval_difference(&d, &a, &b, &e), 0);
	near(d.tag[0].of[EVAL_STRICT].mean, 1.0 / 3);
	near(d.of[EVAL_STRICT].mean, (1.0 / 3 + 1.0 / 2) / 2);
	eval_release(&d);
	c = count(&judge, 0, 0, 0);
	c.rows.n--;
	assert_int_equal(eval_difference(&d, &a, &c, &e), -1);
	eval_release(&d);
	eval_release(&a);
	eval_release(&b);
	eval_release(&c);
}

/* Before any evaluation. */
static void empty(void **state)
{
	struct eval_result r = { 0 };
	struct err e = { "" };
	json_t *j = eval_json(&r);

	(void)state;
	assert_true(json_is_null(json_object_get(j, "soft")) && json_is_null(json_object_get(j, "strict")));
	assert_int_equal(eval_from_json(&r, j, "none", &e), 0);
	assert_true(isnan(r.of[EVAL_SOFT].mean) && isnan(eval_held_out(&r)->mean) && r.n_tags == 0);
	near(eval_lacking(&r), 0);
	json_decref(j);
	eval_release(&r);
}

/* As many tags as there are, as long as they are. */
static void many_tags(void **state)
{
	const struct mixture_entry entry = { .type = &judge, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 1);
	struct eval_result r = { 0 };
	struct mixture_scores s;
	static char name[200][80];

	(void)state;
	mixture_scores_init(&s, 200, 1);
	for (int i = 0; i < 200; i++) {
		s.value[i] = i % 100;
		s.sub[i * REWARD_SUBS + 1] = i < 100;
	}
	mixture_total(m, &s, NULL, 0);
	for (int i = 0; i < 200; i++) {
		snprintf(name[i], sizeof *name, "a tag of more than thirty-two characters, number %d",
			 i % 100);
		eval_count(&r, m, &s, i, i == 199 ? "" : name[i], "p");
	}
	eval_finish(&r);
	assert_int_equal(r.n_tags, 101);
	assert_string_equal(r.tag[100].name, "all");
	for (int i = 0; i < 99; i++) {
		assert_int_equal(r.tag[i].images, 2);
		near(r.tag[i].of[EVAL_SOFT].mean, i);
		near(r.tag[i].of[EVAL_STRICT].mean, 0.5);
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
	assert_true(r.has[EVAL_STRICT] && !r.has[EVAL_GENEVAL] && r.of[EVAL_STRICT].mean == 0.5);
	assert_true(r.n_tags == 1 && r.tag[0].images == 3 && isnan(r.of[EVAL_STRICT].in.low));
	json_decref(j);
	j = json_parse(none, strlen(none), "none", &e);
	assert_int_equal(eval_from_json(&r, j, "none", &e), 0);
	assert_true(!r.has[EVAL_STRICT] && r.n_tags == 0 && eval_held_out(&r)->mean == 0.75);
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
		cmocka_unit_test(all_there),     cmocka_unit_test(no_strict),
		cmocka_unit_test(left_out),      cmocka_unit_test(difference),
		cmocka_unit_test(another_lacks), cmocka_unit_test(nothing_there),
		cmocka_unit_test(empty),         cmocka_unit_test(many_tags),
		cmocka_unit_test(other_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
