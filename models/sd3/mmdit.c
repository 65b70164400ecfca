/*
 * mmdit.c -- the forward of SD3's joint transformer.
 * Shapes: B batch, N image tokens (h x w patches of p x p), L text tokens, S = N + L, D = H * K width (H
 * heads of K), C channels, E text channels, P pooled channels, M side of the grid of positions.
 */
#include "models/sd3/mmdit.h"
#include "models/block.h"
#include "models/layers/embed.h"
#include "models/taps.h"

#define EPS 1e-6

/* The chunks of an adaLN product in diffusers' order: attention, feed-forward, second attention. */
enum mod { SHIFT_A, SCALE_A, GATE_A, SHIFT_F, SCALE_F, GATE_F, SHIFT_2, SCALE_2, GATE_2, MODS };

struct qkv {
	at_t q_BSHK, k_BSHK, v_BSHK;
};

/* Queries, keys and values of the tokens of n streams, one after the other. */
static struct qkv project(const struct mmdit *m, int n, const struct mmdit_attention *const *a,
			  const struct pass *p, const at_t *x_BSD, bool all_queries)
{
	int64_t H = m->conf.num_attention_heads, K = m->conf.attention_head_dim;
	at_t all_BS3HK[2], norm_q_K[2], norm_k_K[2];
	struct qkv r;

	for (int i = 0; i < n; i++) {
		all_BS3HK[i] =
		    at_view(nn_linear(&a[i]->qkv, p, x_BSD[i]), DIMS(-1, at_size(x_BSD[i], 1), 3, H, K));
		norm_q_K[i] = a[i]->norm_q_K;
		norm_k_K[i] = a[i]->norm_k_K;
	}
	at_qkv(n, all_BS3HK, norm_q_K, norm_k_K, all_queries, EPS, &r.q_BSHK, &r.k_BSHK, &r.v_BSHK);
	return r;
}

static at_t attend(struct qkv r)
{
	at_t o_BHSK = at_sdpa(at_transpose(r.q_BSHK, 1, 2), at_transpose(r.k_BSHK, 1, 2),
			      at_transpose(r.v_BSHK, 1, 2), NULL, false, 0);

	return at_flatten(at_transpose(o_BHSK, 1, 2), 2, 3);
}

int64_t mmdit_tokens(const struct mmdit *m, int64_t h, int64_t w)
{
	return h / m->conf.patch_size * (w / m->conf.patch_size);
}

const char *mmdit_attention(const struct mmdit *m, at_t x_BCHW, at_t text_BLE)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t S = mmdit_tokens(m, at_size(x_BCHW, 2), at_size(x_BCHW, 3)) + at_size(text_BLE, 1);
	at_t o_BSHK = at_empty(DIMS(1, S, m->conf.num_attention_heads, m->conf.attention_head_dim),
			       at_dtype_of(m->patch_b_D), at_device_of(m->patch_b_D));
	at_t o_BHSK = at_transpose(o_BSHK, 1, 2);
	const char *name = at_sdpa_kernel(o_BHSK, o_BHSK, o_BHSK);

	at_end(s);
	return name;
}

/* Attention of both streams over all tokens, image first; *text_BLD stays NULL where nothing reads it. */
static void joint_attention(const struct mmdit *m, const struct mmdit_block *b, const struct pass *p,
			    at_t x_BND, at_t c_BLD, at_t *image_BND, at_t *text_BLD)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct mmdit_attention *const streams[2] = { &b->image.attn, &b->text.attn };
	/* the text's own queries would only make text, which ends with the last block */
	struct qkv r = project(m, 2, streams, p, (at_t[]) { x_BND, c_BLD }, !b->last);
	int64_t N = at_size(x_BND, 1), L = at_size(c_BLD, 1);
	at_t o_BSD = attend(r);

	if (b->last) {
		*image_BND = at_escape(s, nn_linear(&b->image.attn.out, p, o_BSD));
		*text_BLD = NULL;
	} else { /* of a view that is not contiguous, libtorch would make B small products */
		at_t part[2];

		at_split(2, part, (int64_t[]) { N, L }, o_BSD, 1);
		*image_BND = at_escape(s, nn_linear(&b->image.attn.out, p, at_contiguous(part[0])));
		*text_BLD = at_escape(s, nn_linear(&b->text.attn.out, p, at_contiguous(part[1])));
	}
	at_end(s);
}

static at_t self_attention(const struct mmdit *m, const struct mmdit_attention *a, const struct pass *p,
			   at_t x_BND)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	return at_return(s, nn_linear(&a->out, p, attend(project(m, 1, &a, p, &x_BND, true))));
}

/* The rest of a block after an attention's y: h = x + gate * y, and h + gate * MLP(modulated h). */
static at_t feed_forward(const struct mmdit_stream *t, const struct pass *p, at_t x_BSD, at_t gate_B1D,
			 at_t y_BSD, const at_t *mod)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS); /* the hidden layer, 4 D wide, dies here */
	at_t h_BSD, m_BSD;

	at_gate_modulate(x_BSD, gate_B1D, y_BSD, mod[SHIFT_F], mod[SCALE_F], EPS, &h_BSD, &m_BSD);
	return at_return(
	    s, at_gate(h_BSD, mod[GATE_F], nn_linear(&t->down, p, nn_linear_gelu(&t->up, p, m_BSD))));
}

/* y_B1D is silu(temb), the same in every block.  The last block consumes the text: *c_BLD is stale after it.
 */
