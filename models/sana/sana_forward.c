/*
 * sana_forward.c -- the forward of SANA's transformer.
 * Shapes: B batch, C channels of h x w latents, N = h w tokens (of the patches, where these are larger), L
 * text tokens of E channels, D = H K width (H heads of K channels), X width of attention to the text, F
 * hidden channels of a feed-forward, G = 2 F.
 */
#include "aten/images.h"
#include "models/block.h"
#include "models/layers/embed.h"
#include "models/layers/joint.h"
#include "models/sana/sana.h"
#include "models/taps.h"
#include <math.h>

#define LAST_EPS 1e-6  /* of the norm behind the blocks */
#define HEAD_EPS 1e-5  /* of queries, keys and the text's states */
#define SUM_EPS  1e-15 /* added to what linear attention divides by */

/* What a block is given.  Where there is no bias, a checkpoint puts other tensors in its place. */
enum { IMAGE, TEXT, MODULATION, BIAS, INPUTS };
struct call {
	const struct sana *m;
	int64_t i, h, w; /* the block; rows and columns of tokens */
	bool biased;
};

static at_t normed(at_t x_BSD, at_t norm_D)
{
	return norm_D ? at_rms_norm(x_BSD, norm_D, HEAD_EPS) : x_BSD;
}

static at_t heads(at_t x_BSD, int64_t K)
{
	return at_transpose(at_reshape(x_BSD, DIMS(at_size(x_BSD, 0), at_size(x_BSD, 1), -1, K)), 1, 2);
}

/* Every query sees a sum over all keys, not each of them: relu(q) (sum of relu(k) v) / relu(q) (sum of
 * relu(k)), in float32. */
static at_t linear_attention(const struct sana *m, const struct sana_block *b, const struct pass *p,
			     at_t u_BND)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t K = m->conf.attention_head_dim;
	at_t part_BND[3];

	at_chunk(3, part_BND, nn_linear(&b->qkv, p, u_BND), -1);
	at_t q_BHNK = at_cast(at_relu(heads(normed(part_BND[0], b->norm_q_D), K)), AT_F32);
	at_t k_BHNK = at_cast(at_relu(heads(normed(part_BND[1], b->norm_k_D), K)), AT_F32);
	at_t v_BHNK = at_cast(heads(part_BND[2], K), AT_F32);
	at_t sum_BHKK = at_matmul(at_transpose(k_BHNK, 2, 3), v_BHNK);
	at_t weight_BHN1 = at_matmul(q_BHNK, at_transpose(at_sum_dim(k_BHNK, 2, true), 2, 3));
	at_t o_BHNK = at_div(at_matmul(q_BHNK, sum_BHKK), at_add(weight_BHN1, SUM_EPS));
	at_t o_BND = at_flatten(at_transpose(at_cast(o_BHNK, at_dtype_of(u_BND)), 1, 2), 2, 3);

	return at_return(s, joint_in_range(nn_linear(&b->out, p, o_BND)));
}

static at_t cross_attention(const struct sana *m, const struct sana_block *b, const struct pass *p,
			    at_t x_BND, at_t text_BLD, at_t bias_B11L)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t K = m->conf.cross_attention_head_dim;
	at_t kv_BLX[2];

	at_chunk(2, kv_BLX, nn_linear(&b->cross_kv, p, text_BLD), -1);
	at_t o_BHNK =
	    at_sdpa(heads(normed(nn_linear(&b->cross_q, p, x_BND), b->cross_norm_q_X), K),
		    heads(normed(kv_BLX[0], b->cross_norm_k_X), K), heads(kv_BLX[1], K), bias_B11L, false, 0);

	return at_return(s, nn_linear(&b->cross_out, p, at_flatten(at_transpose(o_BHNK, 1, 2), 2, 3)));
}

/* A 1 x 1 convolution of tokens. */
static at_t pointwise(at_t x_BNI, at_t w_OI11, at_t b_O)
{
	return at_linear(x_BNI, at_view(w_OI11, DIMS(at_size(w_OI11, 0), at_size(w_OI11, 1))), b_O);
}

static at_t feed_forward(const struct sana_block *b, at_t u_BND, int64_t h, int64_t w)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t u_BNG = at_silu(pointwise(u_BND, b->up_w_GD11, b->up_b_G)), half_BNF[2];
	int64_t G = at_size(u_BNG, 2);
	at_t u_BGhw = at_reshape(at_transpose(u_BNG, 1, 2), DIMS(-1, G, h, w));

	u_BGhw = at_conv2d_grouped(u_BGhw, b->depth_w_G133, b->depth_b_G, 1, 1, G);
	at_chunk(2, half_BNF, at_transpose(at_flatten(u_BGhw, 2, 3), 1, 2), -1);
	return at_return(s, pointwise(at_mul(half_BNF[0], at_silu(half_BNF[1])), b->down_w_DF11, NULL));
}

