/*
 * t5.h -- the encoder of T5 1.1, as transformers' T5EncoderModel computes it: RMS norms, no biases, no
 * scaling of scores, relative positions by buckets whose biases the first layer shares with all, no mask over
 * padding (SD3 passes none).
 */
#ifndef T5_H
#define T5_H
#include "models/nn.h"

struct t5_conf {
	int64_t vocab_size, d_model, d_kv, d_ff, num_layers, num_heads;
	int64_t relative_attention_num_buckets, relative_attention_max_distance;
	double layer_norm_epsilon;
	bool gated; /* gated-gelu; else one wi and `relu` or tanh-GELU */
	bool relu;  /* activation of the feed-forward: relu, else GELU with tanh */
};
struct t5_layer {
	at_t norm1_D, norm2_D;
	struct nn_linear qkv, out, up, down; /* up: wi_0 and wi_1 stacked, or wi */
};
struct t5 {
	struct t5_conf conf;
	struct nn_net net;
	at_t token_VD, bias_NH, norm_D; /* bias: buckets N x heads H */
	struct t5_layer *layer;
};

/* DIR/config.json and weights.  Must not move while open. */
int t5_open(struct t5 *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e);
void t5_release(struct t5 *m);
at_t t5_forward(const struct t5 *m, at_t ids_BL); /* (B, L, D) */

#endif
