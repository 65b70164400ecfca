/* What a judge is asked and answers, with made-up rewards: prompts that cannot be scored, calls that hang. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/image.h"
#include "base/log.h"
#include "base/text.h"
#include "rewards/judges/scoring.h"

/* ---- made-up rewards: an image is one pixel, its red the score ---- */

static int calls, run[8];

/* Takes no prompt that begins with "no", and must never see one. */
static int picky_check(void *state, const char *prompt, const char *meta, struct err *e)
{
	(void)state, (void)meta;
	return text_starts(prompt, "no") ? err_set(e, "it says %s", prompt) : 0;
}

static int picky_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
		       struct err *e)
{
	run[calls++ % 8] = n;
	for (int i = 0; i < n; i++) {
		struct err why;
		assert_false(picky_check(state, item[i].prompt, item[i].meta, &why));
		if (item[i].rgb[0] == 99)
			return err_set(e, "gone");
		out[i].ok = item[i].rgb[0] != 7;
		out[i].value = item[i].rgb[0] == 8 ? 1e29 : item[i].rgb[0];
		out[i].sub[0] = item[i].rgb[1];
		if (!out[i].ok) /* no UTF-8: a character cut in two */
			snprintf(out[i].why, sizeof out[i].why, "caf\xc3");
	}
	return 0;
}

static sem_t go;

static int hanging_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			 struct err *e)
{
	while (sem_wait(&go)) {
	}
	return picky_score(state, item, n, out, e);
}

static const struct reward_type picky = { .abi = REWARD_ABI,
					  .name = "picky",
					  .sub_names = { "green" },
					  .check = picky_check,
					  .score = picky_score };
static const struct reward_type hanging = { .abi = REWARD_ABI, .name = "hanging", .score = hanging_score };

/* A request of one pixel a prompt: `red` each. */
static void make(struct request *r, const char *const *prompt, const uint8_t *red, int n)
{
	const struct request_limits limits = { 8, 1, 8 };
	struct text body = { 0 };
	struct err e = { "" };

	text_add(&body, "{\"version\": 1, \"items\": [");
	for (int i = 0; i < n; i++) {
		uint8_t rgb[3] = { red[i], (uint8_t)(red[i] + 1), 0 }, *png;
		size_t size;

		assert_int_equal(image_png(&png, &size, 1, 1, rgb, &e), 0);
		text_printf(&body, "%s{\"prompt\": \"%s\", \"image\": \"", i ? ", " : "", prompt[i]);
		text_base64(&body, png, size);
		text_add(&body, "\"}");
		free(png);
	}
	text_add(&body, "]}");
	if (request_parse(r, body.s, body.n, &limits, &e))
		fail_msg("%s", e.msg);
	text_free(&body);
}

static json_t *answer(struct mixture *m, const char *const *prompt, const uint8_t *red, int n, double end)
{
	struct request r;
	struct err e;

	make(&r, prompt, red, n);
	char *text = scoring_answer(m, &r, end);
	json_t *o = json_parse(text, strlen(text), "answer", &e);
	assert_int_equal(json_array_size(json_object_get(o, "scores")), n);
	free(text);
	request_release(&r);
	return o;
}

static const json_t *entry(const json_t *o, size_t i)
{
	return json_array_get(json_object_get(o, "scores"), i);
}

static void expect_score(const json_t *o, size_t i, double total, double own)
{
	const json_t *x = entry(o, i), *of = json_object_get(json_object_get(x, "rewards"), "picky");

	assert_null(json_object_get(x, "error"));
	assert_true(json_real_value(json_object_get(x, "score")) == total);
	assert_true(json_real_value(json_object_get(of, "score")) == own);
	assert_true(json_real_value(json_object_get(of, "green")) == own + 1);
}

static void expect_error(const json_t *o, size_t i, const char *why)
{
	const char *is = json_string_value(json_object_get(entry(o, i), "error"));

	assert_null(json_object_get(entry(o, i), "score"));
	assert_non_null(is);
	assert_string_equal(is, why);
}

