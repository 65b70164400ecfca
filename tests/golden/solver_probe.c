/*
 * solver_probe.c -- what tests/golden/test_solver.py runs.
 *
 *   golden_solver SOLVER SHIFT STEPS INTEGER IN OUT
 *       x -> "x0" under the velocity a * x + sigma * c; also "sigmas" (STEPS + 1) and "timesteps" (STEPS),
 * float64
 */
#include "base/mem.h"
#include "sampler/schedule.h"
#include "sampler/solver.h"
#include "aten/safetensors.h"
#include <stdlib.h>

struct field_of_flow {
	at_t a, c;
	const double *sigma;
};

static at_t velocity(void *ctx, int i, at_t x_BCHW)
{
	struct field_of_flow *f = ctx;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	return at_return(s, at_add_scaled(at_mul(f->a, x_BCHW), f->c, f->sigma[i]));
}

int main(int argc, char **argv)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct err e;
	struct schedule schedule;
	struct st_file f;
	at_t x;
	struct field_of_flow flow;

	if (argc != 7)
		die("golden_solver: see the top of tests/golden/solver_probe.c");
	const struct solver_type *type = solver_find(argv[1], &e);
	int steps = atoi(argv[3]);
	if (!type || st_open(&f, argv[5], &e) || st_take(&x, &f, "x", (struct at_dims) { 0 }, &e) ||
	    st_take(&flow.a, &f, "a", (struct at_dims) { 0 }, &e) ||
	    st_take(&flow.c, &f, "c", (struct at_dims) { 0 }, &e))
		die("%s", e.msg);
	schedule_init(&schedule, atof(argv[2]), 1000, steps, atoi(argv[4]));
	flow.sigma = schedule.sigma;
	struct solver run = {
		.type = type, .steps = steps, .sigma = schedule.sigma, .velocity = velocity, .ctx = &flow
	};
	struct st_item items[] = { { "x0", solver_run(&run, x) },
				   { "sigmas", at_from(schedule.sigma, DIMS(steps + 1), AT_F64) },
				   { "timesteps", at_from(schedule.t, DIMS(steps), AT_F64) } };
	if (st_write(argv[6], items, 3, NULL, 0, &e))
		die("%s", e.msg);
	schedule_free(&schedule);
	st_close(&f);
	at_end(s);
	return 0;
}
