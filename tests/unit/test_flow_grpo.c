/* FlowGRPO's windows and pairs: which steps take noise, and which of them an image is trained at.  Drawn
 * numbers are tests/commands/philox.py's. */
#include "algorithms/flow_grpo.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

enum { STEPS = 10 };

/* A configuration's texts are not constant. */
static char exact[] = "exact", unscaled[] = "unscaled", clip[] = "clip";

static struct flow_grpo_conf conf_of(const char *steps, const char *moves)
{
	return (struct flow_grpo_conf) {
		.log_ratio = exact,
		.rule = clip,
		.steps = (char *)(uintptr_t)steps,
		.window_moves = (char *)(uintptr_t)moves,
		.window_every = 1,
		.kl_beta = 0.04,
	};
}

static void window_is(const struct flow_grpo_conf *c, uint64_t epoch, int from, int to)
{
	int got_from = -1, got_to = -1;

	algorithm_flow_grpo.window(c, 7, epoch, STEPS, &got_from, &got_to);
	assert_int_equal(got_from, from);
	assert_int_equal(got_to, to);
}

static void no_window(void **state)
{
	struct flow_grpo_conf c = conf_of("first", "random");

	(void)state;
	c.window_low = 2; /* of no account */
	window_is(&c, 0, 0, STEPS);
	window_is(&c, 9, 0, STEPS);
}

/* Four places, 1 to 4, in steps 1 to 6. */
static void random_windows(void **state)
{
	static const int from[] = { 1, 2, 3, 1, 3, 3, 3, 4, 3, 3, 1, 1 };
	struct flow_grpo_conf c = conf_of("first", "random");

	(void)state;
	c.window = 3;
	c.window_low = 1;
	c.window_high = 7;
	for (uint64_t epoch = 0; epoch < sizeof from / sizeof *from; epoch++)
		window_is(&c, epoch, from[epoch], from[epoch] + 3);
}

static void sliding_windows(void **state)
{
	struct flow_grpo_conf c = conf_of("first", "slides");

	(void)state;
	c.window = 2;
	c.window_every = 3;
	for (uint64_t epoch = 0; epoch < 30; epoch++) { /* of the first half: 0, 1, 2, 3 and back */
		int from = (int)(epoch / 3) % 4;
		window_is(&c, epoch, from, from + 2);
	}
	c.window_low = 4;
	c.window_high = 100; /* no more than there are: 4 to 8 */
	for (uint64_t epoch = 0; epoch < 45; epoch++) {
		int from = 4 + (int)(epoch / 3) % 5;
		window_is(&c, epoch, from, from + 2);
	}
	c.window_low = 8; /* one place */
	window_is(&c, 0, 8, 10);
	window_is(&c, 100, 8, 10);
}

/* A round of four images of one prompt, whose steps but 4 took noise. */
struct made {
	double sigma[STEPS + 1], advantage[4];
	struct transition law[STEPS];
	int64_t group[4];
	struct schedule schedule;
	struct round round;
};

static void make(struct made *m, int levels)
{
	*m = (struct made) { .advantage = { 0, 1, -1, 0.5 }, .schedule = { .steps = STEPS } };
	for (int i = 0; i <= STEPS; i++)
		m->sigma[i] = 1 - (double)i / STEPS;
	for (int i = 0; i < STEPS; i++)
		m->law[i] = (struct transition) { 1, -0.1, i == 4 ? 0 : 0.3, -0.1 };
	m->schedule.sigma = m->sigma;
	m->round = (struct round) { .schedule = &m->schedule,
				    .levels = levels,
				    .seed = 7,
				    .epoch = 3,
				    .n = 4,
				    .group = m->group,
				    .advantage = m->advantage,
				    .law = m->law };
}

static void pairs_are(const struct flow_grpo_conf *c, const struct made *m, int64_t sample, int n,
		      const int *level, double weight)
{
	struct pair out[STEPS];

	assert_int_equal(algorithm_flow_grpo.pairs(c, &m->round, sample, out), n);
	for (int k = 0; k < n; k++) {
		assert_int_equal(out[k].sample, sample);
		assert_int_equal(out[k].level, level[k]);
		assert_true(out[k].weight == weight && out[k].sigma == 0);
	}
}

