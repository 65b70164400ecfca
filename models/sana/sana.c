/* sana.c -- SANA as a model family: its transformer behind transformer_type. */
#include "models/sana/sana.h"
#include "models/sana/dc_ae.h"

/* Positions have no table that ends; this keeps a mistyped size from taking all memory. */
#define MOST_SIDE 1024

static struct transformer_facts facts_of(const void *state)
{
	const struct sana_conf *c = &((const struct sana *)state)->conf;

	return (struct transformer_facts) { .channels = c->in_channels,
					    .channels_out = c->out_channels,
					    .multiple = c->patch_size,
					    .most_side = MOST_SIDE / c->patch_size * c->patch_size,
					    .default_side = c->sample_size,
					    .blocks = c->num_layers,
					    .text_width = c->caption_channels };
}

static struct nn_net *net_of(void *m)
{
	return &((struct sana *)m)->net;
}

static int64_t tokens_of(const void *state, int64_t h, int64_t w)
{
	int64_t p = ((const struct sana *)state)->conf.patch_size;

	return h / p * (w / p);
}

/* Of attention to the text: that of the image to itself is products. */
static const char *attention_of(const void *state, at_t x_BChw, const struct cond *c)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	const struct sana *m = state;
	int64_t H = m->conf.num_cross_attention_heads, K = m->conf.cross_attention_head_dim;
	int64_t N = tokens_of(m, at_size(x_BChw, 2), at_size(x_BChw, 3)), L = cond_tokens(c);
	enum at_dtype dt = at_dtype_of(m->proj_out.w_OI);
	enum at_device dev = at_device_of(m->proj_out.w_OI);
	at_t q_BHNK = at_empty(DIMS(1, H, N, K), dt, dev), k_BHLK = at_empty(DIMS(1, H, L, K), dt, dev);
	const char *name = at_sdpa_kernel(q_BHNK, k_BHLK, k_BHLK);

	at_end(s);
	return name;
}

/* Linear attention: queries, keys and values are normed, cut off and made float32; three products. */
static void linear_attention_cost(const struct sana *m, struct cost *c, double rows, double size)
{
	double D = (double)m->width, K = (double)m->conf.attention_head_dim, norm = m->conf.qk_norm ? 2 : 0;

	cost_op(c, COST_ATTENTION, 2 * rows * D * (2 * K + 1), 4 * rows * (3 + 1) * D);
	cost_op(c, COST_ELEMENTS, 0,
		rows * D *
		    (size * (2 * norm + 2 * 2 + 3 + 1) + 4 * (3 + 1 + 2))); /* division, there and back */
}

static void feed_forward_cost(const struct sana *m, struct cost *c, double rows, double size)
{
	double D = (double)m->width, F = (double)m->hidden, silu = 2, gated = 2 + 3, depth = 2;

	cost_linear(c, rows, D, 2 * F, size);
	cost_op(c, COST_PRODUCT, 2 * 9 * rows * 2 * F, size * depth * rows * 2 * F);
	cost_linear(c, rows, F, D, size);
	cost_op(c, COST_ELEMENTS, 0, size * rows * (silu * 2 + gated) * F);
}

static void cost_of(const void *state, struct cost *c, const struct cost_shape *s)
{
	const struct sana *m = state;
	int64_t n = tokens_of(m, s->h, s->w), p = m->conf.patch_size;
	double B = (double)s->batch, N = (double)n, L = (double)s->text_tokens, D = (double)m->width;
	double X = (double)m->cross, modulate = 2, gate = 3, add = 3, norm = 2;

	cost_linear(c, B * N, (double)(p * p * m->conf.in_channels), D, s->size);
	cost_sites(c, &m->net, s, n);
	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		linear_attention_cost(m, c, B * N, s->size);
		cost_attention(c, B, N, L, X, s->size);
		feed_forward_cost(m, c, B * N, s->size);
		cost_op(c, COST_ELEMENTS, 0,
			s->size * B * (N * D * (2 * modulate + 2 * gate + add) + norm * (N + L) * X));
	}
	cost_op(c, COST_ELEMENTS, 0, s->size * B * (modulate * N * D + norm * L * D));
}

const struct transformer_type transformer_sana = {
	.class_name = "SanaTransformer2DModel",
	.lay_out = sana_lay_out,
	.config = sana_config,
	.start = sana_start,
	.close = sana_close,
	.facts = facts_of,
	.net = net_of,
	.tokens = tokens_of,
	.velocity = sana_velocity,
	.attention = attention_of,
	.cost = cost_of,
};

/* The shapes world's small encoders stand in the places of the large ones. */
static const struct text_encoder_type *const text[] = { &sana_text_encoder, &word_text_encoder, NULL };
static const struct autoencoder_type *const vae[] = { &dc_autoencoder, &linear_autoencoder, NULL };

const struct family family_sana = {
	.class_name = "SanaPipeline",
	.transformer = &transformer_sana,
	.text = text,
	.vae = vae,
	.grid = GRID_TRAIN,
	.mu = MU_LINEAR,
	.negative = "",
};
