/* flux.c -- FLUX.1 as a model family: its transformer behind transformer_type. */
#include "models/flux/flux.h"

/* Positions have no table that ends; this keeps a mistyped size from taking all memory. */
#define MOST_SIDE 4096
/* 1024 pixels: diffusers' default_sample_size; no file says it. */
#define DEFAULT_SIDE 128

static struct transformer_facts facts_of(const void *state)
{
	const struct flux_conf *c = &((const struct flux *)state)->conf;
	int64_t token = FLUX_PATCH * FLUX_PATCH;

	return (struct transformer_facts) { .channels = c->in_channels / token,
					    .channels_out = c->out_channels / token,
					    .multiple = FLUX_PATCH,
					    .most_side = MOST_SIDE,
					    .default_side = DEFAULT_SIDE,
					    .blocks = c->num_layers + c->num_single_layers,
					    .text_width = c->joint_attention_dim,
					    .pooled_width = c->pooled_projection_dim,
					    .guided = c->guidance_embeds };
}

static struct nn_net *net_of(void *m)
{
	return &((struct flux *)m)->net;
}

static int64_t tokens_of(const void *m, int64_t h, int64_t w)
{
	(void)m;
	return h / FLUX_PATCH * (w / FLUX_PATCH);
}

static const char *attention_of(const void *state, at_t x_BChw, const struct cond *c)
{
	const struct flux *m = state;
	int64_t S = tokens_of(m, at_size(x_BChw, 2), at_size(x_BChw, 3)) + cond_tokens(c);

	return joint_kernel(S, m->conf.num_attention_heads, m->conf.attention_head_dim,
			    at_dtype_of(m->proj_out.w_OI), at_device_of(m->proj_out.w_OI));
}

/* A single block passes over its tokens once to modulate, to put attention and feed-forward (5 D wide) side
 * by side, and to gate. */
static void cost_of(const void *state, struct cost *c, const struct cost_shape *s)
{
	const struct flux *m = state;
	int64_t n = tokens_of(m, s->h, s->w);
	double B = (double)s->batch, N = (double)n, L = (double)s->text_tokens, D = (double)m->width;
	double modulate = 2, side_by_side = 2 * 5, gate = 3;

	cost_sites(c, &m->net, s, n);
	for (int64_t i = 0; i < m->conf.num_layers; i++)
		joint_cost(c, B, N, L, D, s->size);
	for (int64_t i = 0; i < m->conf.num_single_layers; i++) {
		joint_attention_cost(c, B, N + L, D, s->size);
		cost_op(c, COST_ELEMENTS, 0, (modulate + side_by_side + gate) * s->size * B * (N + L) * D);
	}
	cost_op(c, COST_ELEMENTS, 0, modulate * s->size * B * N * D);
}

const struct transformer_type transformer_flux = {
	.class_name = "FluxTransformer2DModel",
	.lay_out = flux_lay_out,
	.config = flux_config,
	.start = flux_start,
	.close = flux_close,
	.facts = facts_of,
	.net = net_of,
	.tokens = tokens_of,
	.velocity = flux_velocity,
	.attention = attention_of,
	.cost = cost_of,
};

/* The shapes world's small encoders stand in the places of the large ones. */
static const struct text_encoder_type *const text[] = { &flux_text_encoder, &word_text_encoder, NULL };
static const struct autoencoder_type *const vae[] = { &kl_autoencoder, &linear_autoencoder, NULL };

const struct family family_flux = {
	.class_name = "FluxPipeline",
	.transformer = &transformer_flux,
	.text = text,
	.vae = vae,
	.grid = GRID_STEPS,
	.mu = MU_LINEAR,
	.negative = "",
};
