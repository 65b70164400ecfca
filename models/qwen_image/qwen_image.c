/* qwen_image.c -- Qwen-Image as a model family: its transformer behind transformer_type. */
#include "models/qwen_image/qwen_image.h"
#include "models/qwen_image/qwen_vae.h"

/* 1024 pixels: diffusers' default_sample_size; no file says it. */
#define DEFAULT_SIDE 128

static struct transformer_facts facts_of(const void *state)
{
	const struct qwen_image_conf *c = &((const struct qwen_image *)state)->conf;

	return (struct transformer_facts) { .channels = c->out_channels,
					    .channels_out = c->out_channels,
					    .multiple = QWEN_IMAGE_PATCH,
					    .most_side = QWEN_IMAGE_PATCH * QWEN_IMAGE_MOST,
					    .default_side = DEFAULT_SIDE,
					    .blocks = c->num_layers,
					    .text_width = c->joint_attention_dim };
}

static struct nn_net *net_of(void *m)
{
	return &((struct qwen_image *)m)->net;
}

static int64_t tokens_of(const void *m, int64_t h, int64_t w)
{
	(void)m;
	return h / QWEN_IMAGE_PATCH * (w / QWEN_IMAGE_PATCH);
}

static const char *attention_of(const void *state, at_t x_BChw, const struct cond *c)
{
	const struct qwen_image *m = state;
	int64_t S = tokens_of(m, at_size(x_BChw, 2), at_size(x_BChw, 3)) + cond_tokens(c);

	return joint_kernel(S, m->conf.num_attention_heads, m->conf.attention_head_dim,
			    at_dtype_of(m->proj_out.w_OI), at_device_of(m->proj_out.w_OI));
}

static void cost_of(const void *state, struct cost *c, const struct cost_shape *s)
{
	const struct qwen_image *m = state;
	int64_t n = tokens_of(m, s->h, s->w);
	double B = (double)s->batch, N = (double)n, L = (double)s->text_tokens, D = (double)m->width;
	double modulate = 2, norm = 2;

	cost_sites(c, &m->net, s, n);
	for (int64_t i = 0; i < m->conf.num_layers; i++)
		joint_cost(c, B, N, L, D, s->size);
	cost_op(c, COST_ELEMENTS, 0, norm * s->size * B * L * (double)m->conf.joint_attention_dim);
	cost_op(c, COST_ELEMENTS, 0, modulate * s->size * B * N * D);
}

const struct transformer_type transformer_qwen_image = {
	.class_name = "QwenImageTransformer2DModel",
	.lay_out = qwen_image_lay_out,
	.config = qwen_image_config,
	.start = qwen_image_start,
	.close = qwen_image_close,
	.facts = facts_of,
	.net = net_of,
	.tokens = tokens_of,
	.velocity = qwen_image_velocity,
	.attention = attention_of,
	.cost = cost_of,
};

/* The shapes world's small encoders stand in the places of the large ones. */
static const struct text_encoder_type *const text[] = { &qwen_image_text_encoder, &word_text_encoder, NULL };
static const struct autoencoder_type *const vae[] = { &qwen_autoencoder, &linear_autoencoder, NULL };

const struct family family_qwen_image = {
	.class_name = "QwenImagePipeline",
	.transformer = &transformer_qwen_image,
	.text = text,
	.vae = vae,
	.grid = GRID_STEPS,
	.mu = MU_LINEAR,
	.text_length = 256,
	.negative = " ",
	.guide = qwen_image_guide,
};
