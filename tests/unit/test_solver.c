/* sampler/solver.h and sampler/sample.h: the law's step, its noise and what is recorded of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "sampler/sample.h"

enum { STEPS = 6, N = 1 << 16 };
static const double sigma[STEPS + 1] = { 1, 0.9, 0.75, 0.5, 0.3, 0.125, 0 };

/* Coefficients that differ from step to step, and noise that is linear in eta. */
static struct transition law(const struct solver *s, int i)
{
	return (struct transition) { .x = 1 - 0.125 * i,
				     .v = -0.25 - i,
				     .std = solver_eta(s, i) * (0.5 + 0.25 * i),
				     .dt = s->sigma[i + 1] - s->sigma[i] };
}

static const struct solver_type noisy = {
	.name = "noisy", .step = solver_law_step, .law = law, .strength = 0.5
};

/* v = 3 x - sigma; z = 1, 2, 3, ... by step, or drawn. */
struct seen {
	int n, step[STEPS];
	at_t before[STEPS], after[STEPS];
	int asked;
	bool drawn;
};

static at_t velocity(void *ctx, double level, at_t x)
{
	(void)ctx;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	return at_return(s, at_sub(at_mul(x, 3.0), level));
}

static at_t noise(void *ctx, int i, at_t x)
{
	struct seen *seen = ctx;
	at_t z = at_full(at_shape(x), i + 1, AT_F64, AT_CPU);

	seen->asked++;
	if (seen->drawn) {
		struct rng r = rng_make_step(7, RNG_SOLVER, 3, 5, (uint64_t)i);
		float *v = mem_zero((size_t)at_numel(x), sizeof *v);

		rng_normals(&r, v, (size_t)at_numel(x));
		z = at_cast(at_from(v, at_shape(x), AT_F32), AT_F64);
		free(v);
	}
	return z;
}

static void record(void *ctx, int i, at_t x, at_t next)
{
	struct seen *seen = ctx;

	seen->step[seen->n] = i;
	seen->before[seen->n] = at_keep(x);
	seen->after[seen->n++] = at_keep(next);
}

static struct solver make(struct seen *seen)
{
	return (struct solver) { .type = &noisy,
				 .steps = STEPS,
				 .sigma = sigma,
				 .eta = 0.5,
				 .noisy_to = STEPS,
				 .velocity = velocity,
				 .noise = noise,
				 .record = record,
				 .ctx = seen };
}

static void forget(struct seen *seen)
{
	for (int k = 0; k < seen->n; k++) {
		at_free(seen->before[k]);
		at_free(seen->after[k]);
	}
	*seen = (struct seen) { 0 };
}

/* The run in plain numbers. */
static double by_hand(double x, double eta, int from, int to, int stop, double *before, double *after)
{
	for (int i = 0; i < stop; i++) {
		double e = i >= from && i < to ? eta : 0;

		before[i] = x;
		x = (1 - 0.125 * i) * x + (-0.25 - i) * (3 * x - sigma[i]) + e * (0.5 + 0.25 * i) * (i + 1);
		after[i] = x;
	}
	return x;
}

