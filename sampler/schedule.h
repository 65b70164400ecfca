/*
 * schedule.h -- the noise levels of a sampling run.
 *
 * sigma[i], i = 0 .. steps - 1: f of an even grid from 1 down to f(1 / train_steps), f(u) = s u / (1 + (s -
 * 1) u), and sigma[steps] = 0.  That is diffusers' FlowMatchEulerDiscreteScheduler.set_timesteps, which
 * applies the shift s twice to its lower end.  With one step the grid is {1}.
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H
#include <stdbool.h>
#include <stdint.h>

struct schedule {
	int steps;
	double *sigma; /* steps + 1 */
	double *t;     /* steps: the transformer's timestep input, 1000 sigma, or its integer part */
};

void schedule_init(struct schedule *s, double shift, int64_t train_steps, int steps, bool integer_timesteps);
void schedule_free(struct schedule *s);

#endif
