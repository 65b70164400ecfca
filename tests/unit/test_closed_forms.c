/*
 * The solvers on flows whose solution is known: data of one normal distribution, of one point, and of a
 * mixture of three.
 *
 * x_t = (1 - t) x0 + t eps.  Data N(m, c^2): V = (1 - t)^2 c^2 + t^2, k = (t - (1 - t) c^2) / V,
 * v = k (x - (1 - t) m) - m.  A step with a law is affine there, so what it makes is normal, and mean and
 * variance are computed, not estimated.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/mem.h"
#include "base/rng.h"
#include "sampler/schedule.h"
#include "sampler/solver.h"

static const struct schedule_conf conf = { .shift = 3, .num_train_timesteps = 1000 };

static struct schedule levels(enum schedule_grid grid, double shift, int steps)
{
	struct schedule s;

	schedule_init(&s, &conf, grid, MU_LINEAR, shift, steps, 0, false);
	return s;
}

static const struct solver_type *named(const char *name)
{
	struct err e;
	const struct solver_type *type = solver_open(name, &e);

	assert_non_null(type);
	return type;
}

static struct solver of(const char *name, const struct schedule *k, double eta)
{
	return (struct solver) {
		.type = named(name), .steps = k->steps, .sigma = k->sigma, .eta = eta, .noisy_to = k->steps
	};
}

/* ---- Laws -------------------------------------------------------------------------------------------- */

/* flow_sde at shift 3, 10 steps, eta 0.7, in float64 by another program (numpy). */
static void check_values(void **state)
{
	static const double std[] = { .700000, .742964, .536152, .445897, .391794,
				      .352797, .319070, .282007, .225360, .006278 };
	static const double x[] = { .755000, .712541, .842635, .884093, .902892,
				    .912011, .915465, .914463, .908672, .997793 };
	static const double v[] = { .039871, .058242, .069293, .083818, .103447,
				    .130884, .170907, .232600, .335055, .011116 };
	struct schedule k = levels(GRID_TRAIN, 3, 10);
	struct solver s = of("flow_sde", &k, 0.7);

	(void)state;
	for (int i = 0; i < 10; i++) {
		struct transition t = s.type->law(&s, i);

		assert_true(fabs(t.std - std[i]) < 6e-7 && fabs(t.x - x[i]) < 6e-7 &&
			    fabs(t.v + v[i]) < 6e-7);
		assert_true(t.dt == k.sigma[i + 1] - k.sigma[i]);
	}
	schedule_free(&k);
}

/* Every step of every solver that has a law, and its numbers are such as can be used; without noise it is
 * Euler's. */
static void any_eta(void **state)
{
	static const char *const names[] = { "flow_sde", "dance_sde", "ddim", "cps", "dpm1", "euler" };
	static const double etas[] = { 0, 1e-9, 1e-3, 0.3, 1 }, shifts[] = { 1, 3, 12 };
	static const int steps[] = { 1, 2, 3, 10, 41, 1000 };

	(void)state;
	for (int g = 0; g < 2; g++)
		for (int f = 0; f < 3; f++)
			for (int n = 0; n < 6; n++) {
				struct schedule k = levels(g ? GRID_STEPS : GRID_TRAIN, shifts[f], steps[n]);

				for (int j = 0; j < 6; j++)
					for (int a = 0; a < 5; a++) {
						struct solver s = of(names[j], &k, etas[a]);
						struct err e;
						bool refused = !strcmp(names[j], "dance_sde") &&
							       k.sigma[k.steps - 1] <= etas[a] * etas[a] / 2;

						assert_int_equal(solver_check(&s, &e), refused ? -1 : 0);
						s.eta = strcmp(names[j], "dpm1") ? 0 : 1;
						for (int i = 0; i < k.steps; i++) {
							struct transition t = s.type->law(&s, i);

							assert_true(t.std == 0);
							assert_true(fabs(t.x - 1) < (s.eta ? 1e-12 : 1e-300));
							assert_true(fabs(t.v - t.dt) <
								    (s.eta ? 1e-12 : 1e-300));
						}
					}
				schedule_free(&k);
			}
}

/* Mean and standard deviation of the images of data N(m, c^2). */
static void images(const struct solver *s, double m, double c, double *mean, double *std)
{
	double variance = 1;

	*mean = 0;
	for (int i = 0; i < s->steps; i++) {
		double t = s->sigma[i], V = (1 - t) * (1 - t) * c * c + t * t, k = (t - (1 - t) * c * c) / V;
		struct transition law = s->type->law(s, i);
		double A = law.x + law.v * k;

		*mean = A * *mean - law.v * (k * (1 - t) * m + m);
		variance = A * A * variance + law.std * law.std;
	}
	*std = sqrt(variance);
}