static void steps_and_windows(void **state)
{
	static const struct {
		double eta;
		int from, to, stop;
	} cases[] = { { 0.5, 0, STEPS, 0 }, { 0.25, 2, 4, 0 }, { 0.5, 0, 1, 0 },     { 0.5, 5, 9, 0 },
		      { 0, 0, STEPS, 0 },   { 0.5, 3, 3, 0 },  { 0.5, 0, STEPS, 3 }, { 0.5, 4, STEPS, 3 } };

	(void)state;
	for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
		struct at_scope *sc = at_begin(AT_NO_GRAD);
		struct seen seen = { 0 };
		struct solver s = make(&seen);
		double before[STEPS], after[STEPS];
		int from = cases[c].from, stop = cases[c].stop ? cases[c].stop : STEPS;
		int to = cases[c].to < stop ? cases[c].to : stop,
		    want = cases[c].eta > 0 && to > from ? to - from : 0;

		s.eta = cases[c].eta;
		s.noisy_from = from;
		s.noisy_to = cases[c].to;
		s.stop = cases[c].stop;
		at_t x = solver_run(&s, at_full(DIMS(2, 3), 1.5, AT_F64, AT_CPU));
		double end = by_hand(1.5, cases[c].eta, from, cases[c].to, stop, before, after);

		assert_true(fabs(at_item(at_max(x)) / end - 1) < 1e-14 &&
			    at_item(at_max(x)) == at_item(at_min(x)));
		assert_int_equal(seen.n, want);
		assert_int_equal(seen.asked, want); /* no number is drawn that is not used */
		for (int k = 0; k < seen.n; k++) {
			int i = seen.step[k];

			assert_int_equal(i, from + k);
			assert_true(fabs(at_item(at_max(seen.before[k])) / before[i] - 1) < 1e-14);
			assert_true(fabs(at_item(at_max(seen.after[k])) / after[i] - 1) < 1e-14);
		}
		forget(&seen);
		at_end(sc);
	}
	assert_int_equal(at_live(), 0);
}

/* Mean and variance of a step over many numbers, by the law of that step: five standard errors. */
static void moments_of(const struct solver_type *type)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct seen seen = { .drawn = true };
	struct solver s = make(&seen);

	s.type = type;
	s.eta = type->strength;
	for (int i = 0; i < STEPS; i++) {
		struct transition t = type->law(&s, i);
		at_t next = type->step(&s, i, at_full(DIMS(1, N), 0.75, AT_F64, AT_CPU));
		double mean = t.x * 0.75 + t.v * (3 * 0.75 - sigma[i]), got = at_item(at_mean(next));
		double variance = at_item(at_mean(at_square(at_sub(next, mean)))), error = sqrt(1.0 / N);

		assert_true(fabs(got - mean) < 5 * t.std * error + 1e-14);
		assert_true(fabs(variance - t.std * t.std) < 5 * sqrt(2.0) * error * t.std * t.std + 1e-28);
		assert_int_equal(seen.n, t.std > 0); /* a step without noise has no record */
		forget(&seen);
		seen.drawn = true;
	}
	at_end(sc);
}

static void moments(void **state)
{
	struct err e;
	int laws = 0;

	(void)state;
	moments_of(&noisy);
	for (const char *const *name = solver_names; *name; name++) {
		const struct solver_type *type = solver_open(*name, &e);

		if (type->law) {
			moments_of(type);
			laws++;
		}
	}
	assert_int_equal(laws, 6);
}

static struct transition bad_law(const struct solver *s, int i)
{
	struct transition t = law(s, i);

	t.std = i == 4 ? 0.1 : t.std;
	return t;
}

static struct transition nan_law(const struct solver *s, int i)
{
	struct transition t = law(s, i);

	t.v = i == 3 && solver_eta(s, i) > 0 ? NAN : t.v;
	return t;
}

static int only_short(const struct solver *s, struct err *e)
{
	return s->steps > 3 ? err_set(e, "at most 3 steps") : 0;
}

static void checks(void **state)
{
	struct seen seen = { 0 };
	struct solver s = make(&seen);
	struct solver_type type = noisy;
	struct err e;

	(void)state;
	assert_int_equal(solver_check(&s, &e), 0);
	s.type = &type;
	type.law = bad_law;
	assert_int_equal(solver_check(&s, &e), -1);
	assert_string_equal(e.msg, "solver noisy: step 4 of 6 adds noise (0.1) though eta is 0");
	type.law = nan_law;
	s.noisy_to = 0; /* whatever the window is now */
	assert_int_equal(solver_check(&s, &e), -1);
	assert_non_null(strstr(e.msg, "solver noisy: step 3 of 6, eta 0.5: x 0.625, v nan"));
	type.law = NULL;
	type.check = only_short;
	assert_int_equal(solver_check(&s, &e), -1);
	assert_string_equal(e.msg, "solver noisy: at most 3 steps");
	assert_int_equal(seen.asked, 0);
}

