/*
 * clip_text.h -- CLIP's text tower, as transformers' CLIPTextModelWithProjection computes it (SD3 has two:
 * ViT-L and OpenCLIP's ViT-bigG), or without the projection as CLIPTextModel does (FLUX.1).
 */
#ifndef CLIP_TEXT_H
#define CLIP_TEXT_H
#include "models/text/clip_layer.h"

struct clip_text_conf {
	int64_t vocab_size, max_position_embeddings, projection_dim;
	int64_t eos_token_id; /* 2: the largest id */
};
struct clip_text {
	struct clip_text_conf conf;
	struct clip_layers layers;
	struct nn_net net; /* of a tower that is open alone */
	at_t token_VD, position_LD, norm_w, norm_b;
	bool plain; /* without projection */
	struct nn_linear projection;
	at_t projection_DP; /* open_clip's, the other way round; NULL with `projection` */
};

/* DIR/config.json and weights.  Must not move while open. */
int clip_text_open(struct clip_text *m, const char *dir, bool projected, enum at_dtype dt, enum at_device dev,
		   struct err *e);
void clip_text_release(struct clip_text *m);
/* As a part of a larger model: its configuration from an object, its tensors in a net, which frees them. */
int clip_text_read(struct clip_text *m, const json_t *o, const char *path, struct err *e);
void clip_text_lay_out(struct clip_text *m, struct nn_net *net, enum clip_layout layout);
/* ids (B, L) -> the penultimate layer's states (B, L, D), before the final norm, and the projected state of
 * the first end-of-text token (B, projection_dim); without projection that state itself (B, D). */
void clip_text_forward(const struct clip_text *m, at_t ids_BL, at_t *states_BLD, at_t *pooled_BP);

#endif
