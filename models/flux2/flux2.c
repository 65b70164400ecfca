/* flux2.c -- FLUX.2-klein as a model family: its transformer behind transformer_type, and its text. */
#include "models/flux2/flux2.h"
#include "models/text/decoder/decoder_text.h"

/* Positions have no table that ends; this keeps a mistyped size from taking all memory. */
#define MOST_SIDE 2048
/* 1024 pixels: diffusers' default; no file says it. */
#define DEFAULT_SIDE 64

static struct transformer_facts facts_of(const void *state)
{
	const struct flux2_conf *c = &((const struct flux2 *)state)->conf;

	return (struct transformer_facts) { .channels = c->in_channels,
					    .channels_out = c->out_channels,
					    .multiple = 1,
					    .most_side = MOST_SIDE,
					    .default_side = DEFAULT_SIDE,
					    .blocks = c->num_layers + c->num_single_layers,
					    .text_width = c->joint_attention_dim,
					    .guided = c->guidance_embeds };
}

static struct nn_net *net_of(void *m)
{
	return &((struct flux2 *)m)->net;
}

static int64_t tokens_of(const void *m, int64_t h, int64_t w)
{
	(void)m;
	return h * w;
}

static const char *attention_of(const void *state, at_t x_BChw, const struct cond *c)
{
	const struct flux2 *m = state;
	int64_t S = tokens_of(m, at_size(x_BChw, 2), at_size(x_BChw, 3)) + cond_tokens(c);

	return joint_kernel(S, m->conf.num_attention_heads, m->conf.attention_head_dim,
			    at_dtype_of(m->proj_out.w_OI), at_device_of(m->proj_out.w_OI));
}

/* Beside joint_cost, a feed-forward's gate passes over three times its hidden channels.  A single block
 * passes over its tokens once to modulate, to put attention and feed-forward side by side, and to gate. */
static void cost_of(const void *state, struct cost *c, const struct cost_shape *s)
{
	const struct flux2 *m = state;
	int64_t n = tokens_of(m, s->h, s->w);
	double B = (double)s->batch, N = (double)n, L = (double)s->text_tokens, D = (double)m->width;
	double F = (double)m->hidden, modulate = 2, gate = 3, silu = 2 + 3;

	cost_sites(c, &m->net, s, n);
	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		joint_cost(c, B, N, L, D, s->size);
		cost_op(c, COST_ELEMENTS, 0, silu * s->size * B * (N + L) * F);
	}
	for (int64_t i = 0; i < m->conf.num_single_layers; i++) {
		joint_attention_cost(c, B, N + L, D, s->size);
		cost_op(c, COST_ELEMENTS, 0,
			s->size * B * (N + L) * ((modulate + gate) * D + silu * F + 2 * (D + F)));
	}
	cost_op(c, COST_ELEMENTS, 0, modulate * s->size * B * N * D);
}

const struct transformer_type transformer_flux2 = {
	.class_name = "Flux2Transformer2DModel",
	.lay_out = flux2_lay_out,
	.config = flux2_config,
	.start = flux2_start,
	.close = flux2_close,
	.facts = facts_of,
	.net = net_of,
	.tokens = tokens_of,
	.velocity = flux2_velocity,
	.attention = attention_of,
	.cost = cost_of,
};

/* ---- Text ---------------------------------------------------------------------------------------- */

/* The chat of Qwen3 with thinking switched off; padding is read, too, which sees the prompt alone. */
static const struct decoder_prompt prompt = {
	.before = "<|im_start|>user\n",
	.after = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
	.rows = 512,
	.fill = true,
	.states = 3,
	.state = { 9, 18, 27 },
};

static int open_text(void **state, const struct text_options *o, struct err *e)
{
	return decoder_text_open(state, &prompt, o, e);
}

static int hash_text(uint64_t *hash, const struct text_options *o, struct err *e)
{
	return decoder_text_hash(hash, &prompt, o, e);
}

static const struct text_encoder_type qwen3 = {
	.class_name = "Qwen3ForCausalLM",
	.open = open_text,
	.hash = hash_text,
	.encode = decoder_text_encode,
	.tokenize = decoder_text_tokenize,
	.close = decoder_text_close,
};

/* The shapes world's small encoders stand in the places of the large ones. */
static const struct text_encoder_type *const text[] = { &qwen3, &word_text_encoder, NULL };
static const struct autoencoder_type *const vae[] = { &flux2_autoencoder, &linear_autoencoder, NULL };

const struct family family_flux2 = {
	.class_name = "Flux2KleinPipeline",
	.transformer = &transformer_flux2,
	.text = text,
	.vae = vae,
	.grid = GRID_STEPS,
	.mu = MU_FLUX2,
	.negative = "",
};
