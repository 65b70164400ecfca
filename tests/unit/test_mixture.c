/* The mixture with made-up rewards: threads, failures, totals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "tests/unit/made_up.h"

/* ---- made-up rewards: an image is one pixel (v, sample, 0) ---- */

/* Everything a reward can do wrong, chosen by the first byte. */
static int faulty_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			struct err *e)
{
	(void)state;
	for (int i = 0; i < n; i++) {
		out[i].ok = true;
		out[i].value = 1;
		switch (item[i].rgb[0]) {
		case 1:
			out[i].value = NAN;
			break;
		case 2:
			out[i].value = INFINITY;
			break;
		case 3:
			out[i].ok = false;
			snprintf(out[i].why, sizeof out[i].why, "no text in sample %d", item[i].rgb[1]);
			break;
		case 4: /* says nothing at all */
			out[i] = (struct reward_score) { 0 };
			break;
		case 6: /* finite, but its square is not */
			out[i].value = 1e200;
			break;
		case 7: /* any number that is not absurd counts */
			out[i].value = -REWARD_MOST;
			break;
		case 5:
			return err_set(e, "server gone at sample %d", item[i].rgb[1]);
		default:
			break;
		}
	}
	return 0;
}

static atomic_int inside, most_inside, calls;

/* Not thread-safe: notices company. */
static int alone_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
		       struct err *e)
{
	int now = atomic_fetch_add(&inside, 1) + 1;

	if (now > atomic_load(&most_inside))
		atomic_store(&most_inside, now);
	atomic_fetch_add(&calls, 1);
	nanosleep(&(struct timespec) { 0, 1000000 }, NULL);
	int ret = value_score(state, item, n, out, e);
	atomic_fetch_sub(&inside, 1);
	return ret;
}

/* Every sample fails; the first of three only when the third is reached, so that the second's reason is known
 * before. */
static int late_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
		      struct err *e)
{
	(void)state, (void)n, (void)out;
	if (item[0].rgb[1] == 2)
		sem_post(&go);
	if (item[0].rgb[1] == 0 && !wait_for(&go))
		return err_set(e, "the third sample never came");
	return err_set(e, "sample %d", item[0].rgb[1]);
}

/* Needs company: only goes on when the slow reward's caller sees two threads here. */
static int meeting_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			 struct err *e)
{
	sem_post(&arrived);
	return slow_score(state, item, n, out, e);
}

static const struct reward_type faulty_reward = {
	.abi = REWARD_ABI, .name = "faulty", .flags = REWARD_THREAD_SAFE, .score = faulty_score
};
static const struct reward_type alone_reward = { .abi = REWARD_ABI, .name = "alone", .score = alone_score };
static const struct reward_type slow_reward = { .abi = REWARD_ABI, .name = "slow", .score = slow_score };
static const struct reward_type meeting_reward = {
	.abi = REWARD_ABI, .name = "meeting", .flags = REWARD_THREAD_SAFE, .score = meeting_score
};

static const struct reward_type late_reward = {
	.abi = REWARD_ABI, .name = "late", .flags = REWARD_THREAD_SAFE, .score = late_score
};

static void weighted_sum(void **state)
{
	enum { N = 23 };
	const struct mixture_entry entry[] = { { .type = &value_reward, .weight = 2 },
					       { .type = &alone_reward, .weight = -0.5 } };
	uint8_t pixel[N][3];

	(void)state;
	for (int i = 0; i < N; i++)
		pixel[i][0] = (uint8_t)(10 * i), pixel[i][1] = (uint8_t)i, pixel[i][2] = 0;
	for (int threads = 0; threads < 8; threads += 3) {
		for (int batch = 1; batch <= N; batch += 5) {
			struct mixture *m = mixture_new(entry, 2, threads);
			struct mixture_scores s;
			assert_int_equal(mixture_count(m), 2);
			assert_ptr_equal(mixture_at(m, 1)->type, &alone_reward);
			mixture_scores_init(&s, N, 2);
			mixture_begin(m, &s);
			submit_all(m, &s, pixel, N, batch);
			finish(m, &s);
			assert_int_equal(s.unavailable, 0);
			assert_string_equal(s.why, "");
			for (int i = 0; i < N; i++) {
				assert_true(s.value[i] == 10 * i && s.value[N + i] == 10 * i);
				assert_true(s.total[i] == 1.5 * 10 * i);
				assert_true(isnan(s.sub[i * REWARD_SUBS]));
				assert_true(s.sub[i * REWARD_SUBS + 1] == i);
			}
			mixture_scores_free(&s);
			mixture_close(m);
		}
	}
}

