/*
 * flux2_forward.c -- the forward of FLUX.2's transformer.
 * Shapes: B batch, C channels of h x w latents, N image tokens, L text tokens, S = N + L (image first), D = H
 * K width (H heads of K), E = K / 2, F hidden channels of a feed-forward.
 */
#include "models/block.h"
#include "models/flux2/flux2.h"
#include "models/layers/embed.h"
#include "models/taps.h"

/* The chunks of a double block's modulation, in the order of its rows: attention, feed-forward. */
enum mod { SHIFT_A, SCALE_A, GATE_A, SHIFT_F, SCALE_F, GATE_F, MODS };

/* silu of the conditioning: what every modulation reads. */
static at_t condition(const struct flux2 *m, const struct pass *p, at_t t_B, at_t guidance_B,
		      enum at_dtype dt)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t T = m->conf.timestep_guidance_channels;
	at_t c_BD = embed_mlp(&m->time[0], &m->time[1], p, embed_sinusoids(t_B, T, dt));

	if (m->conf.guidance_embeds) {
		at_t g_BT = embed_sinusoids(at_mul(at_cast(guidance_B, AT_F32), 1000.0), T, dt);

		c_BD = at_add(c_BD, embed_mlp(&m->guidance[0], &m->guidance[1], p, g_BT));
	}
	tap(c_BD, "time_guidance_embed");
	return at_return(s, at_unsqueeze(at_silu(c_BD), 1));
}

/* Image tokens stand at (0, row, column, 0), text tokens at (0, 0, 0, place in the text). */
static void angles(const struct flux2 *m, int64_t h, int64_t w, int64_t L, enum at_device dev, at_t *cos_SE,
		   at_t *sin_SE)
{
	static const double origin[ROPE_AXES] = { 0 }, along[ROPE_AXES] = { 0, 0, 0, 1 };
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int axes = m->conf.rope.axes;
	at_t image_NA = rope_grid(axes, h, w, origin, dev), text_LA = rope_line(axes, L, origin, along, dev);

	rope_angles(&m->conf.rope, at_cat2(image_NA, text_LA, 0), cos_SE, sin_SE);
	at_escape(s, *cos_SE);
	at_escape(s, *sin_SE);
	at_end(s);
}

/* silu(first half) times the second. */
static at_t gated(at_t up_BSF)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t half[2];

	at_chunk(2, half, up_BSF, -1);
	return at_return(s, at_mul(at_silu(half[0]), half[1]));
}

/* ---- Blocks of two streams ----------------------------------------------------------------------- */

struct call {
	const struct flux2 *m;
	int64_t i;
};
/* What a block is given; one of one stream has its tokens and modulation at IMAGE and MOD_IMAGE. */
enum { IMAGE, MOD_IMAGE, COS, SIN, SINGLE_INPUTS, TEXT = SINGLE_INPUTS, MOD_TEXT, INPUTS };

static at_t product(const struct flux2 *m, const struct flux2_stream *t, const struct pass *p, at_t x_BSD,
		    const at_t *mod)
{
	at_t u_BSD = at_modulate(x_BSD, mod[SHIFT_A], mod[SCALE_A], m->conf.eps);

	return at_view(
	    nn_linear(&t->qkv, p, u_BSD),
	    DIMS(-1, at_size(x_BSD, 1), 3, m->conf.num_attention_heads, m->conf.attention_head_dim));
}

/* The rest of a block after attention's o. */
static at_t finish(const struct flux2 *m, const struct flux2_stream *t, const struct pass *p, at_t x_BSD,
		   at_t o_BSD, const at_t *mod)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	/* of a view that is not contiguous, libtorch would make B small products */
	at_t y_BSD = nn_linear(&t->out, p, at_contiguous(o_BSD)), h_BSD, m_BSD;

	at_gate_modulate(x_BSD, mod[GATE_A], y_BSD, mod[SHIFT_F], mod[SCALE_F], m->conf.eps, &h_BSD, &m_BSD);
	y_BSD = nn_linear(&t->down, p, gated(nn_linear(&t->up, p, m_BSD)));
	return at_return(s, joint_in_range(at_gate(h_BSD, mod[GATE_F], y_BSD)));
}

static void run_double(const void *ctx, const struct pass *p, const at_t *in, at_t *out)
{
	const struct call *k = ctx;
	const struct flux2_block *b = &k->m->block[k->i];
	const struct flux2_stream *stream[2] = { &b->image, &b->text };
	const at_t x_BSD[2] = { in[IMAGE], in[TEXT] }, mod_B1M[2] = { in[MOD_IMAGE], in[MOD_TEXT] };
	struct joint_input with = { NULL, in[COS], in[SIN], NULL };
	at_t mod[2][MODS], all_BS3HK[2], norm_q_K[2], norm_k_K[2], o_BSD[2];
	int64_t tokens[2] = { at_size(in[IMAGE], 1), at_size(in[TEXT], 1) };

	for (int i = 0; i < 2; i++) {
		at_chunk(MODS, mod[i], mod_B1M[i], -1);
		all_BS3HK[i] = product(k->m, stream[i], p, x_BSD[i], mod[i]);
		norm_q_K[i] = stream[i]->norm_q_K;
		norm_k_K[i] = stream[i]->norm_k_K;
	}
	at_split(2, o_BSD, tokens, joint_attention(2, all_BS3HK, norm_q_K, norm_k_K, true, &with), 1);
	for (int i = 0; i < 2; i++)
		out[i] = finish(k->m, stream[i], p, x_BSD[i], o_BSD[i], mod[i]);
}

