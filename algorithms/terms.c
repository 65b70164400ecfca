/* terms.c -- what algorithms have in common: x_t, distances, levels at random.  Shapes: B pairs, C channels,
 * H height, W width of the latents. */
#include "algorithms/algorithm.h"
#include "base/mem.h"
#include <stdlib.h>

int algorithm_levels(const struct schedule *s, double fraction)
{
	int levels = (int)(s->steps * fraction);

	return levels < 1 ? 1 : levels;
}

int pairs_at_random(const struct round *r, int64_t sample, struct pair *out)
{
	int steps = r->schedule->steps;
	int64_t *level = mem_zero((size_t)steps, sizeof *level);
	struct rng g = rng_make(r->seed, RNG_TIMESTEP, r->epoch, (uint64_t)sample);

	for (int k = 0; k < steps; k++)
		level[k] = k;
	rng_shuffle(&g, level, steps);
	for (int k = 0; k < r->levels; k++)
		out[k] =
		    (struct pair) { .sample = sample, .level = (int)level[k], .noise = sample, .weight = 1 };
	free(level);
	return r->levels;
}

at_t terms_noised(at_t x0_BCHW, at_t eps_BCHW, at_t t_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t t_B111 = at_view(t_B, DIMS(-1, 1, 1, 1));
	return at_return(s, at_add(at_mul(x0_BCHW, at_add(at_neg(t_B111), 1)), at_mul(eps_BCHW, t_B111)));
}

at_t terms_distance(at_t x_BCHW, at_t y_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t d_BCHW = at_square(at_sub(x_BCHW, y_BCHW));
	return at_return(s, at_cast(at_mean_dim(at_flatten(d_BCHW, 1, -1), 1, false), AT_F64));
}

at_t terms_error(const struct terms *m, at_t v_BCHW)
{
	return terms_distance(v_BCHW, at_sub(m->eps_BCHW, m->x0_BCHW));
}

at_t terms_further(const struct terms *m, at_t v_BCHW, at_t w_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t u_BCHW = at_sub(m->eps_BCHW, m->x0_BCHW);
	at_t both_BCHW = at_add(at_sub(v_BCHW, u_BCHW), at_sub(w_BCHW, u_BCHW));
	at_t product_BCHW = at_mul(at_sub(v_BCHW, w_BCHW), both_BCHW);
	return at_return(s, at_cast(at_mean_dim(at_flatten(product_BCHW, 1, -1), 1, false), AT_F64));
}

at_t terms_above_zero(at_t x)
{
	return at_cast(at_lt(at_neg(at_detach(x)), 0), AT_F64);
}
