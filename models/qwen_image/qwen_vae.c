/*
 * qwen_vae.c -- the forward of AutoencoderKLQwenImage's two halves.
 * Shapes: B images, C channels, H x W pixels at any level, h x w latents, N = H W tokens of the middle.
 */
#include "models/qwen_image/qwen_vae.h"
#include "models/taps.h"
#include <math.h>

/* A pixel's channels at length sqrt(C), times gamma; lengths in float32, as diffusers has them. */
static at_t norm(at_t gamma_C, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	enum at_dtype dt = at_dtype_of(x_BCHW);
	at_t x = at_cast(x_BCHW, AT_F32);
	at_t length_B1HW = at_clamp(at_sqrt(at_sum_dim(at_square(x), 1, true)), 1e-12, INFINITY);
	at_t factor_C11 = at_mul(at_reshape(gamma_C, DIMS(-1, 1, 1)), sqrt((double)at_size(x_BCHW, 1)));

	return at_return(s, at_mul(at_cast(at_div(x, length_B1HW), dt), factor_C11));
}

static at_t norm_silu(at_t gamma_C, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	return at_return(s, at_silu(norm(gamma_C, x_BCHW)));
}

static at_t resnet(const struct qwen_vae_resnet *r, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t h = vae_conv(&r->conv1, norm_silu(r->norm1_C111, x_BCHW), 1, 1);

	h = vae_conv(&r->conv2, norm_silu(r->norm2_C111, h), 1, 1);
	if (r->shortcut.w_OIkk)
		x_BCHW = vae_conv(&r->shortcut, x_BCHW, 1, 0);
	return at_return(s, at_add(x_BCHW, h));
}

static at_t attention(const struct qwen_vae_half *f, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t qkv_BCHW = vae_conv(&f->to_qkv, norm(f->attention_norm_C11, x_BCHW), 1, 0), part_BNC[3], o_BCN;

	at_chunk(3, part_BNC, at_contiguous(at_transpose(at_flatten(qkv_BCHW, 2, 3), 1, 2)), -1);
	o_BCN = at_transpose(vae_attention(part_BNC[0], part_BNC[1], part_BNC[2]), 1, 2);
	return at_return(s, at_add(vae_conv(&f->proj, at_reshape(o_BCN, at_shape(x_BCHW)), 1, 0), x_BCHW));
}

static at_t middle(const struct qwen_vae_half *f, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	return at_return(s, resnet(&f->mid[1], attention(f, resnet(&f->mid[0], x))));
}

static at_t level(const struct qwen_vae_level *l, at_t x)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	for (int i = 0; i < l->n; i++)
		at_replace(s, &x, resnet(&l->resnet[i], x));
	return at_return(s, x);
}

static at_t decode(const void *vae, at_t z_BChw)
{
	const struct qwen_vae *m = vae;
	const struct qwen_vae_half *f = &m->decoder;
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x = vae_conv(&f->quant, at_add(at_mul(z_BChw, m->std_1C11), m->mean_1C11), 1, 0);

	x = vae_conv(&f->conv_in, x, 1, 1);
	tap(x, "decoder.conv_in");
	x = middle(f, x);
	tap(x, "decoder.mid_block");
	for (int i = 0; i < m->conf.n_levels; i++) {
		struct at_scope *step = at_begin(AT_GRAD_AS_IS);
		at_t y = level(&f->level[i], x);

		if (f->level[i].resample.w_OIkk)
			y = vae_conv(&f->level[i].resample, at_upsample_nearest2(y), 1, 1);
		tap(y, "decoder.up_blocks.%d", i);
		at_replace(step, &x, y);
		at_end(step);
	}
	x = vae_conv(&f->conv_out, norm_silu(f->norm_out_C111, x), 1, 1);
	tap(x, "decoder.conv_out");
	/* of channels-last weights it has their order; cut off as diffusers does */
	return at_return(s, at_contiguous(at_clamp(x, -1, 1)));
}

static at_t encode(const void *vae, at_t x_B3HW)
{
	const struct qwen_vae *m = vae;
	const struct qwen_vae_half *f = &m->encoder;
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x = vae_conv(&f->conv_in, x_B3HW, 1, 1), mean;

	tap(x, "encoder.conv_in");
	for (int i = 0; i < m->conf.n_levels; i++) {
		struct at_scope *step = at_begin(AT_GRAD_AS_IS);
		at_t y = level(&f->level[i], x);

		if (f->level[i].resample.w_OIkk) /* padded below and at the right only */
			y = vae_conv(&f->level[i].resample, at_pad(y, DIMS(0, 1, 0, 1), 0), 2, 0);
		tap(y, "encoder.level.%d", i);
		at_replace(step, &x, y);
		at_end(step);
	}
	x = middle(f, x);
	tap(x, "encoder.mid_block");
	x = vae_conv(&f->conv_out, norm_silu(f->norm_out_C111, x), 1, 1);
	tap(x, "encoder.conv_out");
	/* the other half is the log-variance */
	mean = at_narrow(vae_conv(&f->quant, x, 1, 0), 1, 0, m->conf.z_dim);
	return at_return(s, at_div(at_sub(mean, m->mean_1C11), m->std_1C11));
}

at_t qwen_vae_decode(const struct qwen_vae *m, at_t z_BChw, int64_t at_a_time)
{
	return vae_in_pieces(m, decode, z_BChw, at_a_time);
}

at_t qwen_vae_encode(const struct qwen_vae *m, at_t x_B3HW)
{
	return vae_in_pieces(m, encode, x_B3HW, 1);
}
