/*
 * solver_dpm.c -- DPM-Solver++ of orders 1, 2 (2M) and 3 (3M) (arXiv 2211.01095) for flow matching, data
 * prediction.
 *
 * alpha = 1 - sigma, L = log alpha - log sigma, D = x - sigma v (the x0 that v implies), D', D'' those of the
 * one and of the two steps before; h = L[i + 1] - L[i], r0 = h_prev / h, r1 = h_prev2 / h, E = e^-h - 1:
 *   1:  x' = (sigma' / sigma) x - alpha' E D
 *   2:  ... - alpha' E D1 / 2,  D1 = (D - D') / r0
 *   3:  ... + alpha' (E / h + 1) P - alpha' ((E + h) / h^2 - 1 / 2) Q,  D2 = (D' - D'') / r1,
 *       P = D1 + r0 / (r0 + r1) (D1 - D2),  Q = (D1 - D2) / (r0 + r1)
 * The first and the last step have order 1, which for a flow is Euler's step; of order 3 the second has 2,
 * and the last but one as well below 15 steps.  Where the level before was pure noise (L = -inf), r is
 * infinite and its correction vanishes by itself.
 */
#include "sampler/solver.h"
#include <math.h>

#define FEW 15 /* steps: below, the third order ends a step earlier, as in diffusers */

static struct transition dpm1_law(const struct solver *s, int i)
{
	double from = s->sigma[i], to = s->sigma[i + 1];
	double k = -(1 - to) * expm1(solver_log_snr(from) - solver_log_snr(to));

	return (struct transition) { .x = to / from + k, .v = -k * from, .dt = to - from };
}

static int order_of(const struct solver *s, int i, int most)
{
	if (i == 0 || i == s->steps - 1)
		return 1;
	return i == 1 || (i == s->steps - 2 && s->steps < FEW) ? 2 : most;
}

/* What is added to the step of order 2 for one of order 3, by the weights of D, D' and D''. */
static void add_third(double w[3], double alpha, double h, double r0, double r1)
{
	double E = expm1(-h), P = alpha * (E / h + 1), Q = -alpha * ((E + h) / (h * h) - 0.5);
	double cross = (P * r0 + Q) / (r0 + r1), first = P + cross + alpha * E / 2, second = -cross;

	w[0] += first / r0;
	w[1] += second / r1 - first / r0;
	w[2] -= second / r1;
}

static at_t step(struct solver *s, int i, at_t x_BCHW, int most)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	double from = s->sigma[i], to = s->sigma[i + 1];
	at_t v = s->velocity(s->ctx, from, x_BCHW);
	at_t d = at_add_scaled(x_BCHW, v, -from), x;
	int order = order_of(s, i, most);

	if (order == 1) {
		x = at_add_scaled(x_BCHW, v, to - from);
	} else {
		double h = solver_log_snr(to) - solver_log_snr(from);
		double before = solver_log_snr(from) - solver_log_snr(s->sigma[i - 1]), r0 = before / h;
		double k = -(1 - to) * expm1(-h), w[3] = { k * (1 + 0.5 / r0), -k * 0.5 / r0 };

		if (order == 3)
			add_third(w, 1 - to, h, r0,
				  (solver_log_snr(s->sigma[i - 1]) - solver_log_snr(s->sigma[i - 2])) / h);
		x = at_add_scaled(at_mul(x_BCHW, to / from), d, w[0]);
		x = at_add_scaled(x, s->memory[0], w[1]);
		if (order == 3)
			x = at_add_scaled(x, s->memory[1], w[2]);
	}
	if (most == 3 && s->memory[0])
		at_set(&s->memory[1], s->memory[0]);
	at_set(&s->memory[0], d);
	return at_return(sc, x);
}

static at_t dpm2_step(struct solver *s, int i, at_t x_BCHW)
{
	return step(s, i, x_BCHW, 2);
}

static at_t dpm3_step(struct solver *s, int i, at_t x_BCHW)
{
	return step(s, i, x_BCHW, 3);
}

const struct solver_type solver_dpm1 = {
	.name = "dpm1",
	.doc = "DPM-Solver++ of first order: Euler's steps in other terms",
	.step = solver_law_step,
	.law = dpm1_law,
};
const struct solver_type solver_dpm2 = {
	.name = "dpm2",
	.doc = "DPM-Solver++(2M), data prediction",
	.step = dpm2_step,
};
const struct solver_type solver_dpm3 = {
	.name = "dpm3",
	.doc = "DPM-Solver++(3M), data prediction",
	.step = dpm3_step,
};
