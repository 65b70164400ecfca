/* Shapes: B batch, N image and L text tokens, S = N + L, D = H K width (H heads of K), E = K / 2. */
#include "models/layers/joint.h"
#include "base/mem.h"
#include "models/block.h"
#include <stdlib.h>

#define EPS 1e-6

/* The chunks of a modulation, in the order of its rows: attention, feed-forward. */
enum mod { SHIFT_A, SCALE_A, GATE_A, SHIFT_F, SCALE_F, GATE_F, MODS };

/* ---- Parameters ---------------------------------------------------------------------------------- */

struct attention_names {
	const char *qkv[3], *out, *norm_q, *norm_k;
};
static const struct attention_names of_image = {
	{ "attn.to_q", "attn.to_k", "attn.to_v" }, "attn.to_out.0", "attn.norm_q.weight", "attn.norm_k.weight"
};
static const struct attention_names of_text = { { "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj" },
						"attn.to_add_out",
						"attn.norm_added_q.weight",
						"attn.norm_added_k.weight" };

static void norm(struct nn_net *net, at_t *slot, const char *prefix, const char *name, int64_t K)
{
	char *full = mem_printf("%s%s", prefix, name);

	nn_add_tensor(net, slot, full, DIMS(K), true);
	free(full);
}

static void lay_out_stream(struct joint_stream *t, struct nn_net *net, const char *prefix,
			   const struct attention_names *a, const struct joint_names *n, int64_t D, int64_t K)
{
	nn_add_stack(net, &t->qkv, 3, prefix, a->qkv, D, D, true);
	nn_add_stack(net, &t->out, 1, prefix, &a->out, D, D, true);
	nn_add_stack(net, &t->up, 1, prefix, &n->up, 4 * D, D, true);
	nn_add_stack(net, &t->down, 1, prefix, &n->down, D, 4 * D, true);
	norm(net, &t->norm_q_K, prefix, a->norm_q, K);
	norm(net, &t->norm_k_K, prefix, a->norm_k, K);
}

void joint_lay_out(struct joint_block *b, struct nn_net *net, const char *prefix,
		   const struct joint_names *image, const struct joint_names *text, int64_t heads, int64_t K)
{
	int64_t D = heads * K;

	nn_begin_block(net);
	nn_reads(net, NN_SAMPLES);
	nn_add_stack(net, &b->image.ada, 1, prefix, &image->ada, MODS * D, D, true);
	nn_add_stack(net, &b->text.ada, 1, prefix, &text->ada, MODS * D, D, true);
	nn_reads(net, NN_IMAGE);
	lay_out_stream(&b->image, net, prefix, &of_image, image, D, K);
	nn_reads(net, NN_TEXT);
	lay_out_stream(&b->text, net, prefix, &of_text, text, D, K);
}

/* ---- Attention ----------------------------------------------------------------------------------- */

at_t joint_attention(int n, const at_t *all_BS3HK, const at_t *norm_q_K, const at_t *norm_k_K,
		     bool all_queries, const struct joint_input *in)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t q_BSHK, k_BSHK, v_BSHK, o_BHSK;

	at_qkv(n, all_BS3HK, norm_q_K, norm_k_K, all_queries, EPS, &q_BSHK, &k_BSHK, &v_BSHK);
	q_BSHK = at_rope(q_BSHK, at_narrow(in->cos_SE, 0, 0, at_size(q_BSHK, 1)),
			 at_narrow(in->sin_SE, 0, 0, at_size(q_BSHK, 1)), false);
	k_BSHK = at_rope(k_BSHK, in->cos_SE, in->sin_SE, false);
	o_BHSK = at_sdpa(at_transpose(q_BSHK, 1, 2), at_transpose(k_BSHK, 1, 2), at_transpose(v_BSHK, 1, 2),
			 in->bias, false, 0);
	return at_return(s, at_flatten(at_transpose(o_BHSK, 1, 2), 2, 3));
}

const char *joint_kernel(int64_t tokens, int64_t heads, int64_t K, enum at_dtype dt, enum at_device dev)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t o_BHSK = at_transpose(at_empty(DIMS(1, tokens, heads, K), dt, dev), 1, 2);
	const char *name = at_sdpa_kernel(o_BHSK, o_BHSK, o_BHSK);

	at_end(s);
	return name;
}

at_t joint_in_range(at_t x)
{
	return at_dtype_of(x) == AT_F16 ? at_clamp(x, -65504, 65504) : x;
}

/* ---- The block ----------------------------------------------------------------------------------- */

