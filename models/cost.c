#include "models/cost.h"
#include <math.h>

void cost_op(struct cost *c, enum cost_kind kind, double flop, double bytes)
{
	double times = c->backward && kind != COST_PRODUCT ? 2 : 1;

	c->flop += times * flop;
	c->bytes += times * bytes;
	if (c->gemm > 0 && c->copy > 0)
		c->seconds += times * fmax(flop / c->gemm, bytes / c->copy);
}

void cost_linear(struct cost *c, double rows, double in, double out, double size)
{
	cost_op(c, COST_PRODUCT, 2 * rows * in * out, size * (in * out + rows * (in + out)));
}

void cost_attention(struct cost *c, double B, double Q, double S, double D, double size)
{
	cost_op(c, COST_ATTENTION, 4 * B * Q * S * D, size * 2 * B * (Q + S) * D);
}

double cost_rows(const struct nn_site *t, const struct cost_shape *s, int64_t N)
{
	int64_t L = s->text_tokens;
	const int64_t rows[] = { [NN_SAMPLES] = 1, [NN_IMAGE] = N, [NN_TEXT] = L, [NN_BOTH] = N + L };

	return (double)(s->batch * rows[t->reads]);
}

void cost_sites(struct cost *c, const struct nn_net *n, const struct cost_shape *s, int64_t N)
{
	for (int i = 0; i < n->n_site; i++) {
		const struct nn_site *t = &n->site[i];

		cost_linear(c, cost_rows(t, s, N), (double)t->in, (double)t->row[t->parts], s->size);
	}
}

void cost_add(struct cost *c, const struct cost *more, double times)
{
	c->flop += times * more->flop;
	c->bytes += times * more->bytes;
	c->seconds += times * more->seconds;
}
