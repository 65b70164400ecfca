/*
 * solver_dpm2.c -- DPM-Solver++(2M) (arXiv 2211.01095) for flow matching, data prediction.
 *
 * alpha = 1 - sigma, lambda = log alpha - log sigma, D = x - sigma v (the x0 that v implies);
 * x' = (sigma' / sigma) x - alpha' (e^-h - 1) (D + (D - D_prev) / (2 r0)), h = lambda' - lambda, r0 = h_prev
 * / h. The first and the last step have no second order: DDIM, which for a flow is Euler's step.  Where the
 * level before was pure noise (lambda = -inf), r0 is infinite and the correction vanishes by itself.
 */
#include "sampler/solver.h"
#include <math.h>

static double lambda(double sigma)
{
	return log(1 - sigma) - log(sigma);
}

static at_t dpm2_step(struct solver *s, int i, at_t x_BCHW)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	double from = s->sigma[i], to = s->sigma[i + 1];
	at_t v = s->velocity(s->ctx, from, x_BCHW);
	at_t d = at_add_scaled(x_BCHW, v, -from), before = s->memory[0], x;

	if (i == 0 || i == s->steps - 1) {
		x = at_add_scaled(x_BCHW, v, to - from);
	} else {
		double h = lambda(to) - lambda(from), r0 = (lambda(from) - lambda(s->sigma[i - 1])) / h;
		double k = -(1 - to) * expm1(-h);
		x = at_add_scaled(at_mul(x_BCHW, to / from), d, k * (1 + 0.5 / r0));
		x = at_add_scaled(x, before, -k * 0.5 / r0);
	}
	at_set(&s->memory[0], d);
	return at_return(sc, x);
}

const struct solver_type solver_dpm2 = {
	.name = "dpm2",
	.doc = "DPM-Solver++(2M), data prediction",
	.step = dpm2_step,
};
