/*
 * joint.h -- the block of a transformer of two streams, as FLUX.1 and Qwen-Image have it: image and text
 * tokens have weights of their own and attend to all of both; queries and keys are normed (RMS) a head and
 * turned by their positions.
 *
 * Wherever both streams lie in one tensor, the image comes first: angles and biases too.
 */
#ifndef JOINT_H
#define JOINT_H
#include "models/cost.h"
#include "models/nn.h"

struct joint_stream {
	struct nn_linear ada, qkv, out, up, down;
	at_t norm_q_K, norm_k_K;
};
struct joint_block {
	struct joint_stream image, text;
	/* Nothing reads the text behind this block: it is stale, and of its linears only keys and values
	 * count. The caller's to set after joint_lay_out. */
	bool text_ends;
};
/* What a family calls a stream's linears within a block; attention's are alike in all. */
struct joint_names {
	const char *ada, *up, *down; /* "norm1.linear", "ff.net.0.proj", "ff.net.2" */
};

/* Begins a block of `heads` heads of K channels.  `prefix` is its name with a dot behind. */
void joint_lay_out(struct joint_block *b, struct nn_net *net, const char *prefix,
		   const struct joint_names *image, const struct joint_names *text, int64_t heads, int64_t K);

/* What a block reads besides its streams. */
struct joint_input {
	at_t y_B1D;          /* silu(conditioning) */
	at_t cos_SE, sin_SE; /* of the positions (models/layers/rope.h) */
	at_t bias;           /* added to the scores, as in at_sdpa, or NULL */
};
/* Block number `i` of the net changes both streams; with gradient checkpointing where the pass wants that. */
void joint_run(const struct joint_block *b, const struct nn_net *net, int i, const struct pass *p,
	       at_t *x_BND, at_t *c_BLD, const struct joint_input *in);

/* Products (B, S, 3, H, K) of n streams, one after the other, as attention's result (B, S, H K);
 * all_queries false: of the first stream's tokens alone. */
at_t joint_attention(int n, const at_t *all_BS3HK, const at_t *norm_q_K, const at_t *norm_k_K,
		     bool all_queries, const struct joint_input *in);
/* The kernel (at_sdpa_kernel) of such attention without a bias, for the log. */
const char *joint_kernel(int64_t tokens, int64_t heads, int64_t K, enum at_dtype dt, enum at_device dev);
/* Sums beyond float16's range are cut to it, as diffusers does; other types have no such edge. */
at_t joint_in_range(at_t x);

/* What a block moves and computes beside its linears, N image and L text tokens of D channels a sample. */
void joint_cost(struct cost *c, double B, double N, double L, double D, double size);
/* Attention over S tokens of queries, keys and values as the op at_qkv makes them, and their turning. */
void joint_attention_cost(struct cost *c, double B, double S, double D, double size);

#endif
