/* z_image.c -- Z-Image and Z-Image-Turbo as a model family. */
#include "models/z_image/z_image.h"
#include "models/z_image/z_dit.h"

#define SIDE 128 /* of latents, 1024 pixels: the pipeline's default, which no configuration has */

static int64_t smaller(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static struct transformer_facts facts(const void *state)
{
	const struct z_dit *m = state;
	const struct z_dit_conf *c = &m->conf;
	int64_t most = c->patch_size * smaller(c->axes_lens[1], c->axes_lens[2]);

	return (struct transformer_facts) { .channels = c->in_channels,
					    .channels_out = c->in_channels,
					    .multiple = c->patch_size,
					    .most_side = most,
					    .default_side =
						smaller(SIDE / c->patch_size * c->patch_size, most),
					    .blocks = m->blocks,
					    .text_width = c->cap_feat_dim };
}

static struct nn_net *net(void *m)
{
	return &((struct z_dit *)m)->net;
}

const struct transformer_type transformer_z_image = {
	.class_name = "ZImageTransformer2DModel",
	.lay_out = z_dit_lay_out,
	.config = z_dit_config,
	.start = z_dit_start,
	.close = z_dit_close,
	.facts = facts,
	.net = net,
	.tokens = z_dit_tokens,
	.velocity = z_dit_velocity,
	.attention = z_dit_attention,
	.cost = z_dit_cost,
};

/* The shapes world's small parts stand in the places of the large ones. */
static const struct text_encoder_type *const text[] = { &z_image_text_encoder, &word_text_encoder, NULL };
static const struct autoencoder_type *const vae[] = { &kl_autoencoder, &linear_autoencoder, NULL };

const struct family family_z_image = {
	.class_name = "ZImagePipeline",
	.transformer = &transformer_z_image,
	.text = text,
	.vae = vae,
	.grid = GRID_STEPS,
	.mu = MU_LINEAR,
	.negative = "",
};
