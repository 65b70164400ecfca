/*
 * decoder.c -- the forward.
 * Shapes: B prompts, L tokens, D width, H heads of K channels, G heads of keys and values, V words.
 */
#include "models/text/decoder/decoder.h"
#include "models/layers/rope.h"
#include "models/taps.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>

static const struct pass base = { 0 };

struct positions {
	at_t cos_LE, sin_LE;
	at_t bias_B1LL;   /* NULL: causal, and every token counts */
	at_t window_B1LL; /* of Gemma's layers that see a window alone */
};

/* Finite in every type.  Where a window leaves no key at all, which is behind a prompt's end, its weights are
 * equal, as transformers has them: of -inf alone softmax would make NaN. */
#define LEAST (-3.38e38F)

/* What the scores get added where some tokens do not count: -inf, or with a `window` LEAST, at keys that come
 * later, do not count or, unless it is 0, are so far back. */
static at_t mask_of(const struct decoder *m, int64_t B, int64_t L, const int64_t *length, int64_t window)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t bias = at_zeros(DIMS(B, 1, L, L), AT_F32, AT_CPU);
	float *v = at_f32(bias), away = m->conf.gemma ? LEAST : -INFINITY;

	for (int64_t b = 0; b < B; b++)
		for (int64_t q = 0; q < L; q++)
			for (int64_t k = 0; k < L; k++)
				if (k > q || (length && k >= length[b]) || (window && q - k >= window))
					v[(b * L + q) * L + k] = away;
	return at_return(s, at_to(bias, at_dtype_of(m->token_VD), at_device_of(m->token_VD)));
}

static bool all_count(int64_t B, int64_t L, const int64_t *length)
{
	for (int64_t b = 0; b < B && length; b++)
		if (length[b] < L)
			return false;
	return true;
}

static struct positions positions_of(const struct decoder *m, int64_t B, int64_t L, const int64_t *length)
{
	const struct rope rope = {
		.axes = 1, .width = { m->conf.head_dim }, .theta = m->conf.rope_theta, .angles = AT_F32
	};
	const double from = 0, step = 1;
	struct positions p = { 0 };

	rope_angles(&rope, rope_line(1, L, &from, &step, at_device_of(m->token_VD)), &p.cos_LE, &p.sin_LE);
	if (m->conf.gemma || !all_count(B, L, length))
		p.bias_B1LL = mask_of(m, B, L, length, 0);
	if (m->conf.gemma)
		p.window_B1LL = mask_of(m, B, L, length, m->conf.sliding_window);
	return p;
}

/* Gemma's weights count from 1, which is added in float32. */
static at_t norm(const struct decoder *m, at_t x_BLD, at_t norm_D)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	double eps = m->conf.rms_norm_eps;

	if (!m->conf.gemma)
		return at_return(s, at_rms_norm(x_BLD, norm_D, eps));
	at_t y = at_rms_norm(at_cast(x_BLD, AT_F32), at_add(at_cast(norm_D, AT_F32), 1.0), eps);
	return at_return(s, at_cast(y, at_dtype_of(x_BLD)));
}

/* Queries or keys of the linear's rows from `row`: normed and turned. */
static at_t turned(const struct decoder *m, at_t qkv_BLR, int64_t row, int64_t heads, at_t norm_K,
		   const struct positions *p)
{
	int64_t K = m->conf.head_dim, L = at_size(qkv_BLR, 1);
	at_t x_BLHK = at_reshape(at_narrow(qkv_BLR, -1, row, heads * K), DIMS(-1, L, heads, K));

	if (norm_K)
		x_BLHK = at_rms_norm(x_BLHK, norm_K, m->conf.rms_norm_eps);
	return at_transpose(at_rope(x_BLHK, p->cos_LE, p->sin_LE, true), 1, 2);
}

/* Attention whose scores are kept within bounds before the mask: no kernel has that. */
static at_t capped_attention(const struct decoder *m, at_t q_BHLK, at_t k_BGLK, at_t v_BGLK, at_t bias_B1LL)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t times = m->conf.num_attention_heads / m->conf.num_key_value_heads;
	double cap = m->conf.softcap;
	at_t k_BHLK = at_repeat_interleave(k_BGLK, times, 1), v_BHLK = at_repeat_interleave(v_BGLK, times, 1);
	at_t score_BHLL = at_matmul(q_BHLK, at_transpose(k_BHLK, 2, 3));

	score_BHLL = at_div(score_BHLL, sqrt(m->conf.query_pre_attn_scalar));
	if (cap > 0)
		score_BHLL = at_mul(at_tanh(at_div(score_BHLL, cap)), cap);
	score_BHLL = at_softmax(at_cast(at_add(score_BHLL, bias_B1LL), AT_F32), -1);
	return at_return(s, at_matmul(at_cast(score_BHLL, at_dtype_of(v_BHLK)), v_BHLK));
}

