/*
 * qwen_image_forward.c -- the forward of Qwen-Image's transformer.
 * Shapes: B batch, C channels of h x w latents, N image tokens, L text tokens of E channels, S = N + L (image
 * first), F = 4 C features of a token, D width, A axes of positions.
 */
#include "models/layers/embed.h"
#include "models/qwen_image/qwen_image.h"
#include "models/taps.h"
#include <math.h>

#define EPS 1e-6

/* The image stands around the origin; text goes on along the diagonal from where the image's longer side
 * ends, however long the prompt is filled up to. */
static void angles(const struct qwen_image *m, int64_t h, int64_t w, int64_t L, enum at_device dev,
		   at_t *cos_SE, at_t *sin_SE)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t H = h / QWEN_IMAGE_PATCH, W = w / QWEN_IMAGE_PATCH;
	double corner[3] = { 0, -(double)((H + 1) / 2), -(double)((W + 1) / 2) };
	double end = (double)((H > W ? H : W) / 2);
	at_t image_NA = rope_grid(3, H, W, corner, dev);
	at_t text_LA = rope_line(3, L, (double[]) { end, end, end }, (double[]) { 1, 1, 1 }, dev);

	rope_angles(&m->conf.rope, at_cat2(image_NA, text_LA, 0), cos_SE, sin_SE);
	at_escape(s, *cos_SE);
	at_escape(s, *sin_SE);
	at_end(s);
}

/* (B, 1, 1, S): nobody attends to what fills a prompt up. */
static at_t mask(at_t length_B, int64_t N, int64_t L, enum at_dtype dt)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	enum at_device dev = at_device_of(length_B);
	int64_t B = at_size(length_B, 0);
	at_t left_BL =
	    at_sub(at_unsqueeze(at_arange(L, AT_F32, dev), 0), at_unsqueeze(at_cast(length_B, AT_F32), 1));
	at_t text_BL =
	    at_where(at_lt(left_BL, 0), at_zeros(DIMS(1), dt, dev), at_full(DIMS(1), -INFINITY, dt, dev));
	at_t all_BS = at_cat2(at_zeros(DIMS(B, N), dt, dev), text_BL, 1);

	return at_return(s, at_view(all_BS, DIMS(B, 1, 1, N + L)));
}

static at_t embed_text(const struct qwen_image *m, const struct pass *p, at_t text_BLE)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	return at_return(s, nn_linear(&m->text, p, at_rms_norm(text_BLE, m->text_norm_E, EPS)));
}

static at_t run_blocks(const struct qwen_image *m, const struct pass *p, at_t x_BND, at_t c_BLD,
		       const struct joint_input *with)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	tap(x_BND, "img_in");
	tap(c_BLD, "txt_in");
	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		joint_run(&m->block[i], &m->net, (int)i, p, &x_BND, &c_BLD, with);
		tap(x_BND, "transformer_blocks.%lld", (long long)i);
		if (!m->block[i].text_ends)
			tap(c_BLD, "transformer_blocks.%lld.context", (long long)i);
	}
	return at_return(s, x_BND);
}

at_t qwen_image_velocity(const void *state, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
			 at_t guidance_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct qwen_image *m = state;
	enum at_dtype dt = at_dtype_of(x_BChw);
	at_t length_B, text_BLE = cond_get(c, COND_TEXT, &length_B), mod[2];
	int64_t h = at_size(x_BChw, 2), w = at_size(x_BChw, 3), L = at_size(text_BLE, 1);
	at_t time_BD = embed_mlp(&m->time[0], &m->time[1], p, embed_sinusoids(t_B, QWEN_IMAGE_TIME, dt));
	at_t x_BND = nn_linear(&m->image, p, embed_patches(x_BChw, QWEN_IMAGE_PATCH, EMBED_CYX));
	struct joint_input with = { .y_B1D = at_unsqueeze(at_silu(time_BD), 1) };

	(void)guidance_B; /* the facts say that it takes none */
	tap(time_BD, "time_text_embed");
	angles(m, h, w, L, at_device_of(x_BChw), &with.cos_SE, &with.sin_SE);
	if (length_B)
		with.bias = mask(length_B, at_size(x_BND, 1), L, dt);
	x_BND = run_blocks(m, p, x_BND, embed_text(m, p, text_BLE), &with);
	at_chunk(2, mod, nn_linear(&m->norm_out, p, with.y_B1D), -1); /* scale, shift */
	x_BND = at_modulate(x_BND, mod[1], mod[0], EPS);
	tap(x_BND, "norm_out");
	x_BND = nn_linear(&m->proj_out, p, x_BND);
	tap(x_BND, "proj_out");
	return at_return(s, embed_unpatch(x_BND, h, w, QWEN_IMAGE_PATCH, EMBED_CYX));
}

/* Of each token of (B, N, F); never 0, by which nothing can be divided. */
static at_t lengths(at_t v_BNF)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	return at_return(s, at_clamp(at_sqrt(at_sum_dim(at_square(v_BNF), -1, true)), 1e-20, INFINITY));
}

at_t qwen_image_guide(at_t v1_BChw, at_t v0_BChw, double g)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t v1_BNF = embed_patches(v1_BChw, QWEN_IMAGE_PATCH, EMBED_CYX);
	at_t v_BNF = embed_patches(at_lerp(v0_BChw, v1_BChw, g), QWEN_IMAGE_PATCH, EMBED_CYX);
	at_t out_BNF = at_mul(v_BNF, at_div(lengths(v1_BNF), lengths(v_BNF)));

	return at_return(
	    s, embed_unpatch(out_BNF, at_size(v1_BChw, 2), at_size(v1_BChw, 3), QWEN_IMAGE_PATCH, EMBED_CYX));
}
