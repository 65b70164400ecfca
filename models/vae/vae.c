/*
 * vae.c -- the forward of AutoencoderKL's two halves.
 * Shapes: B images, C channels, H x W pixels at any level, h x w latents, N = H W tokens of the middle.
 */
#include "models/vae/vae.h"
#include "aten/images.h"
#include "models/taps.h"

#define EPS 1e-6

static const struct pass base = { 0 };

static at_t norm_silu(const struct vae *m, const struct vae_norm *n, at_t x)
{
	return at_group_norm_silu(x, (int)m->conf.norm_num_groups, n->w_C, n->b_C, EPS);
}

static at_t resnet(const struct vae *m, const struct vae_resnet *r, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t h = vae_conv(&r->conv1, norm_silu(m, &r->norm1, x_BCHW), 1, 1);

	h = vae_conv(&r->conv2, norm_silu(m, &r->norm2, h), 1, 1);
	if (r->shortcut.w_OIkk)
		x_BCHW = vae_conv(&r->shortcut, x_BCHW, 1, 0);
	return at_return(s, at_add(x_BCHW, h));
}

static at_t attention(const struct vae *m, const struct vae_half *f, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct vae_norm *n = &f->attention_norm;
	at_t flat_BCN =
	    at_flatten(at_group_norm(x_BCHW, (int)m->conf.norm_num_groups, n->w_C, n->b_C, EPS), 2, 3);
	at_t h_BNC = at_contiguous(at_transpose(flat_BCN, 1, 2));
	at_t o_BNC = vae_attention(nn_linear(&f->q, &base, h_BNC), nn_linear(&f->k, &base, h_BNC),
				   nn_linear(&f->v, &base, h_BNC));

	o_BNC = nn_linear(&f->out, &base, o_BNC);

	return at_return(s, at_add(at_reshape(at_transpose(o_BNC, 1, 2), at_shape(x_BCHW)), x_BCHW));
}

static at_t middle(const struct vae *m, const struct vae_half *f, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	x = resnet(m, &f->mid[0], x);
	if (m->conf.mid_block_add_attention)
		x = attention(m, f, x);
	return at_return(s, resnet(m, &f->mid[1], x));
}

static at_t level(const struct vae *m, const struct vae_level *l, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	for (int i = 0; i < l->n; i++)
		at_replace(s, &x, resnet(m, &l->resnet[i], x));
	return at_return(s, x);
}

static at_t decode(const void *vae, at_t z_BChw)
{
	const struct vae *m = vae;
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct vae_half *f = &m->decoder;
	at_t x = at_add(at_div(z_BChw, m->conf.scaling_factor), m->conf.shift_factor);

	if (f->quant.w_OIkk)
		x = vae_conv(&f->quant, x, 1, 0);
	x = vae_conv(&f->conv_in, x, 1, 1);
	tap(x, "decoder.conv_in");
	x = middle(m, f, x);
	tap(x, "decoder.mid_block");
	for (int i = 0; i < m->conf.n_levels; i++) {
		struct at_scope *step = at_begin(AT_GRAD_AS_IS);
		at_t y = level(m, &f->level[i], x);
		if (f->level[i].resample.w_OIkk)
			y = vae_conv(&f->level[i].resample, at_upsample_nearest2(y), 1, 1);
		tap(y, "decoder.up_blocks.%d", i);
		at_replace(step, &x, y);
		at_end(step);
	}
	x = vae_conv(&f->conv_out, norm_silu(m, &f->norm_out, x), 1, 1);
	tap(x, "decoder.conv_out");
	return at_return(s, at_contiguous(x)); /* of channels-last weights it has their order */
}

static at_t encode(const void *vae, at_t x_B3HW)
{
	const struct vae *m = vae;
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct vae_half *f = &m->encoder;
	at_t x = vae_conv(&f->conv_in, x_B3HW, 1, 1), mean;

	tap(x, "encoder.conv_in");
	for (int i = 0; i < m->conf.n_levels; i++) {
		struct at_scope *step = at_begin(AT_GRAD_AS_IS);
		at_t y = level(m, &f->level[i], x);
		if (f->level[i].resample.w_OIkk) /* padded below and at the right only */
			y = vae_conv(&f->level[i].resample, at_pad(y, DIMS(0, 1, 0, 1), 0), 2, 0);
		tap(y, "encoder.down_blocks.%d", i);
		at_replace(step, &x, y);
		at_end(step);
	}
	x = middle(m, f, x);
	tap(x, "encoder.mid_block");
	x = vae_conv(&f->conv_out, norm_silu(m, &f->norm_out, x), 1, 1);
	tap(x, "encoder.conv_out");
	if (f->quant.w_OIkk)
		x = vae_conv(&f->quant, x, 1, 0);
	mean = at_narrow(x, 1, 0, m->conf.latent_channels); /* the other half is the log-variance */
	return at_return(s, at_mul(at_sub(mean, m->conf.shift_factor), m->conf.scaling_factor));
}

at_t vae_decode(const struct vae *m, at_t z_BChw, int64_t at_a_time)
{
	return vae_in_pieces(m, decode, z_BChw, at_a_time);
}

at_t vae_encode(const struct vae *m, at_t x_B3HW)
{
	return vae_in_pieces(m, encode, x_B3HW, 1);
}

int64_t vae_scale(const struct vae *m)
{
	return (int64_t)1 << (m->conf.n_levels - 1);
}
