/* solver_euler.c -- Euler's method on dx/dsigma = v: the flow ODE, first order. */
#include "sampler/solver.h"

static struct transition euler_law(const struct solver *s, int i)
{
	double dt = s->sigma[i + 1] - s->sigma[i];

	return (struct transition) { .x = 1, .v = dt, .dt = dt };
}

const struct solver_type solver_euler = {
	.name = "euler",
	.doc = "Euler's method on the flow ODE",
	.step = solver_law_step,
	.law = euler_law,
};
