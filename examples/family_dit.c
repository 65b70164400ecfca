/*
 * family_dit.c -- the smallest real model family: a DiT (arXiv 2212.09748) that reads the prompt's embeddings
 * as their mean.  docs/extending.md tells how it becomes part of the program.
 *
 * Shapes: B batch, C channels, h x w latents, N tokens (patches of p x p), F = C p p, D = H K width (H heads
 * of K), L text tokens of E channels, M side of the grid of positions.
 */
#include "base/mem.h"
#include "models/block.h"
#include "models/family.h"
#include "models/taps.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPS       1e-6
#define TIME      64 /* channels of the sinusoids of t */
#define MAX_BLOCK 64

/* ---- The network and its names ------------------------------------------------------------------- */

struct dit_block {
	struct nn_linear ada, qkv, out, up, down;
};
struct dit {
	int64_t side, patch, channels, layers, heads, width, text_width; /* config.json */
	struct nn_net net;
	at_t pos_1ND; /* (1, M * M, D) */
	struct nn_linear patches, time, text, last_ada, last;
	struct dit_block block[MAX_BLOCK];
};

static void add(struct dit *m, struct nn_linear *l, const char *prefix, const char *name, int64_t out,
		int64_t in)
{
	nn_add_stack(&m->net, l, 1, prefix, &name, out, in, true);
}

/* Blocks are begun so that checkpointing finds them; what each linear reads is for FLOPs and 8-bit weights.
 */
static void lay_out(struct dit *m)
{
	static const char *const qkv[] = { "attn.to_q", "attn.to_k", "attn.to_v" };
	int64_t D = m->width, F = m->channels * m->patch * m->patch, M = m->side / m->patch;

	nn_add_tensor(&m->net, &m->pos_1ND, "pos_embed", DIMS(1, M * M, D), true);
	nn_reads(&m->net, NN_IMAGE);
	add(m, &m->patches, "", "patch_embed", D, F);
	nn_reads(&m->net, NN_SAMPLES);
	add(m, &m->time, "", "time_embed", D, TIME);
	add(m, &m->text, "", "text_embed", D, m->text_width);
	for (int64_t i = 0; i < m->layers; i++) {
		struct dit_block *b = &m->block[i];
		char *at = mem_printf("blocks.%lld.", (long long)i);

		nn_begin_block(&m->net);
		nn_reads(&m->net, NN_SAMPLES);
		add(m, &b->ada, at, "modulation", 6 * D, D);
		nn_reads(&m->net, NN_IMAGE);
		nn_add_stack(&m->net, &b->qkv, 3, at, qkv, D, D, true);
		add(m, &b->out, at, "attn.to_out.0", D, D);
		add(m, &b->up, at, "mlp.0", 4 * D, D);
		add(m, &b->down, at, "mlp.2", D, 4 * D);
		free(at);
	}
	nn_end_blocks(&m->net);
	nn_reads(&m->net, NN_SAMPLES);
	add(m, &m->last_ada, "", "norm_out", 2 * D, D);
	nn_reads(&m->net, NN_IMAGE);
	add(m, &m->last, "", "proj_out", F, D);
}

/* ---- Its config.json ----------------------------------------------------------------------------- */

static const struct {
	const char *key;
	size_t offset;
} sizes[] = {
	{ "sample_size", offsetof(struct dit, side) },     { "patch_size", offsetof(struct dit, patch) },
	{ "in_channels", offsetof(struct dit, channels) }, { "num_layers", offsetof(struct dit, layers) },
	{ "num_heads", offsetof(struct dit, heads) },      { "hidden_size", offsetof(struct dit, width) },
	{ "text_dim", offsetof(struct dit, text_width) }
};

static int configure(struct dit *m, const json_t *o, const char *what, struct err *e)
{
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		int64_t *v = (int64_t *)((char *)m + sizes[i].offset);

		if (json_get_int(v, o, sizes[i].key, 0, what, e))
			return -1;
		if (*v < 1 || *v > 1 << 16)
			return err_set(e, "%s: %s = %lld: must be 1 to 65536", what, sizes[i].key,
				       (long long)*v);
	}
	if (m->layers > MAX_BLOCK || m->width % m->heads || m->side % m->patch)
		return err_set(e, "%s: at most %d layers, and hidden_size and sample_size that divide", what,
			       MAX_BLOCK);
	lay_out(m);
	return 0;
}

