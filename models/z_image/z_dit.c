/*
 * z_dit.c -- the forward of Z-Image's transformer.
 * Shapes: B batch, N image tokens (patches of p x p) and L caption tokens, both with their fillers; S tokens
 * of a block, N + L in the last ones; D = H * K width (H heads of K), E = K / 2 angles of a head, T channels
 * that modulations read.
 */
#include "models/z_image/z_dit.h"
#include "models/block.h"
#include "models/layers/embed.h"
#include "models/layers/joint.h"
#include "models/taps.h"
#include <math.h>

#define HEAD_EPS 1e-5 /* of the norms of q and k, whatever norm_eps says */
#define LAST_EPS 1e-6

/* What the tokens of a sequence are to attention: where they stand, and which of them are not there. */
struct places {
	at_t cos_SE, sin_SE; /* (S, E), or (B, S, E) */
	at_t bias_B11S;      /* -inf behind a caption's fillers; NULL: all tokens attend */
};

/* ---- Blocks -------------------------------------------------------------------------------------- */

static at_t attention(const struct z_dit *m, const struct z_dit_block *b, const struct pass *p,
		      const struct places *at, at_t x_BSD)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t H = m->conf.n_heads, K = m->conf.dim / H;
	at_t qkv_BS3HK = at_view(nn_linear(&b->qkv, p, x_BSD), DIMS(-1, at_size(x_BSD, 1), 3, H, K));
	at_t q_BSHK, k_BSHK, v_BSHK, o_BHSK;

	at_qkv(1, &qkv_BS3HK, &b->norm_q_K, &b->norm_k_K, true, HEAD_EPS, &q_BSHK, &k_BSHK, &v_BSHK);
	q_BSHK = at_rope(q_BSHK, at->cos_SE, at->sin_SE, false);
	k_BSHK = at_rope(k_BSHK, at->cos_SE, at->sin_SE, false);
	o_BHSK = at_sdpa(at_transpose(q_BSHK, 1, 2), at_transpose(k_BSHK, 1, 2), at_transpose(v_BSHK, 1, 2),
			 at->bias_B11S, false, 0);
	return at_return(s, nn_linear(&b->out, p, at_flatten(at_transpose(o_BHSK, 1, 2), 2, 3)));
}

static at_t feed_forward(const struct z_dit_block *b, const struct pass *p, at_t x_BSD)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t gate_BSF = at_silu(nn_linear(&b->w1, p, x_BSD));

	return at_return(s, nn_linear(&b->w2, p, at_mul(gate_BSF, nn_linear(&b->w3, p, x_BSD))));
}

/* norm(x) (1 + scale); the caption's refiners have no scale. */
static at_t before(const struct z_dit *m, at_t x_BSD, at_t norm_D, at_t scale_B1D)
{
	at_t y_BSD = at_rms_norm(x_BSD, norm_D, m->conf.norm_eps);

	return scale_B1D ? at_mul(y_BSD, at_add(scale_B1D, 1.0)) : y_BSD;
}

/* x + tanh(gate) norm(y) */
static at_t after(const struct z_dit *m, at_t x_BSD, at_t gate_B1D, at_t y_BSD, at_t norm_D)
{
	y_BSD = at_rms_norm(y_BSD, norm_D, m->conf.norm_eps);
	return gate_B1D ? at_gate(x_BSD, at_tanh(gate_B1D), y_BSD) : at_add(x_BSD, y_BSD);
}

static at_t block(const struct z_dit *m, const struct z_dit_block *b, const struct pass *p,
		  const struct places *at, at_t x_BSD, at_t c_B1T)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t mod[4] = { NULL }, h_BSD; /* scale and gate, twice */

	if (c_B1T)
		at_chunk(4, mod, nn_linear(&b->ada, p, c_B1T), -1);
	h_BSD = attention(m, b, p, at, before(m, x_BSD, b->attention_norm1_D, mod[0]));
	x_BSD = after(m, x_BSD, mod[1], h_BSD, b->attention_norm2_D);
	h_BSD = feed_forward(b, p, before(m, x_BSD, b->ffn_norm1_D, mod[2]));
	return at_return(s, after(m, x_BSD, mod[3], h_BSD, b->ffn_norm2_D));
}

