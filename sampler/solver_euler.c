/* solver_euler.c -- Euler's method on dx/dsigma = v: the flow ODE, first order. */
#include "sampler/solver.h"

static at_t euler_step(struct solver *s, int i, at_t x_BCHW)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	at_t v = s->velocity(s->ctx, i, x_BCHW);
	return at_return(sc, at_add_scaled(x_BCHW, v, s->sigma[i + 1] - s->sigma[i]));
}

const struct solver_type solver_euler = {
	.name = "euler",
	.doc = "Euler's method on the flow ODE",
	.step = euler_step,
};
