#include "sampler/solver.h"
#include "base/alive.h"
#include "base/mem.h"
#include "base/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SOLVER_ADDRESS(name) &solver_##name,
#define SOLVER_NAME(name)    #name,
static const struct solver_type *const types[] = { SOLVERS(SOLVER_ADDRESS) };
const char *const solver_names[] = { SOLVERS(SOLVER_NAME) NULL };

const struct solver_type *solver_open(const char *name, struct err *e)
{
	if (strchr(name, '/'))
		return solver_plugin_open(name, e);
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (!strcmp(types[i]->name, name))
			return types[i];
	const char *near = text_nearest(name, solver_names);
	struct text known = { 0 };
	for (const char *const *n = solver_names; *n; n++)
		text_printf(&known, "%s, ", *n);
	err_set(e, "unknown solver '%s'%s%s%s; there are %sand plug-ins, whose path has a slash", name,
		near ? "; did you mean '" : "", near ? near : "", near ? "'" : "", known.s);
	text_free(&known);
	return NULL;
}

void solver_close(const struct solver_type *type)
{
	if (type && type->close)
		type->close(type);
}

double solver_eta(const struct solver *s, int i)
{
	return i >= s->noisy_from && i < s->noisy_to ? s->eta : 0;
}

at_t solver_noise(const struct solver *s, int i, at_t x_BCHW)
{
	if (!s->noise)
		at_panic("solver %s adds noise at step %d, and this run has none to give: eta must be 0",
			 s->type->name, i);
	return s->noise(s->ctx, i, x_BCHW);
}

double solver_log_snr(double sigma)
{
	return log(1 - sigma) - log(sigma);
}

at_t solver_law_step(struct solver *s, int i, at_t x_BCHW)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	struct transition t = s->type->law(s, i);
	at_t v = s->velocity(s->ctx, s->sigma[i], x_BCHW);
	at_t next = at_add_scaled(t.x == 1 ? x_BCHW : at_mul(x_BCHW, t.x), v, t.v);

	if (t.std > 0) {
		next = at_add_scaled(next, solver_noise(s, i, x_BCHW), t.std);
		if (s->record)
			s->record(s->ctx, i, x_BCHW, next);
	}
	return at_return(sc, next);
}

/* The laws of all steps, as they are with that much noise in all of them. */
static int check_laws(const struct solver *s, struct err *e)
{
	for (int i = 0; i < s->steps; i++) {
		struct transition t = s->type->law(s, i);
		double eta = solver_eta(s, i);

		if (!isfinite(t.x) || !isfinite(t.v) || !isfinite(t.std) || t.std < 0)
			return err_set(e, "step %d of %d, eta %g: x %g, v %g, noise %g: not numbers to use",
				       i, s->steps, eta, t.x, t.v, t.std);
		if (eta == 0 && t.std > 0)
			return err_set(e, "step %d of %d adds noise (%g) though eta is 0", i, s->steps,
				       t.std);
	}
	return 0;
}

int solver_check(const struct solver *s, struct err *e)
{
	const double eta[2] = { s->eta, 0 };

	for (int k = 0; k < 2; k++) {
		struct solver all = *s;

		all.eta = eta[k];
		all.noisy_from = 0;
		all.noisy_to = s->steps;
		if ((s->type->check && s->type->check(&all, e)) || (s->type->law && check_laws(&all, e)))
			return err_in(e, "solver %s", s->type->name);
	}
	return 0;
}

at_t solver_run(struct solver *s, at_t x_BCHW)
{
	struct at_scope *run = at_begin(AT_NO_GRAD);
	at_t x = x_BCHW;

	for (int i = 0; i < (s->stop ? s->stop : s->steps); i++) {
		struct at_scope *step = at_begin(AT_NO_GRAD);

		alive_mark("sampling");
		at_replace(step, &x, s->type->step(s, i, x));
		at_end(step);
	}
	for (int i = 0; i < SOLVER_MEMORY; i++)
		at_set(&s->memory[i], NULL);
	return at_return(run, x);
}