static void registry(void **state)
{
	struct err e;
	int n = 0;

	(void)state;
	for (const char *const *name = solver_names; *name; name++, n++) {
		const struct solver_type *type = solver_open(*name, &e);

		assert_non_null(type);
		assert_string_equal(type->name, *name);
		assert_true(type->doc && type->step && !type->close);
		assert_non_null(strstr(SOLVER_CHOICES, *name));
		solver_close(type);
	}
	assert_int_equal(n, 10);
	assert_null(solver_open("oiler", &e));
	assert_non_null(
	    strstr(e.msg, "unknown solver 'oiler'; did you mean 'euler'; there are euler, heun, ddim"));
}

static jmp_buf landing;
static char said[512];

static void land(const char *message)
{
	snprintf(said, sizeof said, "%s", message);
	longjmp(landing, 1);
}

static void no_noise_to_give(void **state)
{
	struct seen seen = { 0 };
	struct solver s = make(&seen);
	at_panic_fn *before = at_set_panic(land);

	(void)state;
	s.noise = NULL;
	if (!setjmp(landing)) {
		struct at_scope *sc = at_begin(AT_NO_GRAD);
		solver_run(&s, at_full(DIMS(1), 1, AT_F64, AT_CPU));
		at_end(sc);
		fail_msg("a run without noise went through");
	}
	at_unwind();
	at_set_panic(before);
	assert_non_null(strstr(said, "solver noisy adds noise at step 0, and this run has none to give"));
	assert_int_equal(seen.n, 0);
}

/* Noise of a row depends on its sample and the step, not on the rows beside it. */
static void keyed_noise(void **state)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct pipeline p = { .device = AT_CPU };
	const int64_t id[7] = { 11, 4, 0, 9, 4000000000, 5, 2 };
	struct sampler_steps k = { .seed = 3, .epoch = 2, .purpose = RNG_SOLVER, .id = id };
	struct at_dims chw = DIMS(2, 3, 5);
	at_t all[STEPS], other;

	(void)state;
	for (int i = 0; i < STEPS; i++)
		all[i] = sampler_step_noise(&p, &k, i, 7, chw);
	for (int at = 0; at < 7; at++) { /* one at a time, in another order of steps */
		struct sampler_steps one = k;

		one.id = id + at;
		for (int i = STEPS - 1; i >= 0; i--)
			assert_true(
			    at_equal(sampler_step_noise(&p, &one, i, 1, chw), at_narrow(all[i], 0, at, 1)));
	}
	for (int i = 0; i < STEPS; i++) { /* the stream's own name */
		struct rng r = rng_make_step(3, RNG_SOLVER, 2, 4, (uint64_t)i);
		float z[30];

		rng_normals(&r, z, 30);
		assert_memory_equal(z, at_f32(at_contiguous(at_select(all[i], 0, 1))), sizeof z);
	}
	/* every part of the name counts */
	struct sampler_steps others[4] = { k, k, k, k };
	others[0].seed++;
	others[1].epoch++;
	others[2].purpose = RNG_EVAL_SOLVER;
	others[3].purpose = RNG_USER_SOLVER;
	for (int c = 0; c < 4; c++) {
		other = sampler_step_noise(&p, &others[c], 1, 7, chw);
		for (int i = 0; i < STEPS; i++)
			assert_false(at_equal(other, all[i]));
	}
	for (int i = 0; i < STEPS; i++)
		for (int j = 0; j < i; j++)
			assert_false(at_equal(all[i], all[j]));
	at_end(sc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steps_and_windows),
		cmocka_unit_test(moments),
		cmocka_unit_test(checks),
		cmocka_unit_test(registry),
		cmocka_unit_test(no_noise_to_give),
		cmocka_unit_test(keyed_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
