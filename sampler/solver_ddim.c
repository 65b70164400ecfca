/*
 * solver_ddim.c -- solvers that put x0 and noise, as the velocity implies them, together again at the next
 * level, a part of the noise renewed: DDIM (arXiv 2010.02502) and FlowCPS (arXiv 2509.05952).
 *
 * x0^ = x - s v, eps^ = x + (1 - s) v; x' = (1 - s') x0^ + s' sqrt(1 - k^2) eps^ + s' k z.
 *   ddim:  k = eta sqrt(1 - q^2), q = s' (1 - s) / (s (1 - s')); at eta 1 DPM-Solver++'s SDE of first order
 *   cps:   k = sin(pi eta / 2), the same share in every step, so the marginals drift as steps are added
 * The last step (s' = 0) ends on x0^.  Few steps of ddim's SDE are those of flow_sde at sqrt(2) eta, without
 * the noise that Euler-Maruyama adds beyond the level's.
 */
#include "sampler/solver.h"
#include <math.h>

/* What eps^ loses, d = s' - s' sqrt(1 - k^2), is written so that it is 0 for k = 0: Euler's step to the bit.
 */
static struct transition renew(const struct solver *s, int i, double k)
{
	double from = s->sigma[i], to = s->sigma[i + 1], d = to * k * k / (1 + sqrt(1 - k * k));

	return (struct transition) {
		.x = 1 - d, .v = to - from - d * (1 - from), .std = to * k, .dt = to - from
	};
}

static struct transition ddim_law(const struct solver *s, int i)
{
	double from = s->sigma[i], to = s->sigma[i + 1], q = to * (1 - from) / (from * (1 - to));

	return renew(s, i, solver_eta(s, i) * sqrt(1 - q * q));
}

static struct transition cps_law(const struct solver *s, int i)
{
	return renew(s, i, sin(acos(-1) * solver_eta(s, i) / 2));
}

static int check(const struct solver *s, struct err *e)
{
	return s->eta <= 1 ? 0
			   : err_set(e, "eta %g: at most 1, where all the noise of a level is new", s->eta);
}

const struct solver_type solver_ddim = {
	.name = "ddim",
	.doc = "DDIM, with noise where eta is above 0",
	.step = solver_law_step,
	.law = ddim_law,
	.strength = 0.5,
	.check = check,
};
const struct solver_type solver_cps = {
	.name = "cps",
	.doc = "FlowCPS, which keeps the level's amount of noise",
	.step = solver_law_step,
	.law = cps_law,
	.strength = 0.8,
	.check = check,
};
