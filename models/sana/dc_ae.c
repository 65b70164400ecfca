/*
 * dc_ae.c -- the forward of AutoencoderDC's two halves.
 * Shapes: B images, C channels, H x W pixels at any level, h x w latents, N = H W pixels, I channels of
 * attention, K of a head, G heads of all scales.
 */
#include "models/sana/dc_ae.h"
#include "aten/images.h"
#include "models/taps.h"

#define NORM_EPS 1e-5
#define SUM_EPS  1e-15 /* added to what attention divides by */

static const struct pass base = { 0 };

static at_t norm(const struct dc_ae_norm *n, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x_BHWC = at_rms_norm(at_permute(x_BCHW, DIMS(0, 2, 3, 1)), n->w_C, NORM_EPS);

	return at_return(s, at_permute(at_add(x_BHWC, n->b_C), DIMS(0, 3, 1, 2)));
}

static at_t grouped(const struct vae_conv *c, at_t x_BCHW, int64_t groups)
{
	int padding = (int)at_size(c->w_OIkk, 2) / 2;

	return at_conv2d_grouped(x_BCHW, c->w_OIkk, c->b_O, 1, padding, groups);
}

static at_t resnet(const struct dc_ae_block *b, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t h = vae_conv(&b->conv2, at_silu(vae_conv(&b->conv1, x_BCHW, 1, 1)), 1, 1);

	return at_return(s, at_add(norm(&b->norm, h), x_BCHW));
}

/* ---- Attention over pixels ----------------------------------------------------------------------- */

/* Linear in the number of pixels; where these are fewer than a head's channels, the other order of the same
 * products is, with weights that sum to 1. */
static at_t attend(at_t q_BGKN, at_t k_BGKN, at_t v_BGKN)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t o_BGKN;

	if (at_size(q_BGKN, 3) > at_size(q_BGKN, 2)) {
		at_t sum_BGKK = at_matmul(v_BGKN, at_transpose(k_BGKN, 2, 3));
		at_t weight_BG1N = at_matmul(at_transpose(at_sum_dim(k_BGKN, 3, true), 2, 3), q_BGKN);

		o_BGKN = at_div(at_matmul(sum_BGKK, q_BGKN), at_add(weight_BG1N, SUM_EPS));
	} else {
		at_t score_BGNN = at_matmul(at_transpose(k_BGKN, 2, 3), q_BGKN); /* keys, queries */

		score_BGNN = at_div(score_BGNN, at_add(at_sum_dim(score_BGNN, 2, true), SUM_EPS));
		o_BGKN = at_matmul(v_BGKN, score_BGNN);
	}
	return at_return(s, o_BGKN);
}

/* Queries, keys and values of a pixel, and behind them the same of what is around it at each scale.  A head
 * is the next 3 K of these channels, whatever they are: so the model was trained. */
static at_t all_scales(const struct dc_ae_block *b, int scales, int64_t K, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t qkv_BHWR = nn_linear(&b->qkv, &base, at_permute(x_BCHW, DIMS(0, 2, 3, 1)));
	int64_t R = at_size(qkv_BHWR, 3);
	at_t part_BRHW[1 + DC_AE_SCALES] = { at_contiguous(at_permute(qkv_BHWR, DIMS(0, 3, 1, 2))) };

	for (int i = 0; i < scales; i++)
		part_BRHW[i + 1] = grouped(&b->mix[i], grouped(&b->around[i], part_BRHW[0], R), R / K);
	return at_return(s, at_cat(1 + scales, part_BRHW, 1));
}

static at_t attention(const struct dc_ae_block *b, int scales, int64_t K, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t H = at_size(x_BCHW, 2), W = at_size(x_BCHW, 3);
	at_t all = at_cast(all_scales(b, scales, K, x_BCHW), AT_F32), part_BGKN[3];

	at_chunk(3, part_BGKN, at_reshape(all, DIMS(at_size(x_BCHW, 0), -1, 3 * K, H * W)), 2);
	at_t o_BGKN = attend(at_relu(part_BGKN[0]), at_relu(part_BGKN[1]), part_BGKN[2]);
	at_t o_BHWO = at_permute(at_reshape(o_BGKN, DIMS(at_size(x_BCHW, 0), -1, H, W)), DIMS(0, 2, 3, 1));
	at_t y_BHWC = nn_linear(&b->out, &base, at_cast(o_BHWO, at_dtype_of(x_BCHW)));
	at_t y_BCHW = norm(&b->attention_norm, at_permute(y_BHWC, DIMS(0, 3, 1, 2)));

	return at_return(s, at_add(y_BCHW, x_BCHW));
}

static at_t feed_forward(const struct dc_ae_block *b, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t u = at_silu(vae_conv(&b->up, x_BCHW, 1, 0)), half[2];

	at_chunk(2, half, grouped(&b->depth, u, at_size(u, 1)), 1);
	u = vae_conv(&b->down, at_mul(half[0], at_silu(half[1])), 1, 0);
	return at_return(s, at_add(norm(&b->norm, u), x_BCHW));
}

/* ---- Sizes --------------------------------------------------------------------------------------- */

