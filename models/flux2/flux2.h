/*
 * flux2.h -- FLUX.2-klein as a model family: the distilled one, which takes four steps and no guidance, and
 * its base.
 *
 * The transformer is diffusers' Flux2Transformer2DModel: num_layers blocks of two streams and then
 * num_single_layers over all tokens in one, without a bias anywhere.  Modulations are made once for all
 * blocks.  A latent is a token: the autoencoder packs 2 x 2 of its own into the channels of one.
 */
#ifndef FLUX2_H
#define FLUX2_H
#include "models/family.h"
#include "models/layers/joint.h"
#include "models/layers/rope.h"

struct flux2_conf {
	int64_t in_channels, out_channels;
	int64_t num_layers, num_single_layers;
	int64_t attention_head_dim, num_attention_heads;
	int64_t joint_attention_dim, timestep_guidance_channels;
	double mlp_ratio, eps;
	bool guidance_embeds;
	struct rope rope; /* axes_dims_rope, rope_theta */
};

struct flux2_stream {
	struct nn_linear qkv, out, up, down; /* up: what is gated behind what gates it */
	at_t norm_q_K, norm_k_K;
};
struct flux2_block {
	struct flux2_stream image, text;
};
struct flux2_single {
	struct nn_linear all, out; /* all: q, k, v and both halves of the feed-forward's first layer */
	at_t norm_q_K, norm_k_K;
};
struct flux2 {
	struct flux2_conf conf;
	struct nn_net net;
	int64_t width, hidden; /* D = heads * head_dim; of a feed-forward */
	struct nn_linear time[2], guidance[2], image, text, norm_out, proj_out;
	struct nn_linear mod_image, mod_text, mod_single;
	struct flux2_block *block;
	struct flux2_single *single;
};

/* The transformer's folder (flux2_file.c), as struct transformer_type has these. */
int flux2_lay_out(void **m, const json_t *config, const char *what, struct err *e);
json_t *flux2_config(const void *m);
void flux2_start(void *m);
void flux2_close(void *m);

/* Its forward (flux2_forward.c). */
at_t flux2_velocity(const void *m, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		    at_t guidance_B);

extern const struct transformer_type transformer_flux2;
extern const struct family family_flux2;

#endif
