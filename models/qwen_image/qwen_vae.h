/*
 * qwen_vae.h -- diffusers' AutoencoderKLQwenImage: a causal autoencoder of videos, for one frame.
 *
 * The first frame has zeros before it, so a convolution over time is its last slice alone, and what resamples
 * time is passed over: what remains is an autoencoder of images.
 */
#ifndef QWEN_VAE_H
#define QWEN_VAE_H
#include "models/encoder.h"
#include "models/vae/vae_parts.h"

#define QWEN_VAE_LEVELS   8
#define QWEN_VAE_CHANNELS 64 /* of latents, at most */

struct qwen_vae_conf {
	int64_t base_dim, z_dim, num_res_blocks;
	int n_levels;
	int64_t dim_mult[QWEN_VAE_LEVELS];
	bool time[QWEN_VAE_LEVELS]; /* temperal_downsample: a level's end halves time as well */
	float mean[QWEN_VAE_CHANNELS], std[QWEN_VAE_CHANNELS];
};
struct qwen_vae_resnet {
	at_t norm1_C111, norm2_C111;
	struct vae_conv conv1, conv2, shortcut; /* shortcut only where the channels change */
};
struct qwen_vae_level {
	struct qwen_vae_resnet *resnet;
	int n;
	struct vae_conv resample; /* to the next level; absent in the last */
};
struct qwen_vae_half {
	struct vae_conv conv_in, conv_out, quant;
	struct qwen_vae_level level[QWEN_VAE_LEVELS];
	struct qwen_vae_resnet mid[2];
	struct vae_conv to_qkv, proj; /* of the middle's attention */
	at_t attention_norm_C11, norm_out_C111;
};
struct qwen_vae {
	struct qwen_vae_conf conf;
	struct nn_net net;
	struct qwen_vae_half encoder, decoder;
	at_t mean_1C11, std_1C11; /* of latents, in the weights' type */
};

/* DIR/config.json and weights.  Must not move while open. */
int qwen_vae_open(struct qwen_vae *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e);
void qwen_vae_release(struct qwen_vae *m);
/* DIR/config.json alone. */
int qwen_vae_read_config(struct qwen_vae_conf *c, const char *dir, struct err *e);
int64_t qwen_vae_scale(const struct qwen_vae_conf *c); /* pixels a latent */

/* As autoencoder_type has them; x in the weights' type. */
at_t qwen_vae_decode(const struct qwen_vae *m, at_t z_BChw, int64_t at_a_time);
at_t qwen_vae_encode(const struct qwen_vae *m, at_t x_B3HW);

extern const struct autoencoder_type qwen_autoencoder;

#endif
