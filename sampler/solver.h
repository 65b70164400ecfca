/*
 * solver.h -- what a solver is: it carries latents from one noise level to the next.
 *
 * A solver sees the noise levels, the latents, a velocity and unit normals it may ask for, and its own state;
 * whoever calls it never looks inside.  Adding one to the program: a file solver_NAME.c with the const struct
 * solver_NAME, and a line in SOLVERS.  Without touching the program: a shared library (solver_plugin.h).
 *
 * The flow is dx/dsigma = v(x, sigma) with x_sigma = (1 - sigma) x0 + sigma noise, v = noise - x0; steps lead
 * down from sigma[i] to sigma[i + 1].  A solver adds noise in proportion to s->eta, and none where that is 0:
 * then it is a solver of the flow's ODE.
 */
#ifndef SOLVER_H
#define SOLVER_H
#include "aten/at.h"
#include "base/err.h"

#define SOLVER_MEMORY 4

/* The law of a step: the next latents are normal with mean x * x_t + v * v_t and standard deviation std in
 * every number; x_t are the latents before, v_t the velocity there.  std 0: a step of the ODE. */
struct transition {
	double x, v, std;
	double dt; /* sigma[i + 1] - sigma[i], below 0 */
};

struct solver;
struct solver_type {
	const char *name, *doc;
	/* x at sigma[i] -> x at sigma[i + 1]; the result belongs to the innermost scope. */
	at_t (*step)(struct solver *s, int i, at_t x_BCHW);
	/* Of step i, a function of s->sigma and solver_eta(s, i) alone.  NULL: the solver has none, because
	 * it asks for several velocities in a step or keeps something between steps. */
	struct transition (*law)(const struct solver *s, int i);
	double strength; /* eta where nobody says; 0: the solver adds no noise */
	/* NULL, or: can all steps be taken?  Called before the first, with the noise of all steps and of
	 * none. */
	int (*check)(const struct solver *s, struct err *e);
	void (*close)(const struct solver_type *type); /* NULL but for plug-ins */
};

/* One run over one batch. */
struct solver {
	const struct solver_type *type;
	int steps;
	int stop;            /* the run ends after so many steps; 0: after all of them */
	const double *sigma; /* steps + 1, the last 0; borrowed */
	double eta;          /* at steps noisy_from <= i < noisy_to; 0 at all others: solver_eta */
	int noisy_from, noisy_to;

	/* At any level, also between those of the grid; a tensor of the innermost scope. */
	at_t (*velocity)(void *ctx, double sigma, at_t x_BCHW);
	/* Unit normals of step i, of x's shape, dtype and device, of the innermost scope.  NULL: a step with
	 * noise panics. */
	at_t (*noise)(void *ctx, int i, at_t x_BCHW);
	/* NULL, or called by solver_law_step after each step with std > 0: both tensors are borrowed, so what
	 * is to outlive the call is kept (at_keep) or copied; it runs in a scope without gradients. */
	void (*record)(void *ctx, int i, at_t x_BCHW, at_t next_BCHW);
	void *ctx;

	at_t memory[SOLVER_MEMORY]; /* kept between steps, the solver's own; NULL at the start */
};

/* The registry: everything else that knows the solvers' names is made from this list. */
#define SOLVERS(X) X(euler) X(heun) X(ddim) X(dpm1) X(dpm2) X(dpm3) X(unipc) X(flow_sde) X(dance_sde) X(cps)

#define SOLVER_DECLARE(name) extern const struct solver_type solver_##name;
SOLVERS(SOLVER_DECLARE)
#define SOLVER_IN_TEXT(name) #name ", "
#define SOLVER_CHOICES       SOLVERS(SOLVER_IN_TEXT) "or a plug-in's path" /* for --help */
extern const char *const solver_names[]; /* NULL-terminated, for configuration */

/* A name, or with a slash in it the path of a plug-in; NULL with an error: unknown (with the list), or a
 * library that cannot be used.  solver_close takes both kinds, and NULL. */
const struct solver_type *solver_open(const char *name, struct err *e);
void solver_close(const struct solver_type *type);
const struct solver_type *solver_plugin_open(const char *path, struct err *e); /* solver_plugin.c */

/* Whether the steps of s can be taken, at eta and without noise: finite coefficients, no noise without eta,
 * and what the type itself asks for. */
int solver_check(const struct solver *s, struct err *e);

/* From x at sigma[0] to the clean latents: a tensor of the innermost scope. No gradient. */
at_t solver_run(struct solver *s, at_t x_BCHW);

/* For solvers. */
double solver_eta(const struct solver *s, int i);              /* what counts at step i */
at_t solver_noise(const struct solver *s, int i, at_t x_BCHW); /* s->noise, or a panic that says what to do */
/* The step of every solver that has a law: x * x_t + v * v_t + std * noise. */
at_t solver_law_step(struct solver *s, int i, at_t x_BCHW);
double solver_log_snr(double sigma); /* log((1 - sigma) / sigma): -inf at 1, inf at 0 */

#endif
