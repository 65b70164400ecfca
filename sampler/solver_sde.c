/*
 * solver_sde.c -- Euler-Maruyama on SDEs that have the flow's marginals: FlowGRPO's (arXiv 2505.05470) and
 * DanceGRPO's (arXiv 2505.07818).
 *
 * With the score -(x + (1 - s) v) / s of level s: x' = x + (v + std^2 (x + (1 - s) v) / (2 s)) dt
 * + std sqrt(-dt) z.  flow_sde: std^2 = eta^2 s / (1 - s), where s = 1 with the next level in the
 * denominator; dance_sde: std = eta.  The last step has noise as well, as published.
 */
#include "sampler/solver.h"
#include <math.h>

static struct transition sde(const struct solver *s, int i, double variance)
{
	double from = s->sigma[i], dt = s->sigma[i + 1] - from;

	return (struct transition) { .x = 1 + variance * dt / (2 * from),
				     .v = (1 + variance * (1 - from) / (2 * from)) * dt,
				     .std = sqrt(-variance * dt),
				     .dt = dt };
}

static struct transition flow_sde_law(const struct solver *s, int i)
{
	double eta = solver_eta(s, i), from = s->sigma[i], to = s->sigma[i + 1];

	return sde(s, i, eta * eta * from / (1 - (from < 1 ? from : to)));
}

static struct transition dance_sde_law(const struct solver *s, int i)
{
	double eta = solver_eta(s, i);

	return sde(s, i, eta * eta);
}

/* The last step multiplies what is off by eta^2 / (2 sigma). */
static int dance_sde_check(const struct solver *s, struct err *e)
{
	double last = s->sigma[s->steps - 1], least = s->eta * s->eta / 2;

	if (last > least)
		return 0;
	return err_set(
	    e,
	    "eta %g: the last noise level before 0 is %.4g, and must be above eta^2 / 2 = %.4g, or the "
	    "last step enlarges noise: take grid even, fewer steps of it or less eta",
	    s->eta, last, least);
}

const struct solver_type solver_flow_sde = {
	.name = "flow_sde",
	.doc = "FlowGRPO's SDE",
	.step = solver_law_step,
	.law = flow_sde_law,
	.strength = 0.7,
};
const struct solver_type solver_dance_sde = {
	.name = "dance_sde",
	.doc = "DanceGRPO's SDE, of constant noise",
	.step = solver_law_step,
	.law = dance_sde_law,
	.strength = 0.3,
	.check = dance_sde_check,
};
