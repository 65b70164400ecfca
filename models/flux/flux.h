/*
 * flux.h -- FLUX.1 as a model family: dev, whose guidance scale is an input, and schnell, which has none.
 *
 * The transformer is diffusers' FluxTransformer2DModel: `layers` blocks of two streams
 * (models/layers/joint.h) and then `single_layers` over all tokens in one.  Latents are packed within it:
 * outside they are (B, C, h, w), C = in_channels / 4, and a token is 2 x 2 of them.
 */
#ifndef FLUX_H
#define FLUX_H
#include "models/family.h"
#include "models/layers/joint.h"
#include "models/layers/rope.h"

#define FLUX_PATCH 2   /* latents of a token's side */
#define FLUX_TIME  256 /* channels of the sinusoids */

struct flux_conf {
	int64_t in_channels, out_channels; /* of packed tokens */
	int64_t num_layers, num_single_layers;
	int64_t attention_head_dim, num_attention_heads;
	int64_t joint_attention_dim, pooled_projection_dim;
	bool guidance_embeds;
	struct rope rope; /* axes_dims_rope */
};

struct flux_single {
	struct nn_linear ada, qkv, up, out; /* out reads attention and the feed-forward side by side */
	at_t norm_q_K, norm_k_K;
};
struct flux {
	struct flux_conf conf;
	struct nn_net net;
	int64_t width; /* D = heads * head_dim */
	struct nn_linear time[2], guidance[2], pooled[2], image, text, norm_out, proj_out;
	struct joint_block *block;
	struct flux_single *single;
};

/* The transformer's folder (flux_file.c), as struct transformer_type has these. */
int flux_lay_out(void **m, const json_t *config, const char *what, struct err *e);
json_t *flux_config(const void *m);
void flux_start(void *m);
void flux_close(void *m);

/* Its forward (flux_forward.c). */
at_t flux_velocity(const void *m, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		   at_t guidance_B);

/* Does DIR/transformer/config.json say that guidance is an input?  false too where it is not there. */
int flux_is_guided(bool *guided, const char *dir, struct err *e);

extern const struct transformer_type transformer_flux;
extern const struct text_encoder_type flux_text_encoder;
extern const struct family family_flux;

#endif
