/*
 * qwen_image.h -- Qwen-Image as a model family.
 *
 * The transformer is diffusers' QwenImageTransformer2DModel: blocks of two streams (models/layers/joint.h)
 * over 2 x 2 latents a token and the states of Qwen2.5-VL.  Latents are packed within it: outside they are
 * (B, C, h, w), C = in_channels / 4.
 */
#ifndef QWEN_IMAGE_H
#define QWEN_IMAGE_H
#include "models/family.h"
#include "models/layers/joint.h"
#include "models/layers/rope.h"

#define QWEN_IMAGE_PATCH 2    /* latents of a token's side */
#define QWEN_IMAGE_TIME  256  /* channels of the sinusoids */
#define QWEN_IMAGE_MOST  4096 /* tokens of a side, and positions: diffusers' table of angles ends there */

struct qwen_image_conf {
	int64_t in_channels, out_channels; /* of packed tokens; of latents */
	int64_t num_layers, attention_head_dim, num_attention_heads, joint_attention_dim;
	struct rope rope; /* axes_dims_rope */
};
struct qwen_image {
	struct qwen_image_conf conf;
	struct nn_net net;
	int64_t width; /* D = heads * head_dim */
	at_t text_norm_E;
	struct nn_linear time[2], image, text, norm_out, proj_out;
	struct joint_block *block;
};

/* The transformer's folder (qwen_image_file.c), as struct transformer_type has these. */
int qwen_image_lay_out(void **m, const json_t *config, const char *what, struct err *e);
json_t *qwen_image_config(const void *m);
void qwen_image_start(void *m);
void qwen_image_close(void *m);

/* Its forward (qwen_image_forward.c). */
at_t qwen_image_velocity(const void *m, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
			 at_t guidance_B);
/* Guidance as QwenImagePipeline has it: of each token the direction is v0 + g (v1 - v0)'s, the length v1's.
 */
at_t qwen_image_guide(at_t v1_BChw, at_t v0_BChw, double g);

extern const struct transformer_type transformer_qwen_image;
extern const struct text_encoder_type qwen_image_text_encoder;
extern const struct family family_qwen_image;

#endif
