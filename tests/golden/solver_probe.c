/*
 * solver_probe.c -- what tests/golden/test_solver.py and test_schedule.py run.
 *
 *   golden_solver SOLVER,... SHIFT STEPS,... INTEGER ETA FROM TO IN OUT
 *       x -> "x0" under the velocity a * x + sigma * c, with eta at steps FROM .. TO - 1 and step i's noise
 *       z[i], where IN has it; also "sigmas" (STEPS + 1) and "timesteps" (STEPS), float64, and of the steps
 *       that were recorded "recorded" (int64), "before" and "after".  IN may have levels of its own,
 *       "sigmas.STEPS".  With several solvers or numbers of steps: "SOLVER.STEPS.x0" and so on
 *   golden_solver schedule CONFIG GRID MU SHIFT TOKENS OUT STEPS ...
 *       "sigmas.STEPS" and "timesteps.STEPS" of a scheduler_config.json; GRID train or steps, MU linear or
 * flux2
 */
#include "base/mem.h"
#include "sampler/schedule.h"
#include "sampler/solver.h"
#include "aten/safetensors.h"
#include <stdlib.h>
#include <string.h>

#define MOST_STEPS 64

struct field_of_flow {
	at_t a, c, z;
	int n;
	int64_t at[MOST_STEPS];
	at_t before[MOST_STEPS], after[MOST_STEPS];
};

static at_t velocity(void *ctx, double sigma, at_t x_BCHW)
{
	struct field_of_flow *f = ctx;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	return at_return(s, at_add_scaled(at_mul(f->a, x_BCHW), f->c, sigma));
}

static at_t noise(void *ctx, int i, at_t x_BCHW)
{
	struct field_of_flow *f = ctx;

	(void)x_BCHW;
	return at_select(f->z, 0, i);
}

static void record(void *ctx, int i, at_t x_BCHW, at_t next_BCHW)
{
	struct field_of_flow *f = ctx;

	f->at[f->n] = i;
	f->before[f->n] = at_keep(x_BCHW);
	f->after[f->n++] = at_keep(next_BCHW);
}

static void write_all(const char *path, const struct st_item *item, int n)
{
	struct err e;

	if (st_write(path, item, n, NULL, 0, &e))
		die("%s", e.msg);
}

static void show_schedules(int n, char **v)
{
	struct st_item *item = mem_zero(2 * (size_t)n, sizeof *item);
	struct schedule_conf c;
	struct err e;

	if (schedule_conf_read(&c, v[2], &e))
		die("%s", e.msg);
	for (int i = 0; i < n; i++) {
		struct schedule s;

		schedule_init(&s, &c, strcmp(v[3], "steps") ? GRID_TRAIN : GRID_STEPS,
			      strcmp(v[4], "flux2") ? MU_LINEAR : MU_FLUX2, atof(v[5]), atoi(v[8 + i]),
			      atoi(v[6]), false);
		item[2 * i] = (struct st_item) { mem_printf("sigmas.%d", s.steps),
						 at_from(s.sigma, DIMS(s.steps + 1), AT_F64) };
		item[2 * i + 1] = (struct st_item) { mem_printf("timesteps.%d", s.steps),
						     at_from(s.t, DIMS(s.steps), AT_F64) };
		schedule_free(&s);
	}
	write_all(v[7], item, 2 * n);
	for (int i = 0; i < 2 * n; i++)
		free((char *)(uintptr_t)item[i].name);
	free(item);
}

/* One solver at one number of steps; what it gives is named after both where there are several. */
struct request {
	const char *solver;
	int steps;
	bool several;
	char **v;
	const struct st_file *in;
	at_t x, a, c, z;
};
struct answers {
	struct st_item *item;
	int n;
};

static void answer(struct answers *all, const struct request *r, const char *what, at_t t)
{
	all->item = mem_grow(all->item, (size_t)all->n + 1, sizeof *all->item);
	all->item[all->n++] =
	    (struct st_item) { r->several ? mem_printf("%s.%d.%s", r->solver, r->steps, what) : mem_str(what),
			       t };
}