static void close_dit(void *state)
{
	struct dit *m = state;

	if (m)
		nn_release(&m->net);
	free(m);
}

static int lay_out_dit(void **out, const json_t *config, const char *what, struct err *e)
{
	struct dit *m = mem_zero(1, sizeof *m);

	if (configure(m, config, what, e)) {
		close_dit(m);
		return -1;
	}
	*out = m;
	return 0;
}

static json_t *config_of_dit(const void *m)
{
	json_t *o = json_object();

	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		json_object_set_new(o, sizes[i].key,
				    json_integer(*(const int64_t *)((const char *)m + sizes[i].offset)));
	return o;
}

/* ---- The forward --------------------------------------------------------------------------------- */

static at_t attention(const struct dit *m, const struct dit_block *b, const struct pass *p, at_t x_BND)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t N = at_size(x_BND, 1), H = m->heads, K = m->width / H;
	at_t part[3], o_BHNK;

	at_unbind(3, part, at_view(nn_linear(&b->qkv, p, x_BND), DIMS(-1, N, 3, H, K)), 2);
	o_BHNK = at_sdpa(at_transpose(part[0], 1, 2), at_transpose(part[1], 1, 2),
			 at_transpose(part[2], 1, 2), NULL, false, 0);
	return at_return(s, nn_linear(&b->out, p, at_flatten(at_transpose(o_BHNK, 1, 2), 2, 3)));
}

struct call {
	const struct dit *m;
	const struct dit_block *b;
};

/* in: image tokens, condition; out: image tokens. */
static void run_block(const void *ctx, const struct pass *p, const at_t *in, at_t *out)
{
	const struct call *k = ctx;
	at_t mod[6], x_BND = in[0];

	at_chunk(6, mod, nn_linear(&k->b->ada, p, in[1]), -1); /* shift, scale and gate, twice */
	x_BND = at_gate(x_BND, mod[2], attention(k->m, k->b, p, at_modulate(x_BND, mod[0], mod[1], EPS)));
	at_t h = nn_linear_gelu(&k->b->up, p, at_modulate(x_BND, mod[3], mod[4], EPS));
	out[0] = at_gate(x_BND, mod[5], nn_linear(&k->b->down, p, h));
}

static at_t blocks(const struct dit *m, const struct pass *p, at_t x_BND, at_t y_B1D)
{
	for (int64_t i = 0; i < m->layers; i++) {
		struct at_scope *s = at_begin(AT_GRAD_AS_IS);
		struct call k = { m, &m->block[i] };
		at_t in[2] = { x_BND, y_B1D }, out;

		if (i < p->checkpoint_blocks && at_grad_enabled())
			block_checkpoint(&m->net, (int)i, p, run_block, &k, sizeof k, 2, in, 1, &out);
		else
			run_block(&k, p, in, &out);
		at_replace(s, &x_BND, out);
		at_end(s);
		tap(x_BND, "blocks.%lld", (long long)i);
	}
	return x_BND;
}

/* cos and sin of t at frequencies from 1 down to 1 / 10000. */
static at_t sinusoids(at_t t_B, enum at_dtype dt)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t exponent = at_mul(at_arange(TIME / 2, AT_F32, at_device_of(t_B)), -log(10000) / (TIME / 2));
	at_t angle = at_mul(at_unsqueeze(t_B, 1), at_unsqueeze(at_exp(exponent), 0));

	return at_return(s, at_cast(at_cat2(at_cos(angle), at_sin(angle), 1), dt));
}

/* The mean over the tokens that count: those behind a row's length are zeros. */
static at_t mean_text(const struct cond *c)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t length_B, text_BLE = cond_get(c, COND_TEXT, &length_B);
	at_t sum_BE = at_sum_dim(text_BLE, 1, false);

	if (!length_B)
		return at_return(s, at_div(sum_BE, (double)at_size(text_BLE, 1)));
	return at_return(s, at_div(sum_BE, at_unsqueeze(at_cast(length_B, at_dtype_of(text_BLE)), 1)));
}