static at_t attention(const struct decoder *m, const struct decoder_layer *l, at_t x_BLD,
		      const struct positions *p, bool window)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t H = m->conf.num_attention_heads, G = m->conf.num_key_value_heads, K = m->conf.head_dim;
	at_t qkv_BLR = nn_linear(&l->qkv, &base, x_BLD);
	at_t q_BHLK = turned(m, qkv_BLR, 0, H, l->q_norm_K, p);
	at_t k_BGLK = turned(m, qkv_BLR, H * K, G, l->k_norm_K, p);
	at_t v_BLGK =
	    at_reshape(at_narrow(qkv_BLR, -1, (H + G) * K, G * K), DIMS(-1, at_size(x_BLD, 1), G, K));
	at_t v_BGLK = at_transpose(v_BLGK, 1, 2);
	at_t o_BHLK = m->conf.gemma ? capped_attention(m, q_BHLK, k_BGLK, v_BGLK,
						       window ? p->window_B1LL : p->bias_B1LL)
				    : at_sdpa(q_BHLK, k_BGLK, v_BGLK, p->bias_B1LL, !p->bias_B1LL, 0);

	return at_return(s, nn_linear(&l->out, &base, at_flatten(at_transpose(o_BHLK, 1, 2), 2, 3)));
}

static at_t feed_forward(const struct decoder *m, const struct decoder_layer *l, at_t x_BLD)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t half[2];

	at_chunk(2, half, nn_linear(&l->up, &base, x_BLD), -1);
	at_t gate = m->conf.gemma ? at_gelu(half[0], true) : at_silu(half[0]);
	return at_return(s, nn_linear(&l->down, &base, at_mul(gate, half[1])));
}

/* What a branch adds to x. */
static at_t added(const struct decoder *m, at_t x_BLD, at_t branch_BLD, at_t after_D)
{
	return at_add(x_BLD, after_D ? norm(m, branch_BLD, after_D) : branch_BLD);
}

/* Gemma's are as long as a token's number of channels, a factor that has the weights' type. */
static at_t embed(const struct decoder *m, at_t ids_BL)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x_BLD = at_embedding(m->token_VD, ids_BL);

	if (m->conf.gemma)
		x_BLD = at_mul(x_BLD, at_scalar(sqrt((double)m->conf.hidden_size), at_dtype_of(x_BLD),
						at_device_of(x_BLD)));
	return at_return(s, x_BLD);
}

/* x, of scope s, is what transformers calls hidden state k. */
static void take(const struct decoder *m, struct at_scope *s, int64_t k, at_t x_BLD, at_t *out_BLD)
{
	for (int i = 0; i < m->n; i++)
		if (m->state[i] == k)
			out_BLD[i] = at_escape(s, x_BLD);
}

void decoder_forward(const struct decoder *m, at_t ids_BL, const int64_t *length, at_t *out_BLD)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t last = m->conf.num_hidden_layers;
	struct positions p = positions_of(m, at_size(ids_BL, 0), at_size(ids_BL, 1), length);
	at_t x_BLD = embed(m, ids_BL);

	tap(x_BLD, "%sembed_tokens", m->prefix);
	for (int64_t i = 0; i < m->layers; i++) {
		take(m, s, i, x_BLD, out_BLD);
		struct at_scope *layer = at_begin(AT_NO_GRAD);
		const struct decoder_layer *l = &m->layer[i];
		at_t h = attention(m, l, norm(m, x_BLD, l->norm1_D), &p, i % 2 == 0);
		h = added(m, x_BLD, h, l->after1_D);
		h = added(m, h, feed_forward(m, l, norm(m, h, l->norm2_D)), l->after2_D);
		tap(h, "%slayers.%lld", m->prefix, (long long)i);
		at_replace(layer, &x_BLD, h);
		at_end(layer);
	}
	if (m->layers < last)
		take(m, s, m->layers, x_BLD, out_BLD);
	else
		take(m, s, last, norm(m, x_BLD, m->norm_D), out_BLD);
	at_end(s);
}
