/* sd3.c -- Stable Diffusion 3 and 3.5 as a model family: its transformer behind transformer_type. */
#include "models/sd3/sd3.h"
#include "models/sd3/mmdit.h"

static struct transformer_facts facts_of(const void *state)
{
	const struct mmdit_conf *c = &((const struct mmdit *)state)->conf;

	return (struct transformer_facts) { .channels = c->in_channels,
					    .channels_out = c->out_channels,
					    .multiple = c->patch_size,
					    .most_side = c->patch_size * c->pos_embed_max_size,
					    .default_side = c->sample_size,
					    .blocks = c->num_layers,
					    .text_width = c->joint_attention_dim,
					    .pooled_width = c->pooled_projection_dim };
}

static struct nn_net *net_of(void *m)
{
	return &((struct mmdit *)m)->net;
}

static int64_t tokens_of(const void *m, int64_t h, int64_t w)
{
	return mmdit_tokens(m, h, w);
}

static at_t velocity_of(const void *m, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
			at_t guidance_B)
{
	(void)guidance_B; /* the facts say that it takes none */
	return mmdit_forward(m, p, x_BChw, t_B, cond_get(c, COND_TEXT, NULL), cond_get(c, COND_POOLED, NULL));
}

static const char *attention_of(const void *m, at_t x_BChw, const struct cond *c)
{
	return mmdit_attention(m, x_BChw, cond_get(c, COND_TEXT, NULL));
}

/* What lies between the products, as block_forward has it: passes over a token's D numbers. */
static void elements(struct cost *c, double tokens, double D, double size, double times)
{
	cost_op(c, COST_ELEMENTS, 0, size * times * tokens * D);
}

/* As the fused ops have it: at_qkv reads the products of both streams once and writes the joint queries, keys
 * and values; at_gate_modulate reads x and what is added, and writes both of its results. */
static void block_cost(const struct mmdit *m, int i, struct cost *c, const struct cost_shape *s, double N)
{
	double L = (double)s->text_tokens, B = (double)s->batch, D = (double)m->width;
	bool dual = m->block[i].dual, last = m->block[i].last;
	double modulate = 2, gate = 3, gate_modulate = 4, qkv = 2 * 3, key_value = 2 * 2, halves = 2;

	cost_attention(c, B, last ? N : N + L, N + L, D, s->size);
	elements(c, B * N, D, s->size, qkv + modulate + gate_modulate + gate);
	elements(c, B * L, D, s->size, last ? key_value + modulate : qkv + modulate + gate_modulate + gate);
	if (!last)
		elements(c, B * (N + L), D, s->size, halves);
	if (dual) { /* its values stay where the product has them */
		cost_attention(c, B, N, N, D, s->size);
		elements(c, B * N, D, s->size, 2 * 2 + modulate + gate);
	}
}

static void cost_of(const void *state, struct cost *c, const struct cost_shape *s)
{
	const struct mmdit *m = state;
	int64_t N = mmdit_tokens(m, s->h, s->w);
	double p = (double)m->conf.patch_size, D = (double)m->width, rows = (double)(s->batch * N);

	cost_linear(c, rows, p * p * (double)m->conf.in_channels, D, s->size);
	elements(c, rows, D, s->size, 2);
	cost_sites(c, &m->net, s, N);
	for (int i = 0; i < (int)m->conf.num_layers; i++)
		block_cost(m, i, c, s, (double)N);
	elements(c, rows, D, s->size, 2);
}

const struct transformer_type transformer_sd3 = {
	.class_name = "SD3Transformer2DModel",
	.lay_out = mmdit_lay_out,
	.config = mmdit_config,
	.start = mmdit_start,
	.close = mmdit_close,
	.facts = facts_of,
	.net = net_of,
	.tokens = tokens_of,
	.velocity = velocity_of,
	.attention = attention_of,
	.cost = cost_of,
};

/* The shapes world's small encoders stand in the places of the large ones. */
static const struct text_encoder_type *const text[] = { &word_text_encoder, &sd3_text_encoder, NULL };
static const struct autoencoder_type *const vae[] = { &linear_autoencoder, &kl_autoencoder, NULL };

const struct family family_sd3 = {
	.class_name = "StableDiffusion3Pipeline",
	.transformer = &transformer_sd3,
	.text = text,
	.vae = vae,
	.grid = GRID_TRAIN,
	.mu = MU_LINEAR,
	.text_length = 128,
	.text_beside = 77,
	.negative = "",
};
