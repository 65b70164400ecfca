#include "sampler/solver.h"
#include "base/text.h"
#include <string.h>

static const struct solver_type *const types[] = { &solver_euler, &solver_dpm2 };
const char *const solver_names[] = { "euler", "dpm2", NULL };

const struct solver_type *solver_find(const char *name, struct err *e)
{
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (!strcmp(types[i]->name, name))
			return types[i];
	const char *near = text_nearest(name, solver_names);
	err_set(e, "unknown solver '%s'%s%s%s; there are euler and dpm2", name,
		near ? "; did you mean '" : "", near ? near : "", near ? "'" : "");
	return NULL;
}

at_t solver_run(struct solver *s, at_t x_BCHW)
{
	struct at_scope *run = at_begin(AT_NO_GRAD);
	at_t x = x_BCHW;

	for (int i = 0; i < s->steps; i++) {
		struct at_scope *step = at_begin(AT_NO_GRAD);
		at_replace(step, &x, s->type->step(s, i, x));
		at_end(step);
	}
	for (int i = 0; i < SOLVER_MEMORY; i++)
		at_set(&s->memory[i], NULL);
	return at_return(run, x);
}