/* ---- the tests ---- */

static void prompts_that_cannot_be_scored(void **state)
{
	static const char *const prompt[] = { "a", "b", "no 1", "c", "no 2", "no 3", "d" };
	static const uint8_t red[] = { 1, 2, 3, 4, 5, 6, 7 };
	const struct mixture_entry e = { .type = &picky, .weight = 2 };
	struct mixture *m = mixture_new(&e, 1, 3);

	(void)state;
	calls = 0;
	json_t *o = answer(m, prompt, red, 7, clock_now() + 60);
	assert_int_equal(calls, 3); /* one after the other: it is not thread-safe */
	assert_true(run[0] == 2 && run[1] == 1 && run[2] == 1);
	expect_score(o, 0, 2, 1);
	expect_score(o, 1, 4, 2);
	expect_error(o, 2, "picky: it says no 1");
	expect_score(o, 3, 8, 4);
	expect_error(o, 4, "picky: it says no 2");
	expect_error(o, 5, "picky: it says no 3");
	expect_error(o, 6, "picky: caf?");
	json_decref(o);
	o = answer(m, prompt, (const uint8_t[]) { 1, 99, 3 }, 3, clock_now() + 60); /* the call fails */
	for (size_t i = 0; i < 3; i++)
		expect_error(o, i, "picky: gone");
	json_decref(o);
	o = answer(m, prompt, red, 0, clock_now());
	json_decref(o);
	mixture_close(m);
}

static void totals_that_are_no_numbers(void **state)
{
	const struct mixture_entry e = { .type = &picky, .weight = 1e280 };
	struct mixture *m = mixture_new(&e, 1, 1);

	(void)state;
	json_t *o =
	    answer(m, (const char *const[]) { "a", "b" }, (const uint8_t[]) { 8, 9 }, 2, clock_now() + 60);
	expect_error(o, 0, "the total is not a finite number");
	expect_score(o, 1, 9e280, 9);
	json_decref(o);
	mixture_close(m);
}

/* What runs and what waits behind it is an error when the time is up; what is scored by then stays.  Closing
 * waits for nobody. */
static void time_is_up(void **state)
{
	const struct mixture_entry e[] = { { .type = &picky, .weight = 1 },
					   { .type = &hanging, .weight = 1 } };
	struct mixture *m = mixture_new(e, 2, 2);

	(void)state;
	sem_init(&go, 0, 0);
	for (int i = 0; i < 3; i++) { /* the first has all the time that `picky` can need */
		json_t *o = answer(m, (const char *const[]) { "a" }, (const uint8_t[]) { 5 }, 1,
				   clock_now() + (i ? 0.1 : 3));
		const json_t *own = json_object_get(json_object_get(entry(o, 0), "rewards"), "picky");

		if (i == 0) {
			expect_error(o, 0, "hanging: not scored in time");
			assert_true(json_real_value(json_object_get(own, "score")) == 5);
		}
		assert_null(json_object_get(entry(o, 0), "score"));
		json_decref(o);
	}
	sem_post(&go); /* the call that hung ends, and its answer goes nowhere */
	sem_post(&go);
	json_t *o = answer(m, (const char *const[]) { "a" }, (const uint8_t[]) { 6 }, 1, clock_now() + 60);
	assert_true(json_real_value(json_object_get(entry(o, 0), "score")) == 12);
	json_decref(o);
	o = answer(m, (const char *const[]) { "a" }, (const uint8_t[]) { 5 }, 1, clock_now() + 0.1);
	assert_null(json_object_get(entry(o, 0), "score"));
	json_decref(o);
	mixture_close(m);
	assert_int_equal(mixture_left_behind(), 1);
	sem_post(&go);
	for (int i = 0; i < 2000 && mixture_left_behind(); i++)
		usleep(10000);
	assert_int_equal(mixture_left_behind(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(prompts_that_cannot_be_scored),
		cmocka_unit_test(totals_that_are_no_numbers),
		cmocka_unit_test(time_is_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
