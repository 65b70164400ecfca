/*
 * A solver as a shared library: the explicit midpoint method, of second order, two velocities a step.
 *
 *     cc -shared -fPIC -I. -o midpoint.so examples/solver_midpoint.c
 *     rollout: {solver: ./midpoint.so}
 */
#include "sampler/solver_plugin.h"

static int midpoint(const struct contraflow_levels *l, int i, struct contraflow_step *out)
{
	double from = l->sigma[i], dt = l->sigma[i + 1] - from;

	out->velocities = 2;
	out->sigma[0] = from;
	out->at[0].x = 1; /* v[0] = v(x, from) */
	out->sigma[1] = from + dt / 2;
	out->at[1].x = 1; /* v[1] = v(x + dt / 2 * v[0], from + dt / 2) */
	out->at[1].v[0] = dt / 2;
	out->next.x = 1; /* x + dt * v[1] */
	out->next.v[1] = dt;
	return 0;
}

static const struct contraflow_solver solver = { .abi = CONTRAFLOW_SOLVER_ABI, .step = midpoint };

const struct contraflow_solver *contraflow_solver(void)
{
	return &solver;
}
