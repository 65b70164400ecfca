/*
 * flux_forward.c -- the forward of FLUX.1's transformer.
 * Shapes: B batch, C channels of h x w latents, N image tokens, L text tokens, S = N + L (image first), F = 4
 * C features of a token, D = H K width (H heads of K), E = K / 2, P pooled channels.
 */
#include "models/block.h"
#include "models/flux/flux.h"
#include "models/layers/embed.h"
#include "models/taps.h"

#define EPS 1e-6

/* silu of the conditioning: what every modulation of the network reads. */
static at_t condition(const struct flux *m, const struct pass *p, at_t t_B, at_t pooled_BP, at_t guidance_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	enum at_dtype dt = at_dtype_of(pooled_BP);
	at_t c_BD = embed_mlp(&m->time[0], &m->time[1], p, embed_sinusoids(t_B, FLUX_TIME, dt));

	if (m->conf.guidance_embeds) {
		at_t g_BT = embed_sinusoids(at_mul(at_cast(guidance_B, AT_F32), 1000.0), FLUX_TIME, dt);

		c_BD = at_add(c_BD, embed_mlp(&m->guidance[0], &m->guidance[1], p, g_BT));
	}
	c_BD = at_add(c_BD, embed_mlp(&m->pooled[0], &m->pooled[1], p, pooled_BP));
	tap(c_BD, "time_text_embed");
	return at_return(s, at_unsqueeze(at_silu(c_BD), 1));
}

/* Text stands at the origin, image tokens at (0, row, column). */
static void angles(const struct flux *m, int64_t h, int64_t w, int64_t L, enum at_device dev, at_t *cos_SE,
		   at_t *sin_SE)
{
	static const double origin[ROPE_AXES] = { 0 };
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int axes = m->conf.rope.axes;
	at_t image_NA = rope_grid(axes, h / FLUX_PATCH, w / FLUX_PATCH, origin, dev);
	at_t text_LA = rope_line(axes, L, origin, origin, dev);

	rope_angles(&m->conf.rope, at_cat2(image_NA, text_LA, 0), cos_SE, sin_SE);
	at_escape(s, *cos_SE);
	at_escape(s, *sin_SE);
	at_end(s);
}

/* ---- Blocks of one stream ------------------------------------------------------------------------ */

struct call {
	const struct flux *m;
	const struct flux_single *b;
};
enum { TOKENS, CONDITION, COS, SIN, INPUTS };

static void run_single(const void *ctx, const struct pass *p, const at_t *in, at_t *out)
{
	const struct call *k = ctx;
	const struct flux_single *b = k->b;
	struct joint_input with = { in[CONDITION], in[COS], in[SIN], NULL };
	int64_t H = k->m->conf.num_attention_heads, K = k->m->conf.attention_head_dim;
	at_t mod[3], h_BSD = in[TOKENS], u_BSD, all_BS3HK, both[2];

	at_chunk(3, mod, nn_linear(&b->ada, p, with.y_B1D), -1); /* shift, scale, gate */
	u_BSD = at_modulate(h_BSD, mod[0], mod[1], EPS);
	all_BS3HK = at_view(nn_linear(&b->qkv, p, u_BSD), DIMS(-1, at_size(h_BSD, 1), 3, H, K));
	both[0] = joint_attention(1, &all_BS3HK, &b->norm_q_K, &b->norm_k_K, true, &with);
	both[1] = nn_linear_gelu(&b->up, p, u_BSD);
	out[0] = joint_in_range(at_gate(h_BSD, mod[2], nn_linear(&b->out, p, at_cat(2, both, -1))));
}

static void single(const struct flux *m, int64_t i, const struct pass *p, at_t *h_BSD,
		   const struct joint_input *with)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	struct call k = { m, &m->single[i] };
	int64_t number = m->conf.num_layers + i;
	at_t in[INPUTS] = { *h_BSD, with->y_B1D, with->cos_SE, with->sin_SE }, out;

	if (number < p->checkpoint_blocks && at_grad_enabled())
		block_checkpoint(&m->net, (int)number, p, run_single, &k, sizeof k, INPUTS, in, 1, &out);
	else
		run_single(&k, p, in, &out);
	at_replace(s, h_BSD, out);
	at_end(s);
}

/* ---- The whole ----------------------------------------------------------------------------------- */

/* Image tokens through all blocks, to just before the last modulation. */
static at_t run_blocks(const struct flux *m, const struct pass *p, at_t x_BND, at_t c_BLD,
		       const struct joint_input *with)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t N = at_size(x_BND, 1), L = at_size(c_BLD, 1);

	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		joint_run(&m->block[i], &m->net, (int)i, p, &x_BND, &c_BLD, with);
		tap(x_BND, "transformer_blocks.%lld", (long long)i);
		tap(c_BLD, "transformer_blocks.%lld.context", (long long)i);
	}
	at_t h_BSD = at_cat2(x_BND, c_BLD, 1);
	for (int64_t i = 0; i < m->conf.num_single_layers; i++) {
		single(m, i, p, &h_BSD, with);
		tap(at_narrow(h_BSD, 1, 0, N), "single_transformer_blocks.%lld", (long long)i);
		tap(at_narrow(h_BSD, 1, N, L), "single_transformer_blocks.%lld.context", (long long)i);
	}
	return at_return(s, at_contiguous(at_narrow(h_BSD, 1, 0, N)));
}

at_t flux_velocity(const void *state, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		   at_t guidance_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct flux *m = state;
	at_t text_BLE = cond_get(c, COND_TEXT, NULL), mod[2];
	int64_t h = at_size(x_BChw, 2), w = at_size(x_BChw, 3);
	struct joint_input with = { condition(m, p, t_B, cond_get(c, COND_POOLED, NULL), guidance_B), NULL,
				    NULL, NULL };
	at_t x_BND = nn_linear(&m->image, p, embed_patches(x_BChw, FLUX_PATCH, EMBED_CYX));
	at_t c_BLD = nn_linear(&m->text, p, text_BLE);

	tap(x_BND, "x_embedder");
	tap(c_BLD, "context_embedder");
	angles(m, h, w, at_size(text_BLE, 1), at_device_of(x_BChw), &with.cos_SE, &with.sin_SE);
	x_BND = run_blocks(m, p, x_BND, c_BLD, &with);
	at_chunk(2, mod, nn_linear(&m->norm_out, p, with.y_B1D), -1); /* scale, shift */
	x_BND = at_modulate(x_BND, mod[1], mod[0], EPS);
	tap(x_BND, "norm_out");
	x_BND = nn_linear(&m->proj_out, p, x_BND);
	tap(x_BND, "proj_out");
	return at_return(s, embed_unpatch(x_BND, h, w, FLUX_PATCH, EMBED_CYX));
}