/* Pixels 2 x 2 become channels, in the order channel, row, column; and back. */
static at_t unshuffle(at_t x_BCHW)
{
	int64_t C = at_size(x_BCHW, 1), H = at_size(x_BCHW, 2) / 2, W = at_size(x_BCHW, 3) / 2;
	at_t x_BCHiWj = at_reshape(x_BCHW, DIMS(-1, C, H, 2, W, 2));

	return at_reshape(at_permute(x_BCHiWj, DIMS(0, 1, 3, 5, 2, 4)), DIMS(-1, 4 * C, H, W));
}

static at_t shuffle(at_t x_BCHW)
{
	int64_t C = at_size(x_BCHW, 1) / 4, H = at_size(x_BCHW, 2), W = at_size(x_BCHW, 3);
	at_t x_BCijHW = at_reshape(x_BCHW, DIMS(-1, C, 2, 2, H, W));

	return at_reshape(at_permute(x_BCijHW, DIMS(0, 1, 4, 2, 5, 3)), DIMS(-1, C, 2 * H, 2 * W));
}

/* Fewer channels: the means of neighbours; more: each several times. */
static at_t fewer(at_t x_BCHW, int64_t channels)
{
	int64_t n = at_size(x_BCHW, 1) / channels, H = at_size(x_BCHW, 2), W = at_size(x_BCHW, 3);

	return at_mean_dim(at_reshape(x_BCHW, DIMS(-1, channels, n, H, W)), 2, false);
}

static at_t more(at_t x_BCHW, int64_t channels)
{
	return at_repeat_interleave(x_BCHW, channels / at_size(x_BCHW, 1), 1);
}

static at_t down(const struct vae_conv *c, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	return at_return(s,
			 at_add(vae_conv(c, x_BCHW, 2, 1), fewer(unshuffle(x_BCHW), at_size(c->w_OIkk, 0))));
}

static at_t up(const struct vae_conv *c, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t way_around = shuffle(more(x_BCHW, 4 * at_size(c->w_OIkk, 0)));

	return at_return(s, at_add(vae_conv(c, at_upsample_nearest2(x_BCHW), 1, 1), way_around));
}

/* ---- The halves ---------------------------------------------------------------------------------- */

static at_t blocks(const struct dc_ae *m, const struct dc_ae_level *l, const struct dc_ae_half_conf *c, int i,
		   at_t x)
{
	for (int64_t k = 0; k < c->layers[i]; k++) {
		struct at_scope *s = at_begin(AT_GRAD_AS_IS);
		const struct dc_ae_block *b = &l->block[k];
		at_t y = c->vit[i]
			     ? feed_forward(b, attention(b, c->scales[i], m->conf.attention_head_dim, x))
			     : resnet(b, x);

		at_replace(s, &x, y);
		at_end(s);
	}
	return x;
}

static at_t decode(const void *vae, at_t z_BChw)
{
	const struct dc_ae *m = vae;
	const struct dc_ae_half *f = &m->decoder;
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t z = at_div(z_BChw, m->conf.scaling_factor);
	at_t x = at_add(vae_conv(&f->conv_in, z, 1, 1), more(z, at_size(f->conv_in.w_OIkk, 0)));

	for (int i = m->conf.levels - 1; i >= 0; i--) {
		struct at_scope *step = at_begin(AT_GRAD_AS_IS);
		at_t y = f->level[i].resample.w_OIkk ? up(&f->level[i].resample, x) : x;

		y = blocks(m, &f->level[i], &m->conf.decoder, i, y);
		tap(y, "decoder.up_blocks.%d", i);
		at_replace(step, &x, y);
		at_end(step);
	}
	x = vae_conv(&f->conv_out, at_relu(norm(&m->norm_out, x)), 1, 1);
	tap(x, "decoder.conv_out");
	return at_return(s, at_contiguous(x)); /* of channels-last weights it has their order */
}

at_t dc_ae_decode(const struct dc_ae *m, at_t z_BChw, int64_t at_a_time)
{
	return vae_in_pieces(m, decode, z_BChw, at_a_time);
}

static at_t encode(const void *vae, at_t x_B3HW)
{
	const struct dc_ae *m = vae;
	const struct dc_ae_half *f = &m->encoder;
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x = vae_conv(&f->conv_in, x_B3HW, 1, 1);

	for (int i = 0; i < m->conf.levels; i++) {
		struct at_scope *step = at_begin(AT_GRAD_AS_IS);
		at_t y = blocks(m, &f->level[i], &m->conf.encoder, i, x);

		if (f->level[i].resample.w_OIkk)
			y = down(&f->level[i].resample, y);
		tap(y, "encoder.down_blocks.%d", i);
		at_replace(step, &x, y);
		at_end(step);
	}
	x = at_add(vae_conv(&f->conv_out, x, 1, 1), fewer(x, m->conf.latent_channels));
	return at_return(s, at_mul(x, m->conf.scaling_factor));
}

at_t dc_ae_encode(const struct dc_ae *m, at_t x_B3HW)
{
	return vae_in_pieces(m, encode, x_B3HW, 1);
}
