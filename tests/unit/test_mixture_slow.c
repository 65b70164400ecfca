/* The mixture and rewards that take their time: servers that are waited for, deadlines, calls that hang. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdatomic.h>
#include "base/log.h"
#include "tests/unit/made_up.h"

static int arriving_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			  struct err *e)
{
	sem_post(&arrived);
	return value_score(state, item, n, out, e);
}

/* Two rewards that wait for their servers keep neither each other nor the only thread from scoring. */
static void waiting_rewards_hold_up_nobody(void **state)
{
	enum { N = 4 };
	const struct reward_type hangs = {
		.abi = REWARD_ABI, .name = "hangs", .flags = REWARD_WAITS, .score = slow_score
	};
	const struct reward_type answers = { .abi = REWARD_ABI,
					     .name = "answers",
					     .flags = REWARD_WAITS | REWARD_THREAD_SAFE,
					     .score = arriving_score };
	const struct reward_type scores = { .abi = REWARD_ABI, .name = "scores", .score = arriving_score };
	const struct mixture_entry entry[] = { { .type = &hangs, .weight = 1 },
					       { .type = &answers, .weight = 10 },
					       { .type = &scores, .weight = 100 } };
	struct mixture *m = mixture_new(entry, 3, 1);
	uint8_t pixel[N][3] = { { 1, 0, 0 }, { 2, 1, 0 }, { 3, 2, 0 }, { 4, 3, 0 } };
	struct mixture_scores s;

	(void)state;
	begin_waits();
	mixture_scores_init(&s, N, 3);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, N, 1);
	for (int i = 0; i < 2 * N;
	     i++) /* all that the others have to do, with the first still at its first */
		assert_true(wait_for(&arrived));
	assert_false(mixture_done(m, &s));
	for (int i = 0; i < N; i++)
		sem_post(&go);
	finish(m, &s);
	for (int i = 0; i < N; i++)
		assert_true(s.total[i] == 111 * pixel[i][0]);
	mixture_scores_free(&s);
	mixture_close(m);
}

/* Calls that were let go have returned: the next test counts its own, and the sanitizers look for what is
 * left. */
static void nobody_is_left(void)
{
	for (int i = 0; i < 20000 && mixture_left_behind(); i++)
		clock_sleep(0.001);
	assert_int_equal(mixture_left_behind(), 0);
}

static atomic_int hung_answers;

/* Hangs on an image whose first byte is 1 until it is let go; then answers what nobody waits for. */
static int hanging_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			 struct err *e)
{
	if (item[0].rgb[0] == 1) {
		sem_post(&arrived);
		if (!wait_for(&go))
			return err_set(e, "never let go");
		/* what it was given is still there, though the set and the prompts have gone */
		if (item[0].rgb[0] == 1 && !strcmp(item[0].prompt, "p"))
			atomic_fetch_add(&hung_answers, 1);
	}
	return value_score(state, item, n, out, e);
}

static const struct reward_type hanging_reward = { .abi = REWARD_ABI,
						   .name = "hanging",
						   .score = hanging_score };
static const struct reward_type hanging_safe_reward = {
	.abi = REWARD_ABI, .name = "hanging_safe", .flags = REWARD_THREAD_SAFE, .score = hanging_score
};

static void begin_hanging(void)
{
	begin_waits();
	atomic_store(&hung_answers, 0);
}

/* The batch that hangs and those behind it are unavailable, the other reward's scores are there; when the
 * reward answers it is heard again, and the late answer is not. */
static void deadline_of(unsigned flags)
{
	enum { N = 3 };
	struct reward_type hanging = hanging_reward;
	const struct mixture_entry entry[] = { { .type = &hanging, .weight = 1, .deadline = 0.05 },
					       { .type = &value_reward, .weight = 1 } };
	uint8_t pixel[N][3] = { { 1, 0, 0 }, { 2, 1, 0 }, { 3, 2, 0 } };

	hanging.flags = flags;
	for (int threads = 1; threads < 3; threads++) {
		struct mixture *m = mixture_new(entry, 2, threads);
		struct mixture_scores s;

		begin_hanging();
		mixture_scores_init(&s, N, 2);
		mixture_begin(m, &s);
		submit_all(m, &s, pixel, N, 1);
		finish(m, &s);
		assert_int_equal(s.unavailable, N);
		for (int i = 0; i < N; i++)
			assert_true(isnan(s.value[i]) && s.value[N + i] == pixel[i][0]);
		assert_string_equal(s.why, "hanging: no score within its deadline of 0.05 s");
		mixture_scores_free(&s);

		sem_post(&go); /* it answers into what nobody has any more */
		for (int tries = 0; tries < 2000; tries++) {
			mixture_scores_init(&s, N - 1, 2);
			mixture_begin(m, &s);
			submit_all(m, &s, pixel + 1, N - 1, 1);
			finish(m, &s);
			if (!s.unavailable)
				break;
			mixture_scores_free(&s);
		}
		assert_int_equal(s.unavailable, 0);
		assert_true(s.total[0] == 4 && s.total[1] == 6);
		assert_int_equal(atomic_load(&hung_answers), 1);
		mixture_scores_free(&s);
		mixture_close(m);
		assert_int_equal(mixture_left_behind(), 0);
	}
}

static void deadline(void **state)
{
	(void)state;
	deadline_of(0);
	deadline_of(REWARD_WAITS); /* its own thread is replaced as a shared one is */
}

/* A thread-safe reward goes on beside a call that hangs. */
static void deadline_of_a_safe_reward(void **state)
{
	enum { N = 4 };
	const struct mixture_entry entry = { .type = &hanging_safe_reward, .weight = 1, .deadline = 0.2 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[N][3] = { { 1, 0, 0 }, { 2, 1, 0 }, { 3, 2, 0 }, { 4, 3, 0 } };
	struct mixture_scores s;

	(void)state;
	begin_hanging();
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, N, 1);
	finish(m, &s);
	assert_true(isnan(s.total[0]));
	for (int i = 1; i < N; i++)
		assert_true(s.total[i] == pixel[i][0]);
	mixture_scores_free(&s);
	sem_post(&go);
	mixture_close(m);
	nobody_is_left();
}

/* Closing does not wait for a call that was given up, and what it uses lives until it returns. */
static void close_while_stuck(void **state)
{
	const struct mixture_entry entry[] = { { .type = &hanging_reward, .weight = 1, .deadline = 0.05 },
					       { .type = &value_reward, .weight = 1 } };
	struct mixture *m = mixture_new(entry, 2, 1);
	uint8_t pixel[2][3] = { { 1, 0, 0 }, { 1, 1, 0 } };
	struct mixture_scores s;

	(void)state;
	begin_hanging();
	mixture_scores_init(&s, 2, 2);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, 2, 2);
	assert_true(wait_for(&arrived));
	mixture_close(m); /* by its deadline, with the second reward still in the queue */
	mixture_scores_free(&s);
	assert_int_equal(mixture_left_behind(), 1);
	sem_post(&go);
	nobody_is_left();
	assert_int_equal(atomic_load(&hung_answers), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(waiting_rewards_hold_up_nobody),
		cmocka_unit_test(deadline),
		cmocka_unit_test(deadline_of_a_safe_reward),
		cmocka_unit_test(close_while_stuck),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
