/* The mixture and rewards that get whole groups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdatomic.h>
#include "tests/unit/made_up.h"

static atomic_int group_calls;

/* A ranking: the share of the others that an image's value exceeds.  Fails on what is not one whole group of
 * four, which the second byte numbers. */
static int rank_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
		      struct err *e)
{
	(void)state;
	atomic_fetch_add(&group_calls, 1);
	if (n != 4)
		return err_set(e, "%d images are no group", n);
	for (int i = 0; i < n; i++) {
		if (item[i].rgb[1] != item[0].rgb[1] || item[i].rgb[2] != i)
			return err_set(e, "image %d is %d of group %d", i, item[i].rgb[2], item[i].rgb[1]);
		out[i].ok = item[i].rgb[0] < 200;
		out[i].value = 0;
		for (int k = 0; k < n; k++)
			out[i].value += item[k].rgb[0] < item[i].rgb[0] ? 1.0 / 3 : 0;
		out[i].sub[0] = n;
	}
	return 0;
}

/* Gets images as they come, and never those that are handed over as groups. */
static int single_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			struct err *e)
{
	return n > 3 ? err_set(e, "a group came here") : value_score(state, item, n, out, e);
}

static const struct reward_type single_reward = { .abi = REWARD_ABI,
						  .name = "single",
						  .score = single_score };

/* Groups hand over out of order, their samples anywhere in the set. */
static void groups_are_whole(void **unused)
{
	enum { G = 3, N = 4 * G };
	static const uint8_t value[N] = { 9, 3, 200, 5, 1, 2, 4, 3, 7, 7, 7, 8 };
	static const double want[N] = { 2, 0, NAN, 1, 0, 1, 3, 2, 0, 0, 0, 3 };

	(void)unused;
	for (unsigned flags = 0; flags < 4; flags++) /* thread-safe, waiting: neither cuts a group */
		for (int threads = 1; threads < 5; threads++) {
			const struct reward_type ranking = { .abi = REWARD_ABI,
							     .name = "ranking",
							     .flags = REWARD_GROUP | flags,
							     .score = rank_score };
			const struct mixture_entry entry[] = { { .type = &single_reward, .weight = 1 },
							       { .type = &ranking, .weight = 100 } };
			struct mixture *m = mixture_new(entry, 2, threads);
			struct mixture_scores s;
			uint8_t pixel[N][3];

			assert_true(mixture_has_groups(m) && mixture_at(m, 1)->group);
			assert_false(mixture_at(m, 0)->group);
			atomic_store(&group_calls, 0);
			mixture_scores_init(&s, N, 2);
			mixture_begin(m, &s);
			/* sample i is number i / G of group i % G */
			for (int i = 0; i < N; i++)
				pixel[i][0] = value[i % G * 4 + i / G], pixel[i][1] = pixel[i][2] = 0;
			submit_all(m, &s, pixel, N, 3);
			for (int g = G - 1; g >= 0; g--) {
				struct reward_item item[4];
				uint8_t group[4][3];
				int sample[4];

				for (int i = 0; i < 4; i++) {
					group[i][0] = value[g * 4 + i];
					group[i][1] = (uint8_t)g, group[i][2] = (uint8_t)i;
					item[i] = (struct reward_item) { group[i], 1, 1, "p", "{}", 0 };
					sample[i] = i * G + g;
				}
				mixture_submit_group(m, &s, sample, item, 4);
				memset(group, 77, sizeof group);
				memset(sample, 77, sizeof sample);
			}
			finish(m, &s);
			assert_int_equal(atomic_load(&group_calls), G);
			assert_int_equal(s.unavailable, 1);
			assert_string_equal(s.why, "ranking: unavailable");
			for (int i = 0; i < N; i++) {
				double v = want[i % G * 4 + i / G] / 3;
				assert_true(s.value[i] == value[i % G * 4 + i / G]);
				assert_int_equal(isnan(s.value[N + i]), isnan(v));
				assert_true(isnan(v) || fabs(s.value[N + i] - v) < 1e-12);
				assert_true(isnan(v) || s.sub[(N + i) * REWARD_SUBS] == 4);
			}
			mixture_scores_free(&s);
			mixture_close(m);
		}
}

/* A call that fails takes its group with it, and its reason is that of the first of these samples. */
static void failing_group(void **unused)
{
	enum { N = 8 };
	const struct reward_type ranking = {
		.abi = REWARD_ABI, .name = "ranking", .flags = REWARD_GROUP, .score = rank_score
	};
	const struct mixture_entry entry = { .type = &ranking, .weight = 1 };
	struct mixture *m = mixture_new(&entry, 1, 1);
	uint8_t pixel[N][3] = { { 0 } };
	struct reward_item item[N];
	struct mixture_scores s;
	int sample[N];

	(void)unused;
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	for (int i = 0; i < N; i++) {
		pixel[i][0] = (uint8_t)i, pixel[i][2] = (uint8_t)(i % 5);
		item[i] = (struct reward_item) { pixel[i], 1, 1, "p", "{}", 0 };
		sample[i] = N - 1 - i;
	}
	mixture_submit(m, &s, 0, item, N); /* nobody wants them so */
	assert_true(mixture_done(m, &s));
	mixture_submit_group(m, &s, sample, item, 3);
	mixture_submit_group(m, &s, sample + 5, item + 5, 3);
	finish(m, &s);
	assert_int_equal(s.unavailable, N);
	assert_string_equal(s.why, "ranking: 3 images are no group");
	assert_int_equal(s.why_at, 0);
	mixture_scores_free(&s);
	mixture_close(m);
}

static int hanging_group(void *state, const struct reward_item *item, int n, struct reward_score *out,
			 struct err *e)
{
	if (item[0].rgb[1] == 1 && !wait_for(&go))
		return err_set(e, "never let go");
	return rank_score(state, item, n, out, e);
}

/* A group that takes too long is unavailable as a whole, and what it reads stays. */
static void deadline_of_a_group(void **unused)
{
	enum { N = 8 };
	const struct reward_type hanging = { .abi = REWARD_ABI,
					     .name = "hanging",
					     .flags = REWARD_GROUP | REWARD_THREAD_SAFE,
					     .score = hanging_group };
	const struct mixture_entry entry = { .type = &hanging, .weight = 1, .deadline = 0.1 };
	struct mixture *m = mixture_new(&entry, 1, 2);
	struct mixture_scores s;

	(void)unused;
	begin_waits();
	mixture_scores_init(&s, N, 1);
	mixture_begin(m, &s);
	for (int g = 0; g < 2; g++) {
		uint8_t pixel[4][3];
		struct reward_item item[4];
		int sample[4];

		for (int i = 0; i < 4; i++) {
			pixel[i][0] = (uint8_t)i, pixel[i][1] = (uint8_t)g, pixel[i][2] = (uint8_t)i;
			item[i] = (struct reward_item) { pixel[i], 1, 1, "p", "{}", 0 };
			sample[i] = 4 * g + i;
		}
		mixture_submit_group(m, &s, sample, item, 4);
	}
	finish(m, &s);
	assert_int_equal(s.unavailable, 4);
	for (int i = 0; i < N; i++)
		assert_true(i < 4 ? s.total[i] == i / 3.0 || fabs(s.total[i] - i / 3.0) < 1e-12
				  : isnan(s.total[i]));
	assert_string_equal(s.why, "hanging: no score within its deadline of 0.1 s");
	mixture_scores_free(&s);
	sem_post(&go);
	mixture_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(groups_are_whole),
		cmocka_unit_test(failing_group),
		cmocka_unit_test(deadline_of_a_group),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