/* ---- Blocks of one stream ------------------------------------------------------------------------ */

static void run_single(const void *ctx, const struct pass *p, const at_t *in, at_t *out)
{
	const struct call *k = ctx;
	const struct flux2_single *b = &k->m->single[k->i];
	struct joint_input with = { NULL, in[COS], in[SIN], NULL };
	int64_t H = k->m->conf.num_attention_heads, K = k->m->conf.attention_head_dim, D = k->m->width;
	int64_t rows[2] = { 3 * D, 2 * k->m->hidden }, S = at_size(in[IMAGE], 1);
	at_t mod[3], part[2], both[2], all_BS3HK;

	at_chunk(3, mod, in[MOD_IMAGE], -1); /* shift, scale, gate */
	at_t u_BSD = at_modulate(in[IMAGE], mod[0], mod[1], k->m->conf.eps);
	at_split(2, part, rows, nn_linear(&b->all, p, u_BSD), -1);
	all_BS3HK = at_reshape(part[0], DIMS(-1, S, 3, H, K));
	both[0] = joint_attention(1, &all_BS3HK, &b->norm_q_K, &b->norm_k_K, true, &with);
	both[1] = gated(part[1]);
	out[0] = joint_in_range(at_gate(in[IMAGE], mod[2], nn_linear(&b->out, p, at_cat(2, both, -1))));
}

/* ---- The whole ----------------------------------------------------------------------------------- */

/* Block `number` of the network, number i of its kind. */
static void run(const struct flux2 *m, int64_t number, int64_t i, bool two, const struct pass *p,
		const at_t *in, at_t *out)
{
	void (*f)(const void *, const struct pass *, const at_t *, at_t *) = two ? run_double : run_single;
	struct call k = { m, i };

	if (number < p->checkpoint_blocks && at_grad_enabled())
		block_checkpoint(&m->net, (int)number, p, f, &k, sizeof k, two ? INPUTS : SINGLE_INPUTS, in,
				 two ? 2 : 1, out);
	else
		f(&k, p, in, out);
}

/* in[IMAGE], and in[TEXT] where there are two streams, move on by a block. */
static void step(const struct flux2 *m, int64_t number, int64_t i, bool two, const struct pass *p, at_t *in)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t out[2];

	run(m, number, i, two, p, in, out);
	at_replace(s, &in[IMAGE], out[0]);
	if (two)
		at_replace(s, &in[TEXT], out[1]);
	at_end(s);
}

/* Image tokens through all blocks, to just before the last modulation. */
static at_t run_blocks(const struct flux2 *m, const struct pass *p, at_t *in, at_t mod_single_B1M)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t N = at_size(in[IMAGE], 1), L = at_size(in[TEXT], 1), doubles = m->conf.num_layers;

	for (int64_t i = 0; i < doubles; i++) {
		step(m, i, i, true, p, in);
		tap(in[IMAGE], "transformer_blocks.%lld", (long long)i);
		tap(in[TEXT], "transformer_blocks.%lld.context", (long long)i);
	}
	at_t one[SINGLE_INPUTS] = { [IMAGE] = at_cat2(in[IMAGE], in[TEXT], 1),
				    [MOD_IMAGE] = mod_single_B1M,
				    [COS] = in[COS],
				    [SIN] = in[SIN] };
	for (int64_t i = 0; i < m->conf.num_single_layers; i++) {
		step(m, doubles + i, i, false, p, one);
		tap(at_narrow(one[IMAGE], 1, 0, N), "single_transformer_blocks.%lld", (long long)i);
		tap(at_narrow(one[IMAGE], 1, N, L), "single_transformer_blocks.%lld.context", (long long)i);
	}
	return at_return(s, at_contiguous(at_narrow(one[IMAGE], 1, 0, N)));
}

at_t flux2_velocity(const void *state, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		    at_t guidance_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct flux2 *m = state;
	at_t text_BLE = cond_get(c, COND_TEXT, NULL), in[INPUTS], mod[2];
	at_t y_B1D = condition(m, p, t_B, guidance_B, at_dtype_of(text_BLE));
	int64_t h = at_size(x_BChw, 2), w = at_size(x_BChw, 3);

	in[IMAGE] = nn_linear(&m->image, p, embed_patches(x_BChw, 1, EMBED_CYX));
	in[TEXT] = nn_linear(&m->text, p, text_BLE);
	tap(in[IMAGE], "x_embedder");
	tap(in[TEXT], "context_embedder");
	in[MOD_IMAGE] = nn_linear(&m->mod_image, p, y_B1D);
	in[MOD_TEXT] = nn_linear(&m->mod_text, p, y_B1D);
	angles(m, h, w, at_size(text_BLE, 1), at_device_of(x_BChw), &in[COS], &in[SIN]);
	at_t x_BND = run_blocks(m, p, in, nn_linear(&m->mod_single, p, y_B1D));
	at_chunk(2, mod, nn_linear(&m->norm_out, p, y_B1D), -1); /* scale, shift */
	x_BND = at_modulate(x_BND, mod[1], mod[0], m->conf.eps);
	tap(x_BND, "norm_out");
	x_BND = nn_linear(&m->proj_out, p, x_BND);
	tap(x_BND, "proj_out");
	return at_return(s, embed_unpatch(x_BND, h, w, 1, EMBED_CYX));
}
