/*
 * vae.h -- diffusers' AutoencoderKL, decoder and encoder, in the one form Stable Diffusion uses: SiLU, group
 * norms, nearest-neighbour upsampling, one attention in the middle.
 */
#ifndef VAE_H
#define VAE_H
#include "models/cost.h"
#include "models/vae/vae_parts.h"

#define VAE_LEVELS 8

struct vae_conf {
	int64_t in_channels, out_channels, latent_channels, layers_per_block, norm_num_groups;
	int n_levels;
	int64_t block_out_channels[VAE_LEVELS];
	bool use_quant_conv, use_post_quant_conv, mid_block_add_attention;
	double scaling_factor, shift_factor;
};
struct vae_norm {
	at_t w_C, b_C;
};
struct vae_resnet {
	struct vae_norm norm1, norm2;
	struct vae_conv conv1, conv2, shortcut; /* shortcut only where the channels change */
};
struct vae_level {
	struct vae_resnet *resnet;
	int n;
	struct vae_conv resample; /* to the next level; absent in the last */
};
/* The two halves are alike: a convolution, levels, a middle, a norm, a convolution. */
struct vae_half {
	struct vae_conv conv_in, conv_out, quant;
	struct vae_level level[VAE_LEVELS];
	struct vae_resnet mid[2];
	struct vae_norm attention_norm, norm_out;
	struct nn_linear q, k, v, out; /* of the middle's attention */
};
struct vae {
	struct vae_conf conf;
	struct nn_net net;
	struct vae_half encoder, decoder;
};

/* Random weights, float32 on the CPU, of a configuration that is known to be right. */
void vae_new(struct vae *m, const struct vae_conf *c, uint64_t seed);
/* To where and how a VAE is used: vae_open's, too. */
void vae_move(struct vae *m, enum at_dtype dt, enum at_device dev);
/* DIR/config.json and weights.  Must not move while open. */
int vae_open(struct vae *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e);
int vae_read_conf(struct vae_conf *c, const char *dir, struct err *e); /* DIR/config.json alone */
void vae_release(struct vae *m);
int64_t vae_scale(const struct vae *m); /* pixels a latent */
/* Latents (B, C, h, w) as the sampler makes them -> pixels (B, 3, 8 h, 8 w), unclamped.  At most
 * `at_a_time` images are decoded together: memory is theirs. */
at_t vae_decode(const struct vae *m, at_t z_BChw, int64_t at_a_time);
void vae_decode_cost(const struct vae *m, struct cost *c, const struct cost_shape *s); /* of latents h x w */
/* Pixels in [-1, 1] -> the posterior's mean, shifted and scaled as the sampler has it. */
at_t vae_encode(const struct vae *m, at_t x_B3HW);

#endif