struct block_call {
	const struct z_dit *m;
	const struct z_dit_block *b;
	bool modulated, masked;
};

/* in: tokens, cosines, sines, and what else the call says that there is. */
static void run_block(const void *ctx, const struct pass *p, const at_t *in, at_t *out)
{
	const struct block_call *k = ctx;
	int n = 3;
	at_t c_B1T = k->modulated ? in[n++] : NULL;
	struct places at = { in[1], in[2], k->masked ? in[n] : NULL };

	*out = block(k->m, k->b, p, &at, in[0], c_B1T);
}

/* Blocks [from, from + n); c_B1T is NULL in the caption's refiners. */
static at_t blocks(const struct z_dit *m, int64_t from, int64_t n, const char *name, const struct pass *p,
		   const struct places *at, at_t x_BSD, at_t c_B1T)
{
	for (int64_t i = from; i < from + n; i++) {
		struct at_scope *s = at_begin(AT_GRAD_AS_IS);
		struct block_call k = { m, &m->block[i], c_B1T != NULL, at->bias_B11S != NULL };
		at_t in[5] = { x_BSD, at->cos_SE, at->sin_SE }, out;
		int ins = 3;

		if (k.modulated)
			in[ins++] = c_B1T;
		if (k.masked)
			in[ins++] = at->bias_B11S;
		if (i < p->checkpoint_blocks && at_grad_enabled())
			block_checkpoint(&m->net, (int)i, p, run_block, &k, sizeof k, ins, in, 1, &out);
		else
			run_block(&k, p, in, &out);
		at_replace(s, &x_BSD, out);
		at_end(s);
		tap(x_BSD, "%s.%lld", name, (long long)(i - from));
	}
	return x_BSD;
}

/* ---- Sequences ----------------------------------------------------------------------------------- */

int64_t z_dit_filled(int64_t tokens)
{
	return (tokens + Z_DIT_FILL - 1) / Z_DIT_FILL * Z_DIT_FILL;
}

int64_t z_dit_hidden(const struct z_dit_conf *c)
{
	return (int64_t)((double)c->dim / 3 * 8); /* rounded down as Python does */
}

int64_t z_dit_tokens(const void *state, int64_t h, int64_t w)
{
	const struct z_dit *m = state;

	return h / m->conf.patch_size * (w / m->conf.patch_size);
}

/* Captions of a batch, as formulas of the device. */
struct captions {
	at_t there_BL1;   /* bool: a token of the prompt, and no filler */
	at_t filled_B1;   /* float64: tokens with fillers; NULL: L, in every row */
	at_t absent_B11L; /* as places.bias_B11S; NULL: none is */
};

static struct captions captions_of(at_t length_B, int64_t B, int64_t given, at_t like)
{
	int64_t L = z_dit_filled(given);
	enum at_device dev = at_device_of(like);
	at_t l_1L = at_unsqueeze(at_arange(L, AT_F64, dev), 0);
	at_t length_B1 = length_B ? at_unsqueeze(at_cast(length_B, AT_F64), 1)
				  : at_full(DIMS(B, 1), (double)given, AT_F64, dev);
	struct captions c = { .there_BL1 = at_unsqueeze(at_lt(at_sub(l_1L, length_B1), 0), 2) };

	if (!length_B || L == Z_DIT_FILL) /* nobody has less */
		return c;
	c.filled_B1 =
	    at_mul(at_floor(at_div(at_add(length_B1, Z_DIT_FILL - 1.0), (double)Z_DIT_FILL)), Z_DIT_FILL);
	at_t none = at_full(DIMS(1), 0, at_dtype_of(like), dev);
	at_t absent_BL = at_where(at_lt(at_sub(l_1L, c.filled_B1), 0), none, at_add(none, -INFINITY));
	c.absent_B11L = at_unsqueeze(at_unsqueeze(absent_BL, 1), 1);
	return c;
}

/* Positions of the image: row by row behind the caption, fillers at the origin.  (N, 3), or (B, N, 3) where
 * captions differ. */