static void run_block(const void *ctx, const struct pass *p, const at_t *in, at_t *out)
{
	const struct call *k = ctx;
	const struct sana *m = k->m;
	const struct sana_block *b = &m->block[k->i];
	double eps = m->conf.norm_eps;
	at_t mod[SANA_MODS], x_BND = in[IMAGE];

	at_chunk(SANA_MODS, mod, at_add(in[MODULATION], b->table_MD), 1);
	x_BND =
	    at_gate(x_BND, mod[SANA_GATE_A],
		    linear_attention(m, b, p, at_modulate(x_BND, mod[SANA_SHIFT_A], mod[SANA_SCALE_A], eps)));
	x_BND = at_add(x_BND, cross_attention(m, b, p, x_BND, in[TEXT], k->biased ? in[BIAS] : NULL));
	at_t u_BND = at_modulate(x_BND, mod[SANA_SHIFT_F], mod[SANA_SCALE_F], eps);
	out[0] = at_gate(x_BND, mod[SANA_GATE_F], feed_forward(b, u_BND, k->h, k->w));
}

static at_t run_blocks(const struct sana *m, const struct pass *p, at_t x_BND, at_t text_BLD, at_t mod_BMD,
		       at_t bias_B11L, int64_t h, int64_t w)
{
	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		struct at_scope *s = at_begin(AT_GRAD_AS_IS);
		struct call k = { m, i, h, w, bias_B11L != NULL };
		at_t in[INPUTS] = { x_BND, text_BLD, mod_BMD, bias_B11L }, out;

		if (i < p->checkpoint_blocks && at_grad_enabled())
			block_checkpoint(&m->net, (int)i, p, run_block, &k, sizeof k,
					 k.biased ? INPUTS : BIAS, in, 1, &out);
		else
			run_block(&k, p, in, &out);
		at_replace(s, &x_BND, out);
		at_end(s);
		tap(x_BND, "transformer_blocks.%lld", (long long)i);
	}
	return x_BND;
}

/* (B, 1, 1, L): nobody attends to what fills a prompt up. */
static at_t mask(at_t length_B, int64_t L, enum at_dtype dt)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	enum at_device dev = at_device_of(length_B);
	at_t left_BL =
	    at_sub(at_unsqueeze(at_arange(L, AT_F32, dev), 0), at_unsqueeze(at_cast(length_B, AT_F32), 1));
	at_t bias_BL =
	    at_where(at_lt(left_BL, 0), at_zeros(DIMS(1), dt, dev), at_full(DIMS(1), -INFINITY, dt, dev));

	return at_return(s, at_view(bias_BL, DIMS(-1, 1, 1, L)));
}

static at_t embed_image(const struct sana *m, at_t x_BChw)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x_BNF = embed_patches(x_BChw, m->conf.patch_size, EMBED_CYX);

	return at_return(
	    s, at_linear(x_BNF, at_view(m->patch_w_DCpp, DIMS(m->width, at_size(x_BNF, 2))), m->patch_b_D));
}

static at_t embed_text(const struct sana *m, const struct pass *p, at_t text_BLE)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t x_BLD = nn_linear(&m->caption[1], p, nn_linear_gelu(&m->caption[0], p, text_BLE));

	return at_return(s, at_rms_norm(x_BLD, m->caption_norm_D, HEAD_EPS));
}

at_t sana_velocity(const void *state, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		   at_t guidance_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct sana *m = state;
	enum at_dtype dt = at_dtype_of(x_BChw);
	at_t length_B, text_BLE = cond_get(c, COND_TEXT, &length_B), last[2];
	int64_t D = m->width, q = m->conf.patch_size, h = at_size(x_BChw, 2), w = at_size(x_BChw, 3);
	at_t time_BT = embed_sinusoids(at_mul(t_B, m->conf.timestep_scale), SANA_TIME, dt);
	at_t time_BD = embed_mlp(&m->time[0], &m->time[1], p, time_BT);
	at_t mod_BMD = at_view(nn_linear(&m->mod, p, at_silu(time_BD)), DIMS(-1, SANA_MODS, D));
	at_t x_BND = embed_image(m, x_BChw), text_BLD = embed_text(m, p, text_BLE), bias = NULL;

	(void)guidance_B; /* the facts say that it takes none */
	tap(x_BND, "patch_embed");
	tap(time_BD, "time_embed.emb");
	tap(text_BLD, "caption_norm");
	if (length_B)
		bias = mask(length_B, at_size(text_BLE, 1), dt);
	x_BND = run_blocks(m, p, x_BND, text_BLD, mod_BMD, bias, h / q, w / q);
	at_chunk(2, last, at_add(at_unsqueeze(time_BD, 1), m->table_2D), 1); /* shift, scale */
	x_BND = at_modulate(x_BND, last[0], last[1], LAST_EPS);
	tap(x_BND, "norm_out");
	x_BND = nn_linear(&m->proj_out, p, x_BND);
	tap(x_BND, "proj_out");
	return at_return(s, embed_unpatch(x_BND, h, w, q, EMBED_YXC));
}