/* Levels from IN, "sigmas.STEPS", in place of the schedule's. */
static void take_levels(const struct request *r, struct schedule *s)
{
	char *name = mem_printf("sigmas.%d", r->steps);
	struct err e;
	at_t given;

	if (!st_take(&given, r->in, name, DIMS(r->steps + 1), &e))
		memcpy(s->sigma, at_data(given), ((size_t)r->steps + 1) * sizeof *s->sigma);
	free(name);
}

static void run(const struct request *r, struct answers *all)
{
	struct schedule_conf conf = { .shift = atof(r->v[2]), .num_train_timesteps = 1000 };
	struct field_of_flow flow = { .a = r->a, .c = r->c, .z = r->z };
	struct schedule schedule;
	struct err e;

	const struct solver_type *type = solver_open(r->solver, &e);
	if (!type)
		die("%s", e.msg);
	schedule_init(&schedule, &conf, GRID_TRAIN, MU_LINEAR, 0, r->steps, 0, atoi(r->v[4]));
	take_levels(r, &schedule);
	struct solver run = { .type = type,
			      .steps = r->steps,
			      .sigma = schedule.sigma,
			      .eta = atof(r->v[5]),
			      .noisy_from = atoi(r->v[6]),
			      .noisy_to = atoi(r->v[7]),
			      .velocity = velocity,
			      .noise = flow.z ? noise : NULL,
			      .record = flow.z ? record : NULL,
			      .ctx = &flow };
	if (solver_check(&run, &e))
		die("%s", e.msg);
	answer(all, r, "x0", solver_run(&run, r->x));
	answer(all, r, "sigmas", at_from(schedule.sigma, DIMS(r->steps + 1), AT_F64));
	answer(all, r, "timesteps", at_from(schedule.t, DIMS(r->steps), AT_F64));
	if (flow.n) {
		answer(all, r, "recorded", at_from(flow.at, DIMS(flow.n), AT_I64));
		answer(all, r, "before", at_stack(flow.n, flow.before, 0));
		answer(all, r, "after", at_stack(flow.n, flow.after, 0));
	}
	for (int i = 0; i < flow.n; i++) {
		at_free(flow.before[i]);
		at_free(flow.after[i]);
	}
	schedule_free(&schedule);
	solver_close(type);
}

static void run_all(char **v)
{
	struct request r = { .v = v, .several = strchr(v[1], ',') || strchr(v[3], ',') };
	struct answers all = { 0 };
	struct st_file f;
	struct err e;
	char *next_solver, *next_steps;

	if (st_open(&f, v[8], &e) || st_take(&r.x, &f, "x", (struct at_dims) { 0 }, &e) ||
	    st_take(&r.a, &f, "a", (struct at_dims) { 0 }, &e) ||
	    st_take(&r.c, &f, "c", (struct at_dims) { 0 }, &e))
		die("%s", e.msg);
	if (st_take(&r.z, &f, "z", (struct at_dims) { 0 }, &e))
		r.z = NULL;
	r.in = &f;
	for (r.solver = strtok_r(v[1], ",", &next_solver); r.solver;
	     r.solver = strtok_r(NULL, ",", &next_solver)) {
		char *steps = mem_str(v[3]);

		for (char *n = strtok_r(steps, ",", &next_steps); n; n = strtok_r(NULL, ",", &next_steps)) {
			r.steps = atoi(n);
			run(&r, &all);
		}
		free(steps);
	}
	write_all(v[9], all.item, all.n);
	for (int i = 0; i < all.n; i++)
		free((char *)(uintptr_t)all.item[i].name);
	free(all.item);
	st_close(&f);
}

int main(int argc, char **argv)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);

	if (argc > 8 && !strcmp(argv[1], "schedule"))
		show_schedules(argc - 8, argv);
	else if (argc == 10)
		run_all(argv);
	else
		die("golden_solver: see the top of tests/golden/solver_probe.c");
	at_end(s);
	return 0;
}