static at_t image_positions(const struct captions *c, int64_t L, int64_t h, int64_t w, enum at_device dev)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	double from[Z_DIT_AXES] = { c->filled_B1 ? 1 : (double)L + 1 };
	at_t pos = rope_grid(Z_DIT_AXES, h, w, from, dev);
	int64_t fillers = z_dit_filled(h * w) - h * w;

	if (c->filled_B1) {
		at_t shift_B13 = at_unsqueeze(at_pad(c->filled_B1, DIMS(0, Z_DIT_AXES - 1), 0), 1);
		pos = at_add(at_unsqueeze(pos, 0), shift_B13);
	}
	return at_return(s, at_pad(pos, DIMS(0, 0, 0, fillers), 0));
}

static struct places places_of(const struct z_dit *m, at_t pos_SA, at_t bias_B11S)
{
	struct places at = { .bias_B11S = bias_B11S };

	rope_angles(&m->conf.rope, pos_SA, &at.cos_SE, &at.sin_SE);
	return at;
}

/* The three that blocks run over. */
struct sequences {
	at_t there_BL1; /* as in captions */
	struct places image, caption, both;
};

/* The caption's rows behind the image's, which are the same for all samples or for each its own. */
static at_t joined(at_t image, at_t caption_LE)
{
	if (at_ndim(image) == 3)
		caption_LE = at_expand(at_unsqueeze(caption_LE, 0), DIMS(at_size(image, 0), -1, -1));
	return at_cat2(image, caption_LE, -2);
}

static struct places join(const struct places *image, const struct places *caption)
{
	struct places both = { .cos_SE = joined(image->cos_SE, caption->cos_SE),
			       .sin_SE = joined(image->sin_SE, caption->sin_SE) };

	if (caption->bias_B11S)
		both.bias_B11S = at_pad(caption->bias_B11S, DIMS(at_size(image->cos_SE, -2), 0), 0);
	return both;
}

/* A caption's row l stands at 1 + l, fillers included. */
static struct sequences sequences_of(const struct z_dit *m, at_t x_BChw, at_t text_BLE, at_t length_B)
{
	int64_t q = m->conf.patch_size, given = at_size(text_BLE, 1), L = z_dit_filled(given);
	int64_t h = at_size(x_BChw, 2) / q, w = at_size(x_BChw, 3) / q;
	enum at_device dev = at_device_of(x_BChw);
	struct captions c = captions_of(length_B, at_size(x_BChw, 0), given, x_BChw);
	double from[Z_DIT_AXES] = { 1 }, step[Z_DIT_AXES] = { 1 };
	struct sequences all = { .there_BL1 = c.there_BL1 };

	all.image = places_of(m, image_positions(&c, L, h, w, dev), NULL);
	all.caption = places_of(m, rope_line(Z_DIT_AXES, L, from, step, dev), c.absent_B11L);
	all.both = join(&all.image, &all.caption);
	return all;
}

static at_t embed_image(const struct z_dit *m, const struct pass *p, at_t x_BChw)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x_BND = nn_linear(&m->x_embedder, p, embed_patches(x_BChw, m->conf.patch_size, EMBED_YXC));
	int64_t n = at_size(x_BND, 1), fillers = z_dit_filled(n) - n;

	if (fillers)
		x_BND = at_cat2(
		    x_BND,
		    at_expand(at_unsqueeze(m->x_pad_1D, 0), DIMS(at_size(x_BND, 0), fillers, m->conf.dim)),
		    1);
	return at_return(s, x_BND);
}

static at_t embed_caption(const struct z_dit *m, const struct pass *p, at_t text_BLE, at_t there_BL1)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t fillers = at_size(there_BL1, 1) - at_size(text_BLE, 1);
	at_t e_BLE =
	    at_rms_norm(at_pad(text_BLE, DIMS(0, 0, 0, fillers), 0), m->cap_norm_E, m->conf.norm_eps);

	return at_return(s, at_where(there_BL1, nn_linear(&m->cap_embedder, p, e_BLE), m->cap_pad_1D));
}

/* ---- The forward --------------------------------------------------------------------------------- */

/* What modulations read: of the time, which runs from noise to image. */
static at_t condition(const struct z_dit *m, const struct pass *p, at_t t_B, enum at_dtype dt)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t time_B = at_mul(at_sub(t_B, 1000.0), -m->conf.t_scale / 1000);
	at_t c_BT = embed_mlp(&m->time1, &m->time2, p, embed_sinusoids(time_B, Z_DIT_TIME, dt));

	tap(c_BT, "t_embedder");
	return at_return(s, at_unsqueeze(c_BT, 1));
}

