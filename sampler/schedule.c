#include "sampler/schedule.h"
#include "base/mem.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

static double shifted(const struct schedule_shift *f, double u)
{
	return f->dynamic ? f->m / (f->m + (1 / u - 1)) : f->s * u / (1 + (f->s - 1) * u);
}

static double mu_of(const struct schedule_conf *c, enum schedule_mu mu, int steps, int64_t tokens)
{
	double N = (double)tokens;

	if (mu == MU_FLUX2) {
		double hi = 0.00016927 * N + 0.45666666, lo = 8.73809524e-05 * N + 1.89833333;

		return tokens > 4300 ? hi : hi + (hi - lo) * (steps - 200) / 190;
	}
	return c->base_shift + (c->max_shift - c->base_shift) * (N - (double)c->base_image_seq_len) /
				   (double)(c->max_image_seq_len - c->base_image_seq_len);
}

static struct schedule_shift shift_of(const struct schedule_conf *c, enum schedule_mu mu, double fixed,
				      int steps, int64_t tokens)
{
	if (fixed > 0 || !c->dynamic)
		return (struct schedule_shift) { .s = fixed > 0 ? fixed : c->shift };
	assert(tokens > 0);
	double m = mu_of(c, mu, steps, tokens);
	return (struct schedule_shift) { .dynamic = true, .m = c->linear ? m : exp(m) };
}

/* Levels 0 .. steps - 1 moved so that the last is `to`, and 1 stays. */
static void stretch(struct schedule *s, double to)
{
	double k = (1 - to) / (1 - s->sigma[s->steps - 1]);

	for (int i = 0; i < s->steps; i++)
		s->sigma[i] = 1 - (1 - s->sigma[i]) * k;
}

double schedule_shifted(const struct schedule *s, double u)
{
	return shifted(&s->shift, u);
}

double schedule_t(const struct schedule *s, double sigma)
{
	double t = 1000.0 * sigma;

	return s->integer ? floor(t + 1e-9) : t; /* a hair above, so that 1000 * 0.9 counts as 900 */
}

void schedule_init(struct schedule *s, const struct schedule_conf *c, enum schedule_grid grid,
		   enum schedule_mu mu, double shift, int steps, int64_t tokens, bool integer)
{
	struct schedule_shift f = shift_of(c, mu, shift, steps, tokens);
	double first = 1.0 / (double)c->num_train_timesteps;
	double low = grid == GRID_STEPS ? 1.0 / steps : f.dynamic ? first : shifted(&f, first);

	*s = (struct schedule) { .shift = f, .steps = steps, .integer = integer };
	s->sigma = mem_zero((size_t)steps + 1, sizeof(double));
	s->t = mem_zero((size_t)steps, sizeof(double));
	for (int i = 0; i < steps; i++)
		s->sigma[i] = shifted(&f, steps == 1 ? 1.0 : 1.0 + (low - 1.0) * i / (steps - 1));
	if (c->shift_terminal > 0 && steps > 1)
		stretch(s, c->shift_terminal);
	for (int i = 0; i < steps; i++)
		s->t[i] = schedule_t(s, s->sigma[i]);
}

void schedule_free(struct schedule *s)
{
	free(s->sigma);
	free(s->t);
	*s = (struct schedule) { 0 };
}
