/*
 * test_judging.c -- scores of images that ranks share: the same for any number of them, and rewards that
 * want whole groups get these, wherever shares cut them.  mpirun -n N test_judging.
 *
 * Image i of a set has pixels (value of i, its group, its place in the group).
 */
#include "base/mem.h"
#include "trainer/judging.h"
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond) check((cond), #cond, __LINE__)
#define W           3 /* pixels of an image, all the same */

static struct dist d;
static int64_t size; /* of a group */
static atomic_int group_calls;

static void check(bool good, const char *what, int line)
{
	if (good)
		return;
	fprintf(stderr, "test_judging.c:%d: rank %d of %d, groups of %d: not so: %s\n", line, d.rank, d.ranks,
		(int)size, what);
	dist_abort(1);
}

static uint8_t value(int64_t i)
{
	return (uint8_t)(i * 37 % 101);
}

/* Group 1 has no score, and neither has an image whose value is 5. */
static bool fails(int64_t i)
{
	return i / size == 1 || value(i) == 5;
}

static int rank_images(void *state, const struct reward_item *item, int n, struct reward_score *out,
		       struct err *e)
{
	(void)state;
	atomic_fetch_add(&group_calls, 1);
	CHECK(n == size);
	for (int i = 0; i < n; i++) {
		CHECK(item[i].rgb[1] == item[0].rgb[1] && item[i].rgb[2] == i);
		CHECK(item[i].rgb[3 * W - 1] == i && item[i].w == W && item[i].h == 1);
		CHECK(atoi(item[i].prompt) == item[i].rgb[1] && item[i].meta[0] == '{');
	}
	if (item[0].rgb[1] == 1)
		return err_set(e, "group 1");
	for (int i = 0; i < n; i++) {
		out[i].ok = item[i].rgb[0] != 5;
		snprintf(out[i].why, sizeof out[i].why, "5 in group %d", item[i].rgb[1]);
		out[i].value = 0;
		for (int k = 0; k < n; k++)
			out[i].value += item[k].rgb[0] < item[i].rgb[0] ? 1.0 / n : 0;
		out[i].sub[2] = item[i].rgb[0];
	}
	return 0;
}

static int single(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	(void)state, (void)e;
	for (int i = 0; i < n; i++) {
		out[i].ok = item[i].rgb[0] != 7;
		snprintf(out[i].why, sizeof out[i].why, "7 in group %d", item[i].rgb[1]);
		out[i].value = item[i].rgb[0] + 0.25;
		out[i].sub[0] = item[i].rgb[2];
	}
	return 0;
}

static const struct reward_type single_reward = { .abi = REWARD_ABI, .name = "single", .score = single };
static const struct reward_type ranking_reward = {
	.abi = REWARD_ABI, .name = "ranking", .flags = REWARD_GROUP, .score = rank_images
};

static void hand_over(struct judging *j, int batch)
{
	for (int64_t at = 0; at < j->count; at += batch) {
		int k = (int)(j->count - at < batch ? j->count - at : batch);
		struct reward_item *item = mem_zero((size_t)k, sizeof *item);
		uint8_t *rgb = mem_zero((size_t)k, 3 * W);

		for (int i = 0; i < k; i++) {
			static const char *const prompt[] = {
				"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"
			};
			int64_t sample = j->first + at + i, group = sample / size;

			for (int p = 0; p < W; p++) {
				rgb[3 * (i * W + p)] = value(sample);
				rgb[3 * (i * W + p) + 1] = (uint8_t)group;
				rgb[3 * (i * W + p) + 2] = (uint8_t)(sample % size);
			}
			item[i] = (struct reward_item) {
				rgb + (ptrdiff_t)(3 * W * i), W, 1, prompt[group], "{}", 0
			};
		}
		judging_submit(j, at, item, k);
		memset(rgb, 77, (size_t)(3 * W * k));
		free(rgb);
		free(item);
	}
}

static void check_scores(const struct mixture_scores *s, int64_t n)
{
	int64_t unavailable = 0, first = -1;
	char why[256] = "";

	for (int64_t i = 0; i < n; i++) {
		double rank = 0;

		for (int64_t k = i / size * size; k < i / size * size + size; k++)
			rank += value(k) < value(i) ? 1.0 / (double)size : 0;
		CHECK(value(i) == 7 ? isnan(s->value[i]) : s->value[i] == value(i) + 0.25);
		CHECK(value(i) == 7 || s->sub[i * REWARD_SUBS] == (double)(i % size));
		CHECK(fails(i) ? isnan(s->value[n + i]) : s->value[n + i] == rank);
		CHECK(fails(i) || s->sub[(n + i) * REWARD_SUBS + 2] == value(i));
		bool none = fails(i) || value(i) == 7;
		CHECK(none ? isnan(s->total[i]) : s->total[i] == value(i) + 0.25 + 1000 * rank);
		unavailable += none;
		if (!none || first >= 0)
			continue;
		first = i;
		if (value(i) == 7)
			snprintf(why, sizeof why, "single: 7 in group %d", (int)(i / size));
		else if (i / size == 1)
			snprintf(why, sizeof why, "ranking: group 1");
		else
			snprintf(why, sizeof why, "ranking: 5 in group %d", (int)(i / size));
	}
	CHECK(s->unavailable == unavailable);
	CHECK(!strcmp(s->why, why));
}

static void judge(struct mixture *m, int64_t groups)
{
	int64_t n = groups * size;
	struct mixture_scores all;
	struct judging j;
	double waited, calls;

	for (int batch = 1; batch < 8; batch += 3) {
		atomic_store(&group_calls, 0);
		judging_begin(&j, &d, m, n, size);
		hand_over(&j, batch + d.rank);
		judging_finish(&j, &all, &waited);
		CHECK(waited >= 0);
		check_scores(&all, n);
		mixture_scores_free(&all);
		calls = atomic_load(&group_calls);
		dist_sum_f64(&d, &calls, 1);
		CHECK(calls == (double)groups);
	}
	judging_begin(&j, &d, m, n, size);
	hand_over(&j, 2);
	judging_drop(&j);
}

int main(void)
{
	const struct mixture_entry entry[] = { { .type = &single_reward, .weight = 1 },
					       { .type = &ranking_reward, .weight = 1000 } };
	/* sizes at which 2, 3 and 5 ranks cut groups in two, in more, not at all, and have nothing to do */
	static const int64_t sizes[][2] = { { 5, 3 }, { 12, 2 }, { 24, 1 }, { 4, 6 },
					    { 1, 9 }, { 2, 1 },  { 1, 1 },  { 7, 5 } };
	struct err e;

	if (dist_open(&d, &e)) {
		fprintf(stderr, "test_judging.c: %s\n", e.msg);
		return 1;
	}
	struct mixture *m = mixture_new(entry, 2, 2);
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		size = sizes[i][0];
		judge(m, sizes[i][1]);
	}
	mixture_close(m);
	dist_close(&d);
	return 0;
}