static at_t velocity(const void *state, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		     at_t guidance_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct dit *m = state;
	int64_t q = m->patch, C = m->channels, h = at_size(x_BChw, 2) / q, w = at_size(x_BChw, 3) / q;
	int64_t M = m->side / q;
	at_t x_BhwCpp = at_permute(at_reshape(x_BChw, DIMS(-1, C, h, q, w, q)), DIMS(0, 2, 4, 1, 3, 5));
	at_t pos_hwD = at_narrow(at_narrow(at_view(m->pos_1ND, DIMS(M, M, -1)), 0, 0, h), 1, 0, w);
	at_t y_BD = at_add(nn_linear(&m->time, p, sinusoids(t_B, at_dtype_of(x_BChw))),
			   nn_linear(&m->text, p, mean_text(c)));
	at_t y_B1D = at_unsqueeze(at_silu(y_BD), 1), mod[2], x_BND;

	(void)guidance_B;
	x_BND = at_add(nn_linear(&m->patches, p, at_reshape(x_BhwCpp, DIMS(-1, h * w, C * q * q))),
		       at_reshape(pos_hwD, DIMS(1, h * w, m->width)));
	x_BND = blocks(m, p, x_BND, y_B1D);
	at_chunk(2, mod, nn_linear(&m->last_ada, p, y_B1D), -1);
	x_BND = nn_linear(&m->last, p, at_modulate(x_BND, mod[0], mod[1], EPS));
	x_BhwCpp = at_view(x_BND, DIMS(-1, h, w, C, q, q));
	return at_return(s,
			 at_reshape(at_permute(x_BhwCpp, DIMS(0, 3, 1, 4, 2, 5)), DIMS(-1, C, h * q, w * q)));
}

/* ---- As a family --------------------------------------------------------------------------------- */

static struct transformer_facts facts(const void *state)
{
	const struct dit *m = state;

	return (struct transformer_facts) { .channels = m->channels,
					    .channels_out = m->channels,
					    .multiple = m->patch,
					    .most_side = m->side,
					    .default_side = m->side,
					    .blocks = m->layers,
					    .text_width = m->text_width };
}

static struct nn_net *net(void *m)
{
	return &((struct dit *)m)->net;
}

static int64_t tokens(const void *m, int64_t h, int64_t w)
{
	int64_t q = ((const struct dit *)m)->patch;

	return h / q * (w / q);
}

static const char *kernel(const void *state, at_t x_BChw, const struct cond *c)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	const struct dit *m = state;
	at_t q_BHNK = at_empty(
	    DIMS(1, m->heads, tokens(m, at_size(x_BChw, 2), at_size(x_BChw, 3)), m->width / m->heads),
	    at_dtype_of(m->pos_1ND), at_device_of(m->pos_1ND));
	const char *name = at_sdpa_kernel(q_BHNK, q_BHNK, q_BHNK);

	(void)c;
	at_end(s);
	return name;
}

/* The linears and attention; between them a block passes over its tokens ten times. */
static void cost(const void *state, struct cost *c, const struct cost_shape *s)
{
	const struct dit *m = state;
	int64_t n = tokens(m, s->h, s->w);
	double N = (double)n, B = (double)s->batch, D = (double)m->width;

	cost_sites(c, &m->net, s, n);
	for (int i = 0; i < m->layers; i++) {
		cost_attention(c, B, N, N, D, s->size);
		cost_op(c, COST_ELEMENTS, 0, 10 * s->size * B * N * D);
	}
}

static const struct transformer_type transformer_dit = {
	.class_name = "DiTExampleModel",
	.lay_out = lay_out_dit,
	.config = config_of_dit,
	.close = close_dit,
	.facts = facts,
	.net = net,
	.tokens = tokens,
	.velocity = velocity,
	.attention = kernel,
	.cost = cost,
};

static const struct text_encoder_type *const text[] = { &word_text_encoder, NULL };
static const struct autoencoder_type *const vae[] = { &linear_autoencoder, &kl_autoencoder, NULL };

const struct family family_dit = {
	.class_name = "DiTExamplePipeline",
	.transformer = &transformer_dit,
	.text = text,
	.vae = vae,
	.negative = "",
};
