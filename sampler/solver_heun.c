/* solver_heun.c -- Heun's method on dx/dsigma = v: second order, two velocities a step, one in the last: the
 * level 0 has no velocity. */
#include "sampler/solver.h"

static at_t heun_step(struct solver *s, int i, at_t x_BCHW)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	double from = s->sigma[i], to = s->sigma[i + 1], dt = to - from;
	at_t v = s->velocity(s->ctx, from, x_BCHW), end = at_add_scaled(x_BCHW, v, dt);

	if (to == 0)
		return at_return(sc, end);
	at_t both = at_add(v, s->velocity(s->ctx, to, end));
	return at_return(sc, at_add_scaled(x_BCHW, both, dt / 2));
}

const struct solver_type solver_heun = {
	.name = "heun",
	.doc = "Heun's method on the flow ODE, two forwards a step",
	.step = heun_step,
};