static at_t final(const struct z_dit *m, const struct pass *p, at_t x_BND, at_t c_B1T)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t scale_B1D = nn_linear(&m->final_ada, p, at_silu(c_B1T));
	at_t x = at_modulate(x_BND, at_zeros_like(scale_B1D), scale_B1D, LAST_EPS);

	return at_return(s, nn_linear(&m->final, p, x));
}

at_t z_dit_velocity(const void *state, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		    at_t guidance_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct z_dit *m = state;
	int64_t q = m->conf.patch_size, refiners = m->conf.n_refiner_layers;
	int64_t h = at_size(x_BChw, 2), w = at_size(x_BChw, 3);
	at_t length_B, text_BLE = cond_get(c, COND_TEXT, &length_B);
	struct sequences over = sequences_of(m, x_BChw, text_BLE, length_B);
	at_t c_B1T = condition(m, p, t_B, at_dtype_of(x_BChw)), h_BSD, v_BNF;
	at_t x_BND = embed_image(m, p, x_BChw), e_BLD = embed_caption(m, p, text_BLE, over.there_BL1);

	(void)guidance_B; /* the facts say that it takes none */
	tap(x_BND, "all_x_embedder.%lld-1", (long long)q);
	tap(e_BLD, "cap_embedder");
	x_BND = blocks(m, 0, refiners, "noise_refiner", p, &over.image, x_BND, c_B1T);
	e_BLD = blocks(m, refiners, refiners, "context_refiner", p, &over.caption, e_BLD, NULL);
	h_BSD = at_cat2(x_BND, e_BLD, 1);
	h_BSD = blocks(m, 2 * refiners, m->conf.n_layers, "layers", p, &over.both, h_BSD, c_B1T);
	v_BNF = final(m, p, at_contiguous(at_narrow(h_BSD, 1, 0, z_dit_tokens(m, h, w))), c_B1T);
	tap(v_BNF, "all_final_layer.%lld-1", (long long)q);
	return at_return(s, at_neg(embed_unpatch(v_BNF, h, w, q, EMBED_YXC)));
}

const char *z_dit_attention(const void *state, at_t x_BChw, const struct cond *c)
{
	const struct z_dit *m = state;
	int64_t N = z_dit_tokens(m, at_size(x_BChw, 2), at_size(x_BChw, 3)), H = m->conf.n_heads;

	return joint_kernel(z_dit_filled(N) + z_dit_filled(cond_tokens(c)), H, m->conf.dim / H,
			    at_dtype_of(m->x_pad_1D), at_device_of(m->x_pad_1D));
}

/* ---- What it costs ------------------------------------------------------------------------------- */

/* Between the products of a block are two norms with a scale, two with a gate, and silu(w1 u) w3 u, which
 * reads two hidden layers and writes one. */
static void block_cost(const struct z_dit *m, struct cost *c, double B, double S, double size)
{
	double D = (double)m->conf.dim, F = (double)z_dit_hidden(&m->conf);
	double scaled_norm = 2 + 2, gated_norm = 2 + 3, swiglu = 2 + 3;

	joint_attention_cost(c, B, S, D, size);
	cost_op(c, COST_ELEMENTS, 0, size * B * S * (D * (2 * scaled_norm + 2 * gated_norm) + F * swiglu));
}

/* Fillers are computed like other tokens. */
void z_dit_cost(const void *state, struct cost *c, const struct cost_shape *given)
{
	const struct z_dit *m = state;
	struct cost_shape s = *given;
	int64_t N = z_dit_filled(z_dit_tokens(m, s.h, s.w));

	s.text_tokens = z_dit_filled(s.text_tokens);
	double B = (double)s.batch, image = (double)N, caption = (double)s.text_tokens;
	cost_sites(c, &m->net, &s, N);
	for (int64_t i = 0; i < m->conf.n_refiner_layers; i++) {
		block_cost(m, c, B, image, s.size);
		block_cost(m, c, B, caption, s.size);
	}
	for (int64_t i = 0; i < m->conf.n_layers; i++)
		block_cost(m, c, B, image + caption, s.size);
}
