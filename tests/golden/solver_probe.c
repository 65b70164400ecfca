/*
 * solver_probe.c -- what tests/golden/test_solver.py and test_schedule.py run.
 *
 *   golden_solver SOLVER SHIFT STEPS INTEGER ETA FROM TO IN OUT
 *       x -> "x0" under the velocity a * x + sigma * c, with eta at steps FROM .. TO - 1 and step i's noise
 *       z[i], where IN has it; also "sigmas" (STEPS + 1) and "timesteps" (STEPS), float64, and of the steps
 *       that were recorded "recorded" (int64), "before" and "after"
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

static void run(char **v)
{
	struct schedule_conf conf = { .shift = atof(v[2]), .num_train_timesteps = 1000 };
	struct field_of_flow flow = { 0 };
	struct schedule schedule;
	struct st_file f;
	struct err e;
	at_t x;

	const struct solver_type *type = solver_open(v[1], &e);
	int steps = atoi(v[3]);
	if (!type || st_open(&f, v[8], &e) || st_take(&x, &f, "x", (struct at_dims) { 0 }, &e) ||
	    st_take(&flow.a, &f, "a", (struct at_dims) { 0 }, &e) ||
	    st_take(&flow.c, &f, "c", (struct at_dims) { 0 }, &e))
		die("%s", e.msg);
	bool noisy = !st_take(&flow.z, &f, "z", (struct at_dims) { 0 }, &e);
	schedule_init(&schedule, &conf, GRID_TRAIN, MU_LINEAR, 0, steps, 0, atoi(v[4]));
	struct solver run = { .type = type,
			      .steps = steps,
			      .sigma = schedule.sigma,
			      .eta = atof(v[5]),
			      .noisy_from = atoi(v[6]),
			      .noisy_to = atoi(v[7]),
			      .velocity = velocity,
			      .noise = noisy ? noise : NULL,
			      .record = noisy ? record : NULL,
			      .ctx = &flow };
	if (solver_check(&run, &e))
		die("%s", e.msg);
	struct st_item items[6] = { { "x0", solver_run(&run, x) },
				    { "sigmas", at_from(schedule.sigma, DIMS(steps + 1), AT_F64) },
				    { "timesteps", at_from(schedule.t, DIMS(steps), AT_F64) } };
	if (flow.n) {
		items[3] = (struct st_item) { "recorded", at_from(flow.at, DIMS(flow.n), AT_I64) };
		items[4] = (struct st_item) { "before", at_stack(flow.n, flow.before, 0) };
		items[5] = (struct st_item) { "after", at_stack(flow.n, flow.after, 0) };
	}
	write_all(v[9], items, flow.n ? 6 : 3);
	for (int i = 0; i < flow.n; i++) {
		at_free(flow.before[i]);
		at_free(flow.after[i]);
	}
	schedule_free(&schedule);
	solver_close(type);
	st_close(&f);
}

int main(int argc, char **argv)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);

	if (argc > 8 && !strcmp(argv[1], "schedule"))
		show_schedules(argc - 8, argv);
	else if (argc == 10)
		run(argv);
	else
		die("golden_solver: see the top of tests/golden/solver_probe.c");
	at_end(s);
	return 0;
}