static void marginals(void **state)
{
	/* Relative errors of the standard deviation at 10, 20, ... 160 steps: float64, numpy. */
	static const struct {
		const char *solver;
		double eta, error[5];
	} rows[] = { { "euler", 0, { -.261, -.137, -.071, -.036, -.018 } },
		     { "dpm1", 0, { -.261, -.137, -.071, -.036, -.018 } },
		     { "flow_sde", 0.7, { -.151, -.082, -.041, -.020, -.009 } },
		     { "ddim", 0.5, { -.274, -.154, -.084, -.045, -.024 } },
		     { "dance_sde", 1, { .045, -.003, -.005, -.0035, -.0019 } },
		     { "cps", 0.8, { -.371, -.300, -.258, -.232, -.217 } } };

	(void)state;
	for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
		for (int n = 0; n < 5; n++) {
			struct schedule k = levels(GRID_STEPS, 3, 10 << n);
			struct solver s = of(rows[r].solver, &k, rows[r].eta);
			double mean, std;

			images(&s, 0.7, 0.5, &mean, &std);
			assert_true(fabs(mean - 0.7) < 1e-12);
			assert_true(fabs(std / 0.5 - 1 - rows[r].error[n]) < 6e-4);
			schedule_free(&k);
		}
}

/* Where cps goes as steps are added: not to the data. */
static void no_limit_of_cps(void **state)
{
	static const double eta[] = { 0.8, 0.5 }, limit[] = { -.1934, -.0783 };

	(void)state;
	for (int a = 0; a < 2; a++) {
		struct schedule k = levels(GRID_STEPS, 3, 5000);
		struct solver s = of("cps", &k, eta[a]);
		double mean, std;

		images(&s, 0.7, 0.5, &mean, &std);
		assert_true(fabs(std / 0.5 - 1 - limit[a]) < 6e-5);
		schedule_free(&k);
	}
}

/* ---- Runs -------------------------------------------------------------------------------------------- */

/* v of a mixture of `parts` normal distributions in d dimensions, float64; one point where c is 0. */
struct mixture {
	int d, parts;
	double p[3], m[3][2], c[3];
};
static const struct mixture point = { 2, 1, { 1 }, { { 0.7, -1.2 } }, { 0 } };
static const struct mixture three = {
	2, 3, { .5, .3, .2 }, { { 1.5, 0 }, { -1, 1 }, { 0, -1.5 } }, { .35, .5, .6 }
};

static void flow(const struct mixture *f, double t, const double *x, double *v)
{
	double w[3], total = 0, most = -INFINITY, V[3];

	for (int k = 0; k < f->parts; k++) {
		double far = 0;

		V[k] = (1 - t) * (1 - t) * f->c[k] * f->c[k] + t * t;
		for (int j = 0; j < f->d; j++)
			far += (x[j] - (1 - t) * f->m[k][j]) * (x[j] - (1 - t) * f->m[k][j]);
		w[k] = log(f->p[k]) - f->d / 2.0 * log(V[k]) - far / (2 * V[k]);
		most = fmax(most, w[k]);
	}
	for (int k = 0; k < f->parts; k++)
		total += w[k] = exp(w[k] - most);
	for (int j = 0; j < f->d; j++) {
		v[j] = 0;
		for (int k = 0; k < f->parts; k++)
			v[j] += w[k] / total *
				((t - (1 - t) * f->c[k] * f->c[k]) / V[k] * (x[j] - (1 - t) * f->m[k][j]) -
				 f->m[k][j]);
	}
}

struct run {
	const struct mixture *flow;
	int calls;
};

static at_t velocity(void *ctx, double t, at_t x_BD)
{
	struct run *r = ctx;
	at_t v_BD = at_empty(at_shape(x_BD), AT_F64, AT_CPU), in_BD = at_contiguous(x_BD);
	const double *x = at_data(in_BD);
	double *v = at_data(v_BD);

	for (int64_t b = 0; b < at_size(x_BD, 0); b++)
		flow(r->flow, t, x + 2 * b, v + 2 * b);
	r->calls++;
	return v_BD;
}

static at_t noise(void *ctx, int i, at_t x_BD)
{
	at_t z_BD = at_empty(at_shape(x_BD), AT_F64, AT_CPU);
	struct rng g = rng_make_step(1, RNG_SOLVER, 0, 0, (uint64_t)i);
	double *z = at_data(z_BD);

	(void)ctx;
	for (int64_t k = 0; k < at_numel(x_BD); k++) {
		float one;

		rng_normals(&g, &one, 1);
		z[k] = one;
	}
	return z_BD;
}

/* Forwards that a run takes, and: every solver ends on the point, but for those that add noise in the last
 * step, whose images have the spread that their laws say. */
