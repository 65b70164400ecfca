/* vae_cost.c -- what decoding computes and moves: vae.c's decode, op by op. */
#include "models/vae/vae.h"

/* A map of C channels, h x w pixels, B images at a time. */
struct map {
	double B, C, pixels, size;
};

static void elements(struct cost *c, const struct map *m, double times)
{
	cost_op(c, COST_ELEMENTS, 0, m->size * times * m->B * m->C * m->pixels);
}

static void conv(struct cost *c, struct map *m, const struct vae_conv *v)
{
	double k = (double)at_size(v->w_OIkk, 2), out = (double)at_size(v->w_OIkk, 0);
	double in = (double)at_size(v->w_OIkk, 1), rows = m->B * m->pixels;

	cost_op(c, COST_PRODUCT, 2 * rows * k * k * in * out,
		m->size * (k * k * in * out + rows * (in + out)));
	m->C = out;
}

static void norm_silu(struct cost *c, const struct map *m)
{
	elements(c, m, 4);
}

static void resnet(struct cost *c, struct map *m, const struct vae_resnet *r)
{
	struct map x = *m;

	norm_silu(c, m);
	conv(c, m, &r->conv1);
	norm_silu(c, m);
	conv(c, m, &r->conv2);
	if (r->shortcut.w_OIkk)
		conv(c, &x, &r->shortcut);
	elements(c, m, 3);
}

static void middle(struct cost *c, struct map *m, const struct vae *v)
{
	resnet(c, m, &v->decoder.mid[0]);
	if (v->conf.mid_block_add_attention) {
		elements(c, m, 2 + 2); /* the norm; pixels as tokens */
		for (int i = 0; i < 4; i++)
			cost_linear(c, m->B * m->pixels, m->C, m->C, m->size);
		cost_attention(c, m->B, m->pixels, m->pixels, m->C, m->size);
		elements(c, m, 3);
	}
	resnet(c, m, &v->decoder.mid[1]);
}

void vae_decode_cost(const struct vae *v, struct cost *c, const struct cost_shape *s)
{
	const struct vae_half *f = &v->decoder;
	double pixels = (double)(s->h * s->w * (v->conf.packed ? 4 : 1));
	struct map m = { (double)s->batch, (double)v->conf.latent_channels, pixels, s->size };

	if (f->quant.w_OIkk)
		conv(c, &m, &f->quant);
	conv(c, &m, &f->conv_in);
	middle(c, &m, v);
	for (int i = 0; i < v->conf.n_levels; i++) {
		for (int k = 0; k < f->level[i].n; k++)
			resnet(c, &m, &f->level[i].resnet[k]);
		if (f->level[i].resample.w_OIkk) {
			elements(c, &m, 1 + 4);
			m.pixels *= 4;
			conv(c, &m, &f->level[i].resample);
		}
	}
	norm_silu(c, &m);
	conv(c, &m, &f->conv_out);
}
