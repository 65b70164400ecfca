/* solver_plugin.c -- a solver in a shared library (solver_plugin.h): its numbers checked, its sums added up.
 */
#include "sampler/solver_plugin.h"
#include "base/mem.h"
#include "sampler/solver.h"
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VELOCITIES CONTRAFLOW_SOLVER_VELOCITIES
#define MEMORIES   CONTRAFLOW_SOLVER_MEMORIES
_Static_assert(MEMORIES <= SOLVER_MEMORY, "what a library keeps between steps has a place");

struct plugin {
	struct solver_type type; /* first: a solver's type is its plug-in */
	const struct contraflow_solver *solver;
	void *library;
	char *path;
};

static const struct plugin *plugin_of(const struct solver *s)
{
	return (const struct plugin *)s->type;
}

static struct contraflow_levels levels_of(const struct solver *s, int i)
{
	return (struct contraflow_levels) { s->steps, s->sigma, solver_eta(s, i) };
}

static int refused(struct err *e, char why[160], int i)
{
	why[159] = 0;
	return err_set(e, "step %d: %s", i, *why ? why : "the library refuses it and does not say why");
}

/* ---- A law ----------------------------------------------------------------------------------------- */

static int ask_law(const struct solver *s, int i, struct transition *t, struct err *e)
{
	struct contraflow_levels l = levels_of(s, i);
	struct contraflow_law out = { 0 };

	if (plugin_of(s)->solver->law(&l, i, &out))
		return refused(e, out.why, i);
	*t = (struct transition) { out.x, out.v, out.noise, s->sigma[i + 1] - s->sigma[i] };
	return 0;
}

static struct transition plugin_law(const struct solver *s, int i)
{
	struct transition t;
	struct err e;

	if (ask_law(s, i, &t, &e))
		at_panic("%s: %s", plugin_of(s)->path, e.msg);
	return t;
}

static int check_law(const struct solver *s, struct err *e)
{
	struct transition t;

	for (int i = 0; i < s->steps; i++) /* what the numbers are worth is seen by solver_check */
		if (ask_law(s, i, &t, e))
			return -1;
	return 0;
}

/* ---- A step of sums -------------------------------------------------------------------------------- */

/* What a sum may be of. */
struct at_hand {
	int velocities, memories;
	bool noise;
};

static int check_sum(const struct contraflow_sum *c, const struct at_hand *h, const char *what, int k,
		     struct err *e)
{
	bool finite = isfinite(c->x) && isfinite(c->noise);

	for (int j = 0; j < VELOCITIES; j++) {
		finite = finite && isfinite(c->v[j]);
		if (c->v[j] != 0 && j >= h->velocities)
			return err_set(e, "%s[%d] is of v[%d], which there is not yet", what, k, j);
	}
	for (int j = 0; j < MEMORIES; j++) {
		finite = finite && isfinite(c->memory[j]);
		if (c->memory[j] != 0 && j >= h->memories)
			return err_set(e, "%s[%d] is of memory[%d], which the step before did not keep", what,
				       k, j);
	}
	if (!finite)
		return err_set(e, "%s[%d] has a coefficient that is not finite", what, k);
	if (c->noise != 0 && !h->noise)
		return err_set(e, "%s[%d] has noise though eta is 0", what, k);
	return 0;
}

static int check_sums(const struct contraflow_step *c, struct at_hand h, struct err *e)
{
	int most = c->velocities;

	if (most < 1 || most > VELOCITIES || c->memories < 0 || c->memories > MEMORIES)
		return err_set(e, "%d velocities and %d memories: there can be 1 to %d and 0 to %d", most,
			       c->memories, VELOCITIES, MEMORIES);
	for (int k = 0; k < most; k++) {
		h.velocities = k;
		if (!(c->sigma[k] >= 0 && c->sigma[k] <= 1))
			return err_set(e, "sigma[%d] is %g: a level is in [0, 1]", k, c->sigma[k]);
		if (check_sum(&c->at[k], &h, "at", k, e))
			return -1;
	}
	h.velocities = most;
	if (check_sum(&c->next, &h, "next", 0, e))
		return -1;
	for (int k = 0; k < c->memories; k++)
		if (check_sum(&c->memory[k], &h, "memory", k, e))
			return -1;
	return 0;
}

/* The sums of step i, checked; the step before has kept so many memories. */
static int ask_step(const struct solver *s, int i, int memories, struct contraflow_step *c, struct err *e)
{
	struct contraflow_levels l = levels_of(s, i);
	struct at_hand h = { .memories = memories, .noise = l.eta != 0 };

	*c = (struct contraflow_step) { 0 };
	if (plugin_of(s)->solver->step(&l, i, c))
		return refused(e, c->why, i);
	return check_sums(c, h, e) ? err_in(e, "step %d of %d, eta %g", i, s->steps, l.eta) : 0;
}