static void block_forward(const struct mmdit *m, const struct mmdit_block *b, const struct pass *p,
			  at_t *x_BND, at_t *c_BLD, at_t y_B1D)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x[MODS], c[MODS], image, text, h;

	at_chunk(b->dual ? 9 : 6, x, nn_linear(&b->image.ada, p, y_B1D), -1);
	at_chunk(b->last ? 2 : 6, c, nn_linear(&b->text.ada, p, y_B1D), -1);
	/* AdaLayerNormContinuous of the last block has scale before shift */
	h = b->last ? at_modulate(*c_BLD, c[1], c[0], EPS) : at_modulate(*c_BLD, c[SHIFT_A], c[SCALE_A], EPS);
	joint_attention(m, b, p, at_modulate(*x_BND, x[SHIFT_A], x[SCALE_A], EPS), h, &image, &text);

	if (b->dual) { /* attn2 reads the block's input, not what attn made of it */
		h = at_gate(*x_BND, x[GATE_A], image);
		image = self_attention(m, &b->attn2, p, at_modulate(*x_BND, x[SHIFT_2], x[SCALE_2], EPS));
		h = feed_forward(&b->image, p, h, x[GATE_2], image, x);
	} else {
		h = feed_forward(&b->image, p, *x_BND, x[GATE_A], image, x);
	}
	at_replace(s, x_BND, h);
	if (!b->last)
		at_replace(s, c_BLD, feed_forward(&b->text, p, *c_BLD, c[GATE_A], text, c));
	at_end(s);
}

/* ---- Gradient checkpointing ---------------------------------------------------------------------- */

struct block_call {
	const struct mmdit *m;
	const struct mmdit_block *b;
};

/* in: image, text, condition; out: image and, unless the block is the last, text. */
static void run_block(const void *ctx, const struct pass *p, const at_t *in, at_t *out)
{
	const struct block_call *k = ctx;
	at_t x_BND = in[0], c_BLD = in[1];

	block_forward(k->m, k->b, p, &x_BND, &c_BLD, in[2]);
	out[0] = x_BND;
	if (!k->b->last)
		out[1] = c_BLD;
}

static void checkpointed_block(const struct mmdit *m, const struct mmdit_block *b, const struct pass *p,
			       at_t *x_BND, at_t *c_BLD, at_t y_B1D)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	struct block_call k = { m, b };
	at_t in[3] = { *x_BND, *c_BLD, y_B1D }, out[2];

	block_checkpoint(&m->net, (int)(b - m->block), p, run_block, &k, sizeof k, 3, in, b->last ? 1 : 2,
			 out);
	at_replace(s, x_BND, out[0]);
	if (!b->last)
		at_replace(s, c_BLD, out[1]);
	at_end(s);
}

/* ---- The two ends ---------------------------------------------------------------------------- */

/* Patches as tokens, with the middle h x w of the grid of positions added. */
static at_t embed_image(const struct mmdit *m, at_t x_BCHW)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t p = m->conf.patch_size, h = at_size(x_BCHW, 2) / p, w = at_size(x_BCHW, 3) / p;
	int64_t M = m->conf.pos_embed_max_size, D = m->width;
	at_t patches_BNF = embed_patches(x_BCHW, p, EMBED_CYX);
	at_t pos_MMD = at_view(m->pos_embed_1MD, DIMS(M, M, D));
	at_t pos_hwD = at_narrow(at_narrow(pos_MMD, 0, (M - h) / 2, h), 1, (M - w) / 2, w);
	at_t tokens_BND = at_linear(patches_BNF, at_view(m->patch_w_DCpp, DIMS(D, -1)), m->patch_b_D);

	return at_return(s, at_add(tokens_BND, at_reshape(pos_hwD, DIMS(1, h * w, D))));
}

/* silu(temb): what every adaLN product of the network reads. */
static at_t condition(const struct mmdit *m, const struct pass *p, at_t t_B, at_t pooled_BP)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t t_BT = embed_sinusoids(t_B, MMDIT_TIME, at_dtype_of(pooled_BP));
	at_t t_BD = embed_mlp(&m->time1, &m->time2, p, t_BT);
	at_t pooled_BD = embed_mlp(&m->pool1, &m->pool2, p, pooled_BP);

	return at_return(s, at_unsqueeze(at_silu(at_add(t_BD, pooled_BD)), 1));
}

at_t mmdit_forward(const struct mmdit *m, const struct pass *p, at_t x_BCHW, at_t t_B, at_t text_BLE,
		   at_t pooled_BP)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t y_B1D = condition(m, p, t_B, pooled_BP), mod[2];
	at_t x_BND = embed_image(m, x_BCHW), c_BLD = nn_linear(&m->context, p, text_BLE);

	tap(x_BND, "pos_embed");
	tap(c_BLD, "context_embedder");
	tap(y_B1D, "silu(time_text_embed)");
	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		bool again = i < p->checkpoint_blocks && at_grad_enabled();
		(again ? checkpointed_block : block_forward)(m, &m->block[i], p, &x_BND, &c_BLD, y_B1D);
		tap(x_BND, "transformer_blocks.%lld", (long long)i);
		if (!m->block[i].last)
			tap(c_BLD, "transformer_blocks.%lld.context", (long long)i);
	}
	at_chunk(2, mod, nn_linear(&m->norm_out, p, y_B1D), -1); /* scale, shift */
	x_BND = at_modulate(x_BND, mod[1], mod[0], EPS);
	tap(x_BND, "norm_out");
	x_BND = nn_linear(&m->proj_out, p, x_BND);
	tap(x_BND, "proj_out");
	return at_return(
	    s, embed_unpatch(x_BND, at_size(x_BCHW, 2), at_size(x_BCHW, 3), m->conf.patch_size, EMBED_YXC));
}
