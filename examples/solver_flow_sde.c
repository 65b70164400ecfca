/*
 * A stochastic solver as a shared library, to the bit the program's own flow_sde: Euler-Maruyama on the SDE
 * that has the flow's marginals, with the noise of Flow-GRPO (arXiv 2505.05470), std^2 = eta^2 s / (1 - s) a
 * unit of time at level s.  Where s = 1 the denominator is that of the next level, which is finite.
 *
 *     cc -shared -fPIC -I. -o flow_sde.so examples/solver_flow_sde.c -lm
 *     rollout: {solver: ./flow_sde.so, eta: 0.7}
 */
#include "sampler/solver_plugin.h"
#include <math.h>

static int flow_sde(const struct contraflow_levels *l, int i, struct contraflow_law *out)
{
	double s = l->sigma[i], to = l->sigma[i + 1], dt = to - s;
	double rate = l->eta * l->eta * s / (1 - (s < 1 ? s : to)); /* std^2 */

	out->x = 1 + rate * dt / (2 * s);
	out->v = (1 + rate * (1 - s) / (2 * s)) * dt;
	out->noise = sqrt(-rate * dt);
	return 0;
}

static const struct contraflow_solver solver = { .abi = CONTRAFLOW_SOLVER_ABI, .eta = 0.7, .law = flow_sde };

const struct contraflow_solver *contraflow_solver(void)
{
	return &solver;
}
