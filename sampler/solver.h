/*
 * solver.h -- what a solver is: it carries latents from one noise level to the next.
 *
 * A solver sees the noise levels, the latents, a velocity it may ask for at any level, and its own state;
 * whoever calls it never looks inside.  Adding one: a file here and a line in solver.c.
 */
#ifndef SOLVER_H
#define SOLVER_H
#include "aten/at.h"
#include "base/err.h"

#define SOLVER_MEMORY 2

struct solver;
struct solver_type {
	const char *name, *doc;
	/* x at sigma[i] -> x at sigma[i + 1]; the result belongs to the innermost scope. */
	at_t (*step)(struct solver *s, int i, at_t x_BCHW);
};

/* One run over one batch. */
struct solver {
	const struct solver_type *type;
	int steps;
	const double *sigma;                             /* steps + 1, the last 0; borrowed */
	at_t (*velocity)(void *ctx, int i, at_t x_BCHW); /* at sigma[i]; a tensor of the innermost scope */
	void *ctx;
	at_t memory[SOLVER_MEMORY]; /* kept between steps, the solver's own; NULL at the start */
};

extern const struct solver_type solver_euler, solver_dpm2;
const struct solver_type *solver_find(const char *name, struct err *e); /* unknown: error with the list */
extern const char *const solver_names[]; /* NULL-terminated, for config choices */

/* From x at sigma[0] to the clean latents: a tensor of the innermost scope. No gradient. */
at_t solver_run(struct solver *s, at_t x_BCHW);

#endif