static int check_steps(const struct solver *s, struct err *e)
{
	struct contraflow_step c = { 0 };

	for (int i = 0; i < s->steps; i++)
		if (ask_step(s, i, c.memories, &c, e))
			return -1;
	return 0;
}

/* The tensors of a step. */
struct hand {
	at_t x, v[VELOCITIES], memory[MEMORIES], noise;
};

static void add(at_t *sum, at_t t, double weight)
{
	if (weight != 0)
		*sum = *sum ? at_add_scaled(*sum, t, weight) : at_mul(t, weight);
}

/* A new tensor.  x with weight 1 is where most sums start, and then needs no product of its own: a library
 * that writes Euler's step gets Euler's bits. */
static at_t add_up(const struct contraflow_sum *c, const struct hand *h)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	at_t sum = c->x == 1 ? h->x : NULL;

	if (!sum)
		add(&sum, h->x, c->x);
	for (int k = 0; k < VELOCITIES; k++)
		add(&sum, h->v[k], c->v[k]);
	for (int k = 0; k < MEMORIES; k++)
		add(&sum, h->memory[k], c->memory[k]);
	add(&sum, h->noise, c->noise);
	if (!sum)
		sum = at_zeros_like(h->x);
	return at_return(sc, sum == h->x ? at_clone(sum) : sum);
}

static bool has_noise(const struct contraflow_step *c)
{
	bool has = c->next.noise != 0;

	for (int k = 0; k < c->velocities; k++)
		has = has || c->at[k].noise != 0;
	for (int k = 0; k < c->memories; k++)
		has = has || c->memory[k].noise != 0;
	return has;
}

static at_t plugin_step(struct solver *s, int i, at_t x_BCHW)
{
	struct at_scope *sc = at_begin(AT_GRAD_AS_IS);
	struct hand h = { .x = x_BCHW };
	struct contraflow_step c;
	at_t kept[MEMORIES] = { NULL };
	int memories = 0;
	struct err e;

	while (memories < MEMORIES && s->memory[memories]) {
		h.memory[memories] = s->memory[memories];
		memories++;
	}
	if (ask_step(s, i, memories, &c, &e))
		at_panic("%s: %s", plugin_of(s)->path, e.msg);
	if (has_noise(&c))
		h.noise = solver_noise(s, i, x_BCHW);
	for (int k = 0; k < c.velocities; k++)
		h.v[k] = s->velocity(s->ctx, c.sigma[k], add_up(&c.at[k], &h));
	at_t next = add_up(&c.next, &h);
	for (int k = 0; k < c.memories; k++)
		kept[k] = add_up(&c.memory[k], &h);
	for (int k = 0; k < MEMORIES; k++)
		at_set(&s->memory[k], kept[k]);
	return at_return(sc, next);
}

/* ---- The library ----------------------------------------------------------------------------------- */

static void close_plugin(const struct solver_type *type)
{
	struct plugin *p = (struct plugin *)(uintptr_t)type; /* made here, and not const then */

	if (p->library)
		dlclose(p->library);
	free(p->path);
	free(p);
}

static int load(struct plugin *p, struct err *e)
{
	const struct contraflow_solver *(*entry)(void), *s;
	void *symbol;

	if (!(p->library = dlopen(p->path, RTLD_NOW | RTLD_LOCAL)))
		return err_set(e, "cannot load %s: %s", p->path, dlerror());
	if (!(symbol = dlsym(p->library, "contraflow_solver")))
		return err_set(e, "%s exports no contraflow_solver(): see sampler/solver_plugin.h", p->path);
	memcpy(&entry, &symbol, sizeof entry); /* ISO C has no other way from a data to a function pointer */
	p->solver = s = entry();
	if (!s || s->abi < 1 || s->abi > CONTRAFLOW_SOLVER_ABI)
		return err_set(e, "%s is built for version %d of the solvers' interface, this is %d", p->path,
			       s ? s->abi : 0, CONTRAFLOW_SOLVER_ABI);
	if (!s->law == !s->step)
		return err_set(e, "%s must have either law() or step()", p->path);
	if (!(s->eta >= 0 && isfinite(s->eta)))
		return err_set(e, "%s: eta %g is not a valid amount of noise", p->path, s->eta);
	return 0;
}

const struct solver_type *solver_plugin_open(const char *path, struct err *e)
{
	struct plugin *p = mem_zero(1, sizeof *p);

	p->path = mem_str(path);
	if (load(p, e)) {
		close_plugin(&p->type);
		return NULL;
	}
	p->type = (struct solver_type) { .name = p->path,
					 .doc = "in a shared library",
					 .step = p->solver->law ? solver_law_step : plugin_step,
					 .law = p->solver->law ? plugin_law : NULL,
					 .strength = p->solver->eta,
					 .check = p->solver->law ? check_law : check_steps,
					 .close = close_plugin };
	return &p->type;
}
