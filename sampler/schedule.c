#include "sampler/schedule.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>

static double shifted(double u, double shift)
{
	return shift * u / (1 + (shift - 1) * u);
}

void schedule_init(struct schedule *s, double shift, int64_t train_steps, int steps, bool integer_timesteps)
{
	double low = shifted(1.0 / (double)train_steps, shift);

	s->steps = steps;
	s->sigma = mem_zero((size_t)steps + 1, sizeof(double));
	s->t = mem_zero((size_t)steps, sizeof(double));
	for (int i = 0; i < steps; i++) {
		double u = steps == 1 ? 1.0 : 1.0 + (low - 1.0) * i / (steps - 1);
		s->sigma[i] = shifted(u, shift);
		s->t[i] = 1000.0 * s->sigma[i];
		if (integer_timesteps) /* a hair above, so that 1000 * 0.9 counts as 900 */
			s->t[i] = floor(s->t[i] + 1e-9);
	}
}

void schedule_free(struct schedule *s)
{
	free(s->sigma);
	free(s->t);
	*s = (struct schedule) { 0 };
}