static void unavailable_is_no_number(void **state)
{
	enum { N = 12 };
	static const uint8_t kind[N] = { 0, 0, 3, 1, 0, 2, 4, 0, 0, 5, 0, 0 };
	const struct mixture_entry entry[] = { { .type = &value_reward, .weight = 1 },
					       { .type = &faulty_reward, .weight = 1 } };
	uint8_t pixel[N][3];

	(void)state;
	for (int i = 0; i < N; i++)
		pixel[i][0] = kind[i], pixel[i][1] = (uint8_t)i, pixel[i][2] = 0;
	for (int threads = 1; threads < 6; threads++) {
		struct mixture *m = mixture_new(entry, 2, threads);
		struct mixture_scores s;
		mixture_scores_init(&s, N, 2);
		mixture_begin(m, &s);
		submit_all(m, &s, pixel, N, 1);
		finish(m, &s);
		for (int i = 0; i < N; i++) {
			assert_true(s.value[i] == kind[i]); /* the other reward's scores stay */
			assert_int_equal(isnan(s.value[N + i]), kind[i] != 0);
			assert_int_equal(isnan(s.total[i]), kind[i] != 0);
		}
		assert_int_equal(s.unavailable, 5);
		/* The first sample's reason, whichever thread was first. */
		assert_string_equal(s.why, "faulty: no text in sample 2");
		mixture_scores_free(&s);
		mixture_close(m);
	}
}

/* A number whose squares and sums are none must not get as far as the advantages: there a group of them
 * would train nothing without a word. */
static void absurd_is_no_number(void **state)
{
	static const uint8_t kind[] = { 0, 6, 7, 2 };
	const struct mixture_entry entry = { .type = &faulty_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 1);
	uint8_t pixel[4][3];
	struct mixture_scores s;

	(void)state;
	for (int i = 0; i < 4; i++)
		pixel[i][0] = kind[i], pixel[i][1] = (uint8_t)i, pixel[i][2] = 0;
	mixture_scores_init(&s, 4, 1);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, 4, 1);
	finish(m, &s);
	assert_int_equal(s.unavailable, 2);
	assert_true(isnan(s.total[1]) && isnan(s.total[3]));
	assert_true(s.total[0] == 1 && s.total[2] == -REWARD_MOST);
	assert_string_equal(s.why, "faulty: the score of 1e+200 is beyond +-1e+30");
	mixture_scores_free(&s);
	mixture_close(m);
}

static void first_reason_in_order(void **state)
{
	enum { N = 3 };
	const struct mixture_entry entry = { .type = &late_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[N][3] = { { 0, 0, 0 }, { 0, 1, 0 }, { 0, 2, 0 } };
	struct mixture_scores s;

	(void)state;
	sem_init(&go, 0, 0);
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, N, 1);
	finish(m, &s);
	assert_int_equal(s.unavailable, N);
	assert_string_equal(s.why, "late: sample 0");
	mixture_scores_free(&s);
	mixture_close(m);
}

/* A call that fails takes its whole batch with it; a reward that is not thread-safe gets batches whole. */
static void failing_call(void **state)
{
	enum { N = 8 };
	struct reward_type one_by_one = faulty_reward;
	uint8_t pixel[N][3] = { { 0 } };
	struct mixture_scores s;

	(void)state;
	one_by_one.flags = 0;
	const struct mixture_entry entry = { .type = &one_by_one, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 3);
	for (int i = 0; i < N; i++)
		pixel[i][1] = (uint8_t)i;
	pixel[6][0] = 5;
	mixture_scores_init(&s, N, 1);
	for (int round = 0; round < 3; round++) {
		mixture_begin(m, &s);
		submit_all(m, &s, pixel, N, 4);
		finish(m, &s);
		assert_int_equal(s.unavailable, round < 2 ? 4 : 0);
		for (int i = 0; i < N; i++)
			assert_int_equal(isnan(s.total[i]), round < 2 && i >= 4);
		assert_string_equal(s.why, round < 2 ? "faulty: server gone at sample 6" : "");
		pixel[6][0] = round ? 0 : 5; /* the next set is none the worse */
	}
	mixture_scores_free(&s);
	mixture_close(m);
}

