/*
 * clip_layer.h -- the transformer layers that CLIP's towers are made of: layer norm, attention, layer norm,
 * feed-forward, each added to the stream.
 */
#ifndef CLIP_LAYER_H
#define CLIP_LAYER_H
#include "base/json.h"
#include "models/nn.h"

/* Names of tensors in files: transformers' (layers.0.self_attn.q_proj.weight) or open_clip's
 * (resblocks.0.attn.in_proj_weight, q, k and v in one). */
enum clip_layout { CLIP_TRANSFORMERS, CLIP_OPEN_CLIP };

struct clip_layer {
	at_t norm1_w, norm1_b, norm2_w, norm2_b;
	struct nn_linear qkv, out, up, down;
};
struct clip_layers {
	int64_t n, width, heads, inner;
	double eps;
	bool quick_gelu; /* x sigmoid(1.702 x); else the exact GELU */
	struct clip_layer *layer;
};

/* hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, layer_norm_eps and hidden_act of
 * transformers' configuration, whose defaults they have where they are absent. */
int clip_layers_read(struct clip_layers *s, const json_t *o, int64_t width, int64_t heads, const char *path,
		     struct err *e);
/* Sizes that are no sizes are an error. */
int clip_layers_check(const struct clip_layers *s, const char *path, struct err *e);
/* Registers the tensors; prefix is what stands before the layer's number. */
void clip_layers_lay_out(struct clip_layers *s, struct nn_net *net, const char *prefix,
			 enum clip_layout layout);
void clip_norm_lay_out(struct nn_net *net, at_t *w, at_t *b, const char *name, int64_t width);
void clip_layers_release(struct clip_layers *s); /* what the net does not free */
at_t clip_layer_forward(const struct clip_layers *s, int64_t i, at_t x_BLD, bool causal);

#endif
