/*
 * solver_unipc.c -- UniPC (arXiv 2302.04867) of order 2, "bh2", data prediction, for flow matching: a
 * predictor, and a corrector that uses the next step's velocity, so that it costs none of its own.
 *
 * alpha = 1 - sigma, L = log alpha - log sigma, D = x - sigma v, D' and D'' of the steps before.  At step i:
 *   correct (i > 0)  from y, the corrected latents at sigma[i - 1]; D is of what was predicted and stays.
 *                    Over [sigma[i - 1], sigma[i]]: h, E = e^-h - 1, base = (sigma / sigma_prev) y - alpha E
 *                    D';
 *       i = 1:       x = base - alpha E (D - D') / 2
 *       i > 1:       x = base - alpha E (rho0 (D'' - D') / r + rho1 (D - D')), r = (L[i - 2] - L[i - 1]) / h,
 *                    rho0 + rho1 = p1 / E, r rho0 + rho1 = 2 p2 / E, p1 = -E / h - 1, p2 = -p1 / h - 1 / 2
 *   predict          DPM-Solver++(2M)'s step from the corrected x; of first order in the first and the last
 * step. Where sigma[i - 2] is 1, r is -inf: rho0 = 0.
 */
#include "sampler/solver.h"
#include <math.h>

enum { LAST, D1, D2 }; /* what is kept: the corrected latents before, D' and D'' */

static at_t correct(const struct solver *s, int i, at_t d)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	double from = s->sigma[i - 1], to = s->sigma[i], h = solver_log_snr(to) - solver_log_snr(from);
	double E = expm1(-h), k = -(1 - to) * E, rho0 = 0, rho1 = 0.5, r = 1;

	if (i > 1) {
		double p1 = -E / h - 1, p2 = -p1 / h - 0.5, b1 = p1 / E, b2 = 2 * p2 / E;

		r = (solver_log_snr(s->sigma[i - 2]) - solver_log_snr(from)) / h;
		rho0 = (b2 - b1) / (r - 1);
		rho1 = b1 - rho0;
	}
	at_t x = at_add_scaled(at_mul(s->memory[LAST], to / from), s->memory[D1], k * (1 - rho0 / r - rho1));
	if (i > 1)
		x = at_add_scaled(x, s->memory[D2], k * rho0 / r);
	return at_return(sc, at_add_scaled(x, d, k * rho1));
}

static at_t predict(const struct solver *s, int i, at_t x, at_t d)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	double from = s->sigma[i], to = s->sigma[i + 1], h = solver_log_snr(to) - solver_log_snr(from);
	double k = -(1 - to) * expm1(-h), second = 0;

	if (i > 0 && i < s->steps - 1)
		second = 0.5 * h / (solver_log_snr(from) - solver_log_snr(s->sigma[i - 1]));
	at_t next = at_add_scaled(at_mul(x, to / from), d, k * (1 + second));
	return at_return(sc, second > 0 ? at_add_scaled(next, s->memory[D1], -k * second) : next);
}

static at_t unipc_step(struct solver *s, int i, at_t x_BCHW)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	double sigma = s->sigma[i];
	at_t d = at_add_scaled(x_BCHW, s->velocity(s->ctx, sigma, x_BCHW), -sigma);
	at_t x = i > 0 ? correct(s, i, d) : x_BCHW, next = predict(s, i, x, d);

	if (s->memory[D1])
		at_set(&s->memory[D2], s->memory[D1]);
	at_set(&s->memory[D1], d);
	at_set(&s->memory[LAST], x);
	return at_return(sc, next);
}

const struct solver_type solver_unipc = {
	.name = "unipc",
	.doc = "UniPC, a predictor of second order and its corrector",
	.step = unipc_step,
};