static void not_handed_over(void **state)
{
	const struct mixture_entry entry = { .type = &value_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[2][3] = { { 7, 0, 0 }, { 8, 0, 0 } };
	struct mixture_scores s;

	(void)state;
	mixture_scores_init(&s, 3, 1);
	mixture_begin(m, &s);
	mixture_submit(m, &s, 0, NULL, 0);
	submit_all(m, &s, pixel, 2, 2);
	finish(m, &s);
	assert_true(s.total[0] == 7 && s.total[1] == 8 && isnan(s.total[2]));
	assert_int_equal(s.unavailable, 1);
	mixture_scores_free(&s);
	mixture_close(m);
}

static void unsafe_rewards_run_alone(void **state)
{
	enum { N = 60 };
	const struct mixture_entry entry[] = { { .type = &alone_reward, .weight = 1 },
					       { .type = &value_reward, .weight = 1 } };
	struct mixture *m = mixture_new(entry, 2, 6);
	uint8_t pixel[N][3] = { { 0 } };
	struct mixture_scores s;

	(void)state;
	atomic_store(&most_inside, 0);
	atomic_store(&calls, 0);
	mixture_scores_init(&s, N, 2);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, N, 2);
	finish(m, &s);
	assert_int_equal(s.unavailable, 0);
	assert_int_equal(atomic_load(&most_inside), 1);
	assert_int_equal(atomic_load(&calls), N / 2);
	mixture_scores_free(&s);
	mixture_close(m);
}

/* A thread-safe reward's batch is shared out: two threads must be inside at once before either may leave. */
static void safe_rewards_run_together(void **state)
{
	enum { N = 2 };
	const struct mixture_entry entry = { .type = &meeting_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[N][3] = { { 5, 0, 0 }, { 6, 0, 0 } };
	struct mixture_scores s;

	(void)state;
	begin_waits();
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, N, N);
	for (int i = 0; i < N; i++)
		assert_true(wait_for(&arrived));
	for (int i = 0; i < N; i++)
		sem_post(&go);
	finish(m, &s);
	assert_true(s.total[0] == 5 && s.total[1] == 6);
	mixture_scores_free(&s);
	mixture_close(m);
}

/* The caller goes on while a slow reward waits for it, and a quick reward overtakes the slow one. */
static void caller_overlaps(void **state)
{
	enum { N = 6 };
	const struct mixture_entry entry[] = { { .type = &slow_reward, .weight = 1 },
					       { .type = &meeting_reward, .weight = 1 } };
	struct mixture *m = mixture_new(entry, 2, 2);
	uint8_t pixel[N][3] = { { 3, 0, 0 }, { 4, 0, 0 } };
	struct mixture_scores s;

	(void)state;
	begin_waits();
	mixture_scores_init(&s, N, 2);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, N, 1);  /* returns though no score can be finished yet */
	assert_true(wait_for(&arrived)); /* the other thread did not queue up behind the slow reward */
	for (int i = 0; i < 2 * N; i++)
		sem_post(&go);
	finish(m, &s);
	assert_int_equal(s.unavailable, 0);
	assert_true(s.total[0] == 6 && s.total[1] == 8);
	mixture_scores_free(&s);
	mixture_close(m);
}

/* ---- totals ---- */

