/*
 * clip_text.h -- CLIP's text tower with projection, as transformers' CLIPTextModelWithProjection computes it
 * (SD3 has two: ViT-L and OpenCLIP's ViT-bigG).
 */
#ifndef CLIP_TEXT_H
#define CLIP_TEXT_H
#include "models/nn.h"

struct clip_text_conf {
	int64_t vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads;
	int64_t max_position_embeddings, projection_dim, eos_token_id;
	double layer_norm_eps;
	bool quick_gelu; /* x sigmoid(1.702 x); else the exact GELU */
};
struct clip_text_layer {
	at_t norm1_w, norm1_b, norm2_w, norm2_b;
	struct nn_linear qkv, out, up, down;
};
struct clip_text {
	struct clip_text_conf conf;
	struct nn_net net;
	at_t token_VD, position_LD, norm_w, norm_b;
	struct nn_linear projection;
	struct clip_text_layer *layer;
};

/* DIR/config.json and weights.  Must not move while open. */
int clip_text_open(struct clip_text *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e);
void clip_text_release(struct clip_text *m);
/* ids (B, L) -> the penultimate layer's states (B, L, D), before the final norm, and the projected state of
 * the first end-of-text token (B, projection_dim). */
void clip_text_forward(const struct clip_text *m, at_t ids_BL, at_t *states_BLD, at_t *pooled_BP);

#endif
