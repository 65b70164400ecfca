/*
 * dc_ae.h -- diffusers' AutoencoderDC (DC-AE, arXiv 2410.10733): 32 pixels a latent, without means and
 * deviations.
 *
 * A level is a run of blocks of one kind: convolutions with a norm behind them, or linear attention over
 * pixels with a convolutional feed-forward.  What changes the size has a way around it: pixels that move into
 * channels, or back.
 */
#ifndef DC_AE_H
#define DC_AE_H
#include "models/encoder.h"
#include "models/vae/vae_parts.h"

#define DC_AE_LEVELS 8
#define DC_AE_SCALES 4

struct dc_ae_half_conf {
	int64_t channels[DC_AE_LEVELS], layers[DC_AE_LEVELS];
	bool vit[DC_AE_LEVELS]; /* EfficientViTBlock, else ResBlock */
	int scales[DC_AE_LEVELS];
	int64_t kernel[DC_AE_LEVELS][DC_AE_SCALES]; /* of what looks around at each scale, odd */
};
struct dc_ae_conf {
	int levels;
	int64_t latent_channels, attention_head_dim;
	double scaling_factor;
	struct dc_ae_half_conf encoder, decoder;
};
struct dc_ae_norm {
	at_t w_C, b_C;
};
struct dc_ae_block {
	/* ResBlock */
	struct vae_conv conv1, conv2;
	/* EfficientViTBlock: attention, */
	struct nn_linear qkv, out; /* C -> 3 I, I (1 + scales) -> C; I = C but for what no head has */
	struct vae_conv around[DC_AE_SCALES], mix[DC_AE_SCALES];
	struct dc_ae_norm attention_norm;
	struct vae_conv up, depth, down; /* and its feed-forward */
	struct dc_ae_norm norm;
};
struct dc_ae_level {
	struct dc_ae_block *block;
	struct vae_conv resample; /* down to the next level; up from it.  Absent in the last. */
};
struct dc_ae_half {
	struct vae_conv conv_in, conv_out;
	struct dc_ae_level level[DC_AE_LEVELS];
};
struct dc_ae {
	struct dc_ae_conf conf;
	struct nn_net net;
	struct dc_ae_half encoder, decoder;
	struct dc_ae_norm norm_out; /* the decoder's */
};

/* DIR/config.json and weights (dc_ae_file.c).  Must not move while open. */
int dc_ae_open(struct dc_ae *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e);
void dc_ae_release(struct dc_ae *m);
/* DIR/config.json alone. */
int dc_ae_read_config(struct dc_ae_conf *c, const char *dir, struct err *e);
int64_t dc_ae_scale(const struct dc_ae_conf *c); /* pixels a latent */

/* As autoencoder_type has them; x in the weights' type. */
at_t dc_ae_decode(const struct dc_ae *m, at_t z_BChw, int64_t at_a_time);
at_t dc_ae_encode(const struct dc_ae *m, at_t x_B3HW);

extern const struct autoencoder_type dc_autoencoder;

#endif
