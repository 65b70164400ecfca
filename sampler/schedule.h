/*
 * schedule.h -- the noise levels of a sampling run, as diffusers' FlowMatchEulerDiscreteScheduler and its
 * pipelines have them.
 *
 * n = steps.  sigma[i], i = 0 .. n - 1, is f of an even grid of n points from 1 down to `low`, and sigma[n]
 * = 0:
 *   f, fixed shift s:  f(u) = s u / (1 + (s - 1) u)
 *   f, dynamic:        f(u) = m / (m + 1 / u - 1), m = e^mu or mu (schedule_conf.linear)
 *   GRID_TRAIN:        low = f(1 / num_train_timesteps) of a fixed shift, which so counts twice there, as
 *                      in diffusers; 1 / num_train_timesteps of a dynamic one
 *   GRID_STEPS:        low = 1 / n
 * With one step the grid is {1}.  N image tokens (schedule_conf's names):
 *   MU_LINEAR:  mu = base_shift + (max_shift - base_shift) (N - base_len) / (max_len - base_len)
 *   MU_FLUX2:   hi = 0.00016927 N + 0.45666666, lo = 8.73809524e-5 N + 1.89833333;
 *               mu = hi above 4300 tokens, else hi + (hi - lo) (n - 200) / 190
 * shift_terminal e > 0: sigma = 1 - (1 - sigma) (1 - e) / (1 - sigma[n - 1]), for n > 1.
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H
#include "models/schedule_conf.h"

struct schedule_shift { /* f: dynamic by m, else by s */
	bool dynamic;
	double s, m;
};
struct schedule {
	struct schedule_shift shift;
	int steps;
	double *sigma; /* steps + 1, falling */
	double *t;     /* steps: schedule_t of each */
	bool integer;
};

/* shift > 0: fixed, in place of what the file says.  `tokens` is asked for where the shift is dynamic. */
void schedule_init(struct schedule *s, const struct schedule_conf *c, enum schedule_grid grid,
		   enum schedule_mu mu, double shift, int steps, int64_t tokens, bool integer);
void schedule_free(struct schedule *s);

/* f(u), u in (0, 1]. */
double schedule_shifted(const struct schedule *s, double u);
/* The transformer's timestep input at any level: 1000 sigma, or its integer part. */
double schedule_t(const struct schedule *s, double sigma);

#endif
