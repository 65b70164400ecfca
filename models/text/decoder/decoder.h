/*
 * decoder.h -- a language model's decoder as a text encoder: Qwen3, the text part of Qwen2.5-VL, and Gemma 2,
 * as transformers computes their hidden states.
 *
 * A token attends to itself and to those before it.  Keys and values have fewer heads than queries; queries
 * and keys are normed a head (Qwen3) or have biases (Qwen2.5), and turned by their positions, which of text
 * alone count 0, 1, ...
 *
 * Gemma 2 multiplies embeddings by sqrt(hidden_size), norms what a layer's two branches add once more, with
 * weights that count from 1, and keeps scores within +-attn_logit_softcapping; every other layer, from the
 * first, sees no further back than sliding_window tokens.
 *
 * Only the layers below the last hidden state that is asked for are there.
 */
#ifndef DECODER_H
#define DECODER_H
#include "models/nn.h"

#define DECODER_STATES 4 /* the most that are taken */

struct decoder_conf {
	int64_t vocab_size, hidden_size, intermediate_size, num_hidden_layers;
	int64_t num_attention_heads, num_key_value_heads, head_dim;
	double rms_norm_eps, rope_theta;
	bool qk_norm, qkv_bias, gemma;
	/* Of Gemma 2: */
	double query_pre_attn_scalar; /* scores are divided by its root */
	double softcap;               /* attn_logit_softcapping; 0: none */
	int64_t sliding_window;       /* tokens, itself included, that such a layer sees; 0: all */
};
struct decoder_layer {
	at_t norm1_D, norm2_D, q_norm_K, k_norm_K; /* the last two NULL without qk_norm */
	at_t after1_D, after2_D;                   /* Gemma's norms of what the branches add, else NULL */
	struct nn_linear qkv, out, up, down;       /* up: gate_proj and up_proj stacked */
};
struct decoder {
	struct decoder_conf conf;
	struct nn_net net;
	char *prefix; /* of the names in its files: "model." or nothing */
	at_t token_VD, norm_D;
	struct decoder_layer *layer;
	int n; /* hidden states that it makes */
	int64_t state[DECODER_STATES], layers;
};

/* DIR/config.json and weights (decoder_file.c).  The n hidden states are counted as transformers does: k is
 * what layer k reads, and num_hidden_layers, or -1, what comes after the last norm.  Must not move while
 * open. */
int decoder_open(struct decoder *m, const char *dir, int n, const int64_t *states, enum at_dtype dt,
		 enum at_device dev, struct err *e);
void decoder_release(struct decoder *m);
/* The states (B, L, D) in the order in which they were asked for.  `length`: how many tokens of each row
 * count, B numbers, or NULL for all; nobody attends to the others, but they are computed. */
void decoder_forward(const struct decoder *m, at_t ids_BL, const int64_t *length, at_t *out_BLD);

#endif