static void first_steps(void **state)
{
	static const int level[] = { 0, 1, 2, 3, 5, 6, 7, 8, 9 };
	struct flow_grpo_conf c = conf_of("first", "random");
	struct made m;

	(void)state;
	for (int levels = 1; levels <= STEPS; levels++) {
		make(&m, levels);
		for (int64_t i = 0; i < 4; i++) /* the last step too, where so many are wanted */
			pairs_are(&c, &m, i, levels < 9 ? levels : 9, level, 1);
	}
}

/* The last step is never drawn, unless a window reaches it. */
static void random_steps(void **state)
{
	static const int level[4][8] = { { 6, 1, 3, 8, 0, 7, 2, 5 },
					 { 5, 8, 6, 2, 1, 7, 0, 3 },
					 { 8, 1, 7, 0, 2, 3, 6, 5 },
					 { 6, 0, 3, 7, 1, 8, 2, 5 } };
	struct flow_grpo_conf c = conf_of("random", "random");
	struct made m;

	(void)state;
	for (int levels = 1; levels <= STEPS; levels++) {
		make(&m, levels);
		for (int64_t i = 0; i < 4; i++)
			pairs_are(&c, &m, i, levels < 8 ? levels : 8, level[i], 1);
	}
	make(&m, 5);
	for (int i = 0; i < 8; i++)
		m.law[i].std = 0; /* a window of the last two */
	c.window = 2;
	for (int64_t i = 0; i < 4; i++) {
		struct pair out[STEPS];
		assert_int_equal(algorithm_flow_grpo.pairs(&c, &m.round, i, out), 2);
		assert_int_equal(out[0].level + out[1].level, 8 + 9);
		assert_true(out[0].level != out[1].level);
	}
}

/* An image with the mean reward teaches nothing but to stay near the base. */
static void without_advantage(void **state)
{
	static const int level[] = { 0, 1, 2 };
	struct flow_grpo_conf c = conf_of("first", "random");
	struct made m;

	(void)state;
	make(&m, 3);
	c.kl_beta = 0;
	pairs_are(&c, &m, 0, 3, level, 0);
	pairs_are(&c, &m, 1, 3, level, 1);
	pairs_are(&c, &m, 2, 3, level, 1);
	c.kl_beta = 1e-3;
	pairs_are(&c, &m, 0, 3, level, 1);
}

static int judge_steps(const struct flow_grpo_conf *c, struct made *m, struct err *e)
{
	return algorithm_flow_grpo.check_steps(c, &m->round, e);
}

/* Steps of hardly any noise are refused where they would be trained, and only there. */
static void narrow_steps(void **state)
{
	struct flow_grpo_conf first = conf_of("first", "random"), any = conf_of("random", "random");
	struct made m;
	struct err e;

	(void)state;
	make(&m, 9);
	m.law[9].std = 0.01;
	assert_int_equal(judge_steps(&first, &m, &e), 0);
	assert_int_equal(judge_steps(&any, &m, &e), 0);
	m.round.levels = 10;
	assert_int_equal(judge_steps(&any, &m, &e), 0);
	assert_int_equal(judge_steps(&first, &m, &e), -1);
	assert_non_null(strstr(e.msg, "step 9 of the rollout adds noise of 0.01 only"));
	first.log_ratio = unscaled;
	assert_int_equal(judge_steps(&first, &m, &e), 0);
	m.law[8].std = 0.01;
	assert_int_equal(judge_steps(&any, &m, &e), -1);
	any.window = 2;
	any.window_high = 8;
	assert_int_equal(judge_steps(&any, &m, &e), 0);
	any.window_high = 9;
	assert_int_equal(judge_steps(&any, &m, &e), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_window),       cmocka_unit_test(random_windows),
		cmocka_unit_test(sliding_windows), cmocka_unit_test(first_steps),
		cmocka_unit_test(random_steps),    cmocka_unit_test(without_advantage),
		cmocka_unit_test(narrow_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