static void one_point(void **state)
{
	static const struct {
		const char *solver;
		double eta;
		int calls;
	} rows[] = { { "euler", 0, 10 }, { "heun", 0, 19 },  { "dpm1", 0, 10 },     { "dpm2", 0, 10 },
		     { "dpm3", 0, 10 },  { "unipc", 0, 10 }, { "ddim", 0.5, 10 },   { "ddim", 1, 10 },
		     { "cps", 0.8, 10 }, { "cps", 1, 10 },   { "flow_sde", 0, 10 }, { "dance_sde", 0, 10 } };
	struct schedule k = levels(GRID_TRAIN, 3, 10);
	double mean, std;

	(void)state;
	for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
		struct at_scope *sc = at_begin(AT_NO_GRAD);
		struct solver s = of(rows[r].solver, &k, rows[r].eta);
		struct run run = { .flow = &point };

		s.velocity = velocity;
		s.noise = noise;
		s.ctx = &run;
		at_t x_BD = solver_run(&s, noise(NULL, 77, at_zeros(DIMS(64, 2), AT_F64, AT_CPU)));
		at_t want_D = at_from(point.m[0], DIMS(2), AT_F64);
		assert_true(at_item(at_max(at_square(at_sub(x_BD, want_D)))) < 1e-24);
		assert_int_equal(run.calls, rows[r].calls);
		at_end(sc);
	}
	struct solver flow_sde = of("flow_sde", &k, 0.7), dance = of("dance_sde", &k, 0.3);
	images(&flow_sde, 0.7, 0, &mean, &std);
	assert_true(fabs(std - 0.062) < 6e-4);
	images(&dance, 0.7, 0, &mean, &std); /* what the check refuses */
	assert_true(fabs(std - 0.81) < 6e-3);
	schedule_free(&k);
}

enum { POINTS = 256, FINE = 4000 };

/* Runge-Kutta from t to s. */
static void exact(const struct mixture *f, double t, double s, double *x)
{
	for (int n = 0; n < FINE; n++) {
		double h = (s - t) / FINE, a = t + h * n, k[4][2], y[2];

		for (int j = 0; j < 4; j++) {
			double part = j == 0 ? 0 : j == 3 ? h : h / 2;

			for (int d = 0; d < 2; d++)
				y[d] = x[d] + (j ? part * k[j - 1][d] : 0);
			flow(f, a + part, y, k[j]);
		}
		for (int d = 0; d < 2; d++)
			x[d] += h / 6 * (k[0][d] + 2 * k[1][d] + 2 * k[2][d] + k[3][d]);
	}
}

/* Levels even in log-SNR from .95 to .05, and two more that the run does not reach, so that it has no ending
 * of low order. */
static double error_at(const char *name, int steps, at_t start_BD, at_t want_BD)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct run run = { .flow = &three };
	double *sigma = mem_zero((size_t)steps + 3, sizeof *sigma), from = solver_log_snr(.95),
	       to = solver_log_snr(.05);

	for (int i = 0; i <= steps + 1; i++)
		sigma[i] = 1 / (1 + exp(from + (to - from) * i / steps));
	struct solver s = { .type = named(name),
			    .steps = steps + 2,
			    .stop = steps,
			    .sigma = sigma,
			    .velocity = velocity,
			    .ctx = &run };
	double error = sqrt(at_item(at_mean(at_square(at_sub(solver_run(&s, start_BD), want_BD)))));
	free(sigma);
	at_end(sc);
	return error;
}

static void orders(void **state)
{
	/* At 40, 80 and 160 steps, rms: as numpy has it on other points of the same distribution. */
	static const struct {
		const char *solver;
		double order, error[3];
	} rows[] = { { "euler", 1, { 3.2e-2, 1.6e-2, 8.1e-3 } }, { "dpm1", 1, { 3.2e-2, 1.6e-2, 8.1e-3 } },
		     { "ddim", 1, { 3.2e-2, 1.6e-2, 8.1e-3 } },  { "heun", 2, { 8.6e-4, 2.2e-4, 5.7e-5 } },
		     { "dpm2", 2, { 1.8e-3, 4.6e-4, 1.2e-4 } },  { "dpm3", 2, { 4.6e-4, 1.0e-4, 2.5e-5 } },
		     { "unipc", 3, { 4.8e-4, 6.0e-5, 7.3e-6 } } };
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	at_t start_BD = at_clone(noise(NULL, 5, at_zeros(DIMS(POINTS, 2), AT_F64, AT_CPU)));
	at_t want_BD = at_clone(start_BD);
	double *x = at_data(want_BD), error[3];

	(void)state;
	for (int b = 0; b < POINTS; b++)
		exact(&three, .95, .05, x + 2 * b);
	for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
		for (int n = 0; n < 3; n++) {
			error[n] = error_at(rows[r].solver, 40 << n, start_BD, want_BD);
			assert_true(error[n] < 2 * rows[r].error[n] && error[n] > rows[r].error[n] / 2);
		}
		assert_true(fabs(log2(error[1] / error[2]) - rows[r].order) < 0.15);
	}
	at_end(sc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(check_values),    cmocka_unit_test(any_eta),   cmocka_unit_test(marginals),
		cmocka_unit_test(no_limit_of_cps), cmocka_unit_test(one_point), cmocka_unit_test(orders),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