static at_t product(const struct joint_stream *t, const struct pass *p, at_t x_BSD, const at_t *mod)
{
	int64_t K = at_size(t->norm_q_K, 0);
	at_t all = nn_linear(&t->qkv, p, at_modulate(x_BSD, mod[SHIFT_A], mod[SCALE_A], EPS));

	return at_view(all, DIMS(-1, at_size(x_BSD, 1), 3, at_size(x_BSD, 2) / K, K));
}

/* The rest of a block after attention's o. */
static at_t finish(const struct joint_stream *t, const struct pass *p, at_t x_BSD, at_t o_BSD,
		   const at_t *mod)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS); /* the hidden layer, 4 D wide, dies here */
	/* of a view that is not contiguous, libtorch would make B small products */
	at_t y_BSD = nn_linear(&t->out, p, at_contiguous(o_BSD)), h_BSD, m_BSD;

	at_gate_modulate(x_BSD, mod[GATE_A], y_BSD, mod[SHIFT_F], mod[SCALE_F], EPS, &h_BSD, &m_BSD);
	y_BSD = nn_linear(&t->down, p, nn_linear_gelu(&t->up, p, m_BSD));
	return at_return(s, joint_in_range(at_gate(h_BSD, mod[GATE_F], y_BSD)));
}

/* What run_block is given.  Where there is no bias, a checkpoint puts other tensors in its place. */
enum { IMAGE, TEXT, CONDITION, COS, SIN, BIAS, INPUTS };
struct call {
	const struct joint_block *b;
	bool biased;
};

static void run_block(const void *ctx, const struct pass *p, const at_t *in, at_t *out)
{
	const struct call *k = ctx;
	const struct joint_stream *stream[2] = { &k->b->image, &k->b->text };
	struct joint_input with = { in[CONDITION], in[COS], in[SIN], k->biased ? in[BIAS] : NULL };
	at_t mod[2][MODS], all_BS3HK[2], norm_q_K[2], norm_k_K[2], o_BSD[2];
	int64_t tokens[2] = { at_size(in[IMAGE], 1), at_size(in[TEXT], 1) };

	for (int i = 0; i < 2; i++) {
		at_chunk(MODS, mod[i], nn_linear(&stream[i]->ada, p, with.y_B1D), -1);
		all_BS3HK[i] = product(stream[i], p, in[i], mod[i]);
		norm_q_K[i] = stream[i]->norm_q_K;
		norm_k_K[i] = stream[i]->norm_k_K;
	}
	int streams = k->b->text_ends ? 1 : 2; /* that go on */
	at_split(streams, o_BSD, tokens,
		 joint_attention(2, all_BS3HK, norm_q_K, norm_k_K, streams == 2, &with), 1);
	for (int i = 0; i < streams; i++)
		out[i] = finish(stream[i], p, in[i], o_BSD[i], mod[i]);
}

void joint_run(const struct joint_block *b, const struct nn_net *net, int i, const struct pass *p,
	       at_t *x_BND, at_t *c_BLD, const struct joint_input *with)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t in[INPUTS] = { *x_BND, *c_BLD, with->y_B1D, with->cos_SE, with->sin_SE, with->bias }, out[2];
	struct call k = { b, with->bias != NULL };
	int n = k.biased ? INPUTS : BIAS, outs = b->text_ends ? 1 : 2;

	if (i < p->checkpoint_blocks && at_grad_enabled())
		block_checkpoint(net, i, p, run_block, &k, sizeof k, n, in, outs, out);
	else
		run_block(&k, p, in, out);
	at_replace(s, x_BND, out[IMAGE]);
	if (!b->text_ends)
		at_replace(s, c_BLD, out[TEXT]);
	at_end(s);
}

/* ---- Cost ---------------------------------------------------------------------------------------- */

void joint_attention_cost(struct cost *c, double B, double S, double D, double size)
{
	double qkv = 2 * 3, turning = 2 * 2,
	       casts = size < 4 ? 2 * 4 * 4 : 0; /* of queries and keys, in float32 */

	cost_attention(c, B, S, S, D, size);
	cost_op(c, COST_ELEMENTS, 0, ((qkv + turning) * size + casts) * B * S * D);
}

void joint_cost(struct cost *c, double B, double N, double L, double D, double size)
{
	double modulate = 2, halves = 2, gate_modulate = 4, gate = 3;

	joint_attention_cost(c, B, N + L, D, size);
	cost_op(c, COST_ELEMENTS, 0, (modulate + halves + gate_modulate + gate) * size * B * (N + L) * D);
}