/* Three groups of four: all have the second reward, three of four have it, one has it. */
static void quorum(void **state)
{
	enum { N = 12, G = 3 };
	static const int64_t group[N] = { 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2 };
	struct mixture_entry entry[] = { { .type = &value_reward, .weight = 2 },
					 { .type = &alone_reward, .weight = 10 } };
	static const double quorums[] = { 0, 0.25, 0.5, 0.75, 0.76, 1 };
	struct mixture_scores s;

	(void)state;
	mixture_scores_init(&s, N, 2);
	for (size_t q = 0; q < sizeof quorums / sizeof *quorums; q++) {
		entry[1].quorum = quorums[q];
		struct mixture *m = mixture_new(entry, 2, 1);
		bool out_1 = quorums[q] > 0.75, out_2 = quorums[q] > 0.25;
		double sum = 0, n = 0;

		for (int i = 0; i < N; i++) {
			bool has = group[i] == 0 || (group[i] == 1 && i != 5) || i == 9;
			s.value[i] = i;
			s.value[N + i] = has ? 100 + i : NAN;
			if (has && !(group[i] == 1 && out_1) && !(group[i] == 2 && out_2)) {
				sum += 100 + i;
				n++;
			}
		}
		mixture_total(m, &s, group, G);
		assert_int_equal(s.n_left_out, out_1 + out_2);
		for (int i = 0; i < N; i++) {
			bool out = (group[i] == 1 && out_1) || (group[i] == 2 && out_2);
			double want = 2 * i + 10 * (out ? sum / n : s.value[N + i]);
			assert_int_equal(s.left_out[G + group[i]], out);
			assert_false(s.left_out[group[i]]);
			if (isnan(want))
				assert_true(isnan(s.total[i]));
			else
				assert_true(fabs(s.total[i] - want) < 1e-9);
		}
		assert_int_equal(s.unavailable, (out_1 ? 0 : 1) + (out_2 ? 0 : 3));
		mixture_close(m);
	}
	/* a group without any reward has no total */
	entry[0].quorum = entry[1].quorum = 1;
	struct mixture *m = mixture_new(entry, 2, 1);
	for (int i = 0; i < N; i++)
		s.value[i] = s.value[N + i] = group[i] == 1 ? NAN : i;
	mixture_total(m, &s, group, G);
	assert_int_equal(s.unavailable, 4);
	for (int i = 0; i < N; i++)
		assert_int_equal(isnan(s.total[i]), group[i] == 1);
	mixture_close(m);
	mixture_scores_free(&s);
}

/* A reward of weight 0 is no part of a total, and its lack costs no sample; a held-out one scores only sets
 * that say so. */
static void watched(void **state)
{
	enum { N = 6 };
	const struct mixture_entry entry[] = { { .type = &value_reward, .name = mem_str("own"), .weight = 2 },
					       { .type = &faulty_reward, .weight = 0, .quorum = 1 },
					       { .type = &alone_reward, .held_out = true } };
	static const int64_t group[N] = { 0, 0, 0, 1, 1, 1 };
	struct mixture *m = mixture_new(entry, 3, 1);
	uint8_t pixel[N][3];

	(void)state;
	for (int i = 0; i < N; i++)
		memset(pixel[i], i + 1, 3);
	for (int held_out = 0; held_out < 2; held_out++) {
		struct mixture_scores s;

		mixture_scores_init(&s, N, 3);
		s.held_out = held_out;
		mixture_begin(m, &s);
		submit_all(m, &s, pixel, N, 4);
		mixture_wait(m, &s);
		for (int i = 0; i < N; i++)
			s.value[N + i] = i % 2 ? s.value[N + i] : NAN;
		mixture_total(m, &s, group, 2);
		assert_true(s.unavailable == 0 && s.n_left_out == 0 && !*s.why);
		for (int i = 0; i < N; i++) {
			assert_true(s.total[i] == 2 * (i + 1));
			assert_int_equal(isnan(s.value[2 * N + i]), !held_out);
		}
		mixture_scores_free(&s);
	}
	mixture_close(m);
}

