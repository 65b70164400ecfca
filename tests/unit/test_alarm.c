/* trainer/evaluation: when the alarm rings, and what the progress line says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "trainer/trainer.h"

/* An evaluation: the total, and rewards a (watched) and b (trained on), each with an interval of +-0.1. */
static bool look(struct alarm *a, double total, double watched, double trained, const char *said)
{
	const struct interval none = { NAN, NAN };
	struct eval_reward reward[] = {
		{ .name = (char *)(uintptr_t) "a", .watched = true },
		{ .name = (char *)(uintptr_t) "b" },
	};
	struct eval_result r = { .reward = reward, .n_rewards = 2 };
	struct eval_number *of[] = { &r.total, &reward[0].score, &reward[1].score };
	const double mean[] = { total, watched, trained };
	struct text why = { 0 };

	for (int i = 0; i < 3; i++)
		*of[i] = (struct eval_number) {
			mean[i], isnan(mean[i]) ? none : (struct interval) { mean[i] - 0.1, mean[i] + 0.1 },
			10
		};
	bool rings = alarm_look(a, &r, &why);
	if (rings != (why.n > 0) || (said && (!rings || strcmp(why.s, said) != 0)))
		fail_msg("it says '%s', wanted '%s'", why.s ? why.s : "", said ? said : "");
	text_free(&why);
	return rings;
}

static void rings(void **state)
{
	struct alarm a = { 0 }, b = { 0 };
	struct err e = { "" };

	(void)state;
	assert_false(look(&a, 0, 1, 0, NULL));     /* the mark */
	assert_false(look(&a, 0.1, 2, 0.1, NULL)); /* better: the mark is here */
	assert_false(look(&a, 1, 1.9, 1, NULL));   /* within the intervals: the distance has +-0.141 */
	assert_false(look(&a, 0.2, 1, 0.2, NULL)); /* fell, but the total did not rise */
	assert_false(look(&a, 1, NAN, 1, NULL));   /* not measured */
	assert_false(look(&a, NAN, 1, 1, NULL));
	/* a run that goes on from a file has the same marks */
	a.kl = 4;
	json_t *j = alarm_json(&a);
	assert_int_equal(alarm_from_json(&b, j, "file", &e), 0);
	assert_true(b.n == 1 && b.kl == 4 && !b.stopped);
	json_decref(j);
	struct alarm *both[] = { &a, &b };
	for (int i = 0; i < 2; i++) {
		assert_true(look(both[i], 0.25, 1.85, 9,
				 "a fell from 2 to 1.85 while the trained reward rose from 0.1 to 0.25"));
		assert_false(look(both[i], 0.25, 1.85, 9, NULL)); /* once for each fall */
		assert_true(look(both[i], 0.5, 1.5, 9, NULL));
		alarm_release(both[i]);
	}
	assert_int_equal(alarm_from_json(&b, NULL, "none", &e), 0);
	assert_true(b.n == 0 && b.kl == 0);
}

static void expect(const struct trainer *t, const struct samples *s, const struct eval_result *eval,
		   double grad_norm, const char *want)
{
	const struct update_stats u = { .grad_norm = grad_norm, .seconds = 1 };
	char note[160];

	trainer_note(t, s, &u, eval, note, sizeof note);
	assert_string_equal(note, want);
}

/* Side by side stands what is measured alike; what there is not is not there; a small gradient is no 0. */
static void progress_line(void **state)
{
	double none[2] = { NAN, NAN }, strict[2] = { 0, 1 };
	struct trainer t = { .at.held_out = NAN };
	struct samples s = { .n = 2, .strict = none, .stats.reward_mean = 0.25, .rollout_seconds = 0.5 };
	struct eval_result no_eval = { 0 }, eval = { .n_tags = 1, .has = { true, true, true } };

	(void)state;
	expect(&t, &s, &no_eval, 3.2e-5, "reward 0.250  grad 3.2e-05  1.5 s/step");
	s.strict = strict;
	expect(&t, &s, &no_eval, 1.5, "reward 0.250  strict 0.500  grad 1.5  1.5 s/step");
	eval.of[EVAL_STRICT].mean = 0.125;
	eval.of[EVAL_SOFT].mean = 0.75;
	expect(&t, &s, &eval, 1, "reward 0.250  strict 0.500  held-out strict 0.125  grad 1  1.5 s/step");
	t.before = eval; /* resumed: what was before training is not the newest */
	t.at.held_out = 0.5;
	expect(&t, &s, &no_eval, 1, "reward 0.250  strict 0.500  held-out strict 0.500  grad 1  1.5 s/step");
	s.strict = none;
	eval = (struct eval_result) { .n_tags = 1, .has = { false, false, true } };
	eval.of[EVAL_SOFT].mean = 0.75;
	expect(&t, &s, &eval, 1, "reward 0.250  held-out 0.750  grad 1  1.5 s/step");
	eval.of[EVAL_SOFT].mean = NAN;
	t.at.held_out = NAN;
	expect(&t, &s, &eval, 1, "reward 0.250  grad 1  1.5 s/step");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(rings), cmocka_unit_test(progress_line) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