/* Three sets of prompts: who is asked about which image, how its total comes about, and what is left out. */
static void sets_of_prompts(void **state)
{
	enum { N = 12, G = 6 };
	const struct mixture_entry entry[] = { { .type = &value_reward, .weight = 1 },
					       { .type = &value_reward, .weight = 1, .quorum = 1 },
					       { .type = &value_reward, .weight = 1 } };
	static const double weight[] = { 2,   NAN, 0,     /* set 0: a, and c is watched */
					 NAN, 3,   1,     /* set 1: b and c */
					 1,   -1,  NAN }; /* set 2: a against b */
	static const int64_t group[N] = { 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5 };

	(void)state;
	for (int batch = 1; batch <= N; batch++) {
		struct mixture *m = mixture_new(entry, 3, 2);
		struct mixture_scores s;
		uint8_t pixel[N][3];
		struct reward_item item[N];

		mixture_set_weights(m, 3, weight);
		assert_int_equal(mixture_sets(m), 3);
		mixture_scores_init(&s, N, 3);
		mixture_begin(m, &s);
		for (int i = 0; i < N; i++) {
			memset(pixel[i], i + 1, 3);
			item[i] = (struct reward_item) { pixel[i], 1, 1, "p", "{}", (int)group[i] % 3 };
		}
		for (int i = 0; i < N; i += batch)
			mixture_submit(m, &s, i, item + i, i + batch < N ? batch : N - i);
		mixture_wait(m, &s);
		for (int k = 0; k < 3; k++)
			for (int i = 0; i < N; i++)
				assert_int_equal(isnan(s.value[k * N + i]),
						 isnan(weight[group[i] % 3 * 3 + k]));
		s.value[2 * N] = NAN; /* watched there */
		s.value[N + 8] = NAN; /* b of group 4: its mean in the set's other group, 3.5, stands in */
		mixture_total(m, &s, group, G);
		assert_true(s.n_left_out == 1 && s.left_out[G + 4] && s.unavailable == 0);
		for (int i = 0; i < N; i++) {
			double pixel_of = i + 1,
			       wanted[] = { 2 * pixel_of, 3 * (group[i] == 4 ? 3.5 : pixel_of) + pixel_of,
					    0 };

			assert_true(s.total[i] == wanted[group[i] % 3]);
		}
		mixture_scores_free(&s);
		mixture_close(m);
	}
}

/* A reward is only asked whether it can score the prompts of its sets. */
static int never_check(void *state, const char *prompt, const char *meta, struct err *e)
{
	(void)state, (void)prompt, (void)meta;
	return err_set(e, "not this one");
}

static void prompts_of_other_sets_are_not_checked(void **state)
{
	struct reward_type picky = value_reward;
	picky.name = "picky";
	picky.check = never_check;
	const struct mixture_entry entry[] = { { .type = &value_reward, .weight = 1 },
					       { .type = &picky, .weight = 1 } };
	static const double weight[] = { 1, NAN, NAN, 1, 1, 0 };
	struct mixture *m = mixture_new(entry, 2, 1);
	const struct reward_item item[] = { { .prompt = "a", .meta = "{}" },
					    { .prompt = "b", .meta = "{}", .set = 2 },
					    { .prompt = "c", .meta = "{}", .set = 1 } };
	struct err e;
	int bad = -1;

	(void)state;
	mixture_set_weights(m, 3, weight);
	assert_int_equal(mixture_check_all(m, item, 2, &bad, &e), 0);
	assert_int_equal(mixture_check_all(m, item, 3, &bad, &e), -1);
	assert_int_equal(bad, 2);
	assert_non_null(strstr(e.msg, "reward picky cannot score 'c': not this one"));
	mixture_close(m);
}

static void close_with_work_left(void **state)
{
	enum { N = 40 };
	const struct mixture_entry entry = { .type = &alone_reward, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	uint8_t pixel[N][3] = { { 0 } };
	struct mixture_scores s;

	(void)state;
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	submit_all(m, &s, pixel, N, 1);
	mixture_close(m); /* the sanitizers look for what is left */
	mixture_scores_free(&s);
	mixture_close(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(weighted_sum),
		cmocka_unit_test(watched),
		cmocka_unit_test(unavailable_is_no_number),
		cmocka_unit_test(absurd_is_no_number),
		cmocka_unit_test(first_reason_in_order),
		cmocka_unit_test(failing_call),
		cmocka_unit_test(not_handed_over),
		cmocka_unit_test(unsafe_rewards_run_alone),
		cmocka_unit_test(safe_rewards_run_together),
		cmocka_unit_test(caller_overlaps),
		cmocka_unit_test(quorum),
		cmocka_unit_test(sets_of_prompts),
		cmocka_unit_test(prompts_of_other_sets_are_not_checked),
		cmocka_unit_test(close_with_work_left),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
