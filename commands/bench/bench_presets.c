#include "commands/bench/bench_presets.h"
#include <string.h>

/* The autoencoder of all families since SD3; what differs is how latents are scaled. */
#define KL_VAE(scaling, shift)                                                                               \
	{                                                                                                    \
		.in_channels = 3, .out_channels = 3, .latent_channels = 16, .layers_per_block = 2,           \
		.norm_num_groups = 32, .n_levels = 4, .block_out_channels = { 128, 256, 512, 512 },          \
		.mid_block_add_attention = true, .scaling_factor = (scaling), .shift_factor = (shift)        \
	}

static const struct bench_preset presets[] = {
	{ "tiny",
	  "{\"_class_name\": \"SD3Transformer2DModel\", \"sample_size\": 8, \"patch_size\": 2, "
	  "\"in_channels\": 16, \"out_channels\": 16, \"num_layers\": 2, \"attention_head_dim\": 16, "
	  "\"num_attention_heads\": 2, \"joint_attention_dim\": 32, \"caption_projection_dim\": 32, "
	  "\"pooled_projection_dim\": 32, \"pos_embed_max_size\": 16, \"qk_norm\": \"rms_norm\", "
	  "\"dual_attention_layers\": [0]}",
	  8,
	  12,
	  { .in_channels = 3,
	    .out_channels = 3,
	    .latent_channels = 16,
	    .layers_per_block = 1,
	    .norm_num_groups = 4,
	    .n_levels = 4,
	    .block_out_channels = { 8, 8, 16, 16 },
	    .mid_block_add_attention = true,
	    .scaling_factor = 1.5305,
	    .shift_factor = 0.0609 } },
	{ "medium",
	  "{\"_class_name\": \"SD3Transformer2DModel\", \"sample_size\": 128, \"patch_size\": 2, "
	  "\"in_channels\": 16, \"out_channels\": 16, \"num_layers\": 24, \"attention_head_dim\": 64, "
	  "\"num_attention_heads\": 24, \"joint_attention_dim\": 4096, \"caption_projection_dim\": 1536, "
	  "\"pooled_projection_dim\": 2048, \"pos_embed_max_size\": 384, \"qk_norm\": \"rms_norm\", "
	  "\"dual_attention_layers\": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}",
	  64, 205, KL_VAE(1.5305, 0.0609) },
	/* a prompt of 50 to 64 tokens, its template's included */
	{ "z-image", "{\"_class_name\": \"ZImageTransformer2DModel\", \"axes_lens\": [1536, 512, 512]}", 64,
	  64, KL_VAE(0.3611, 0.1159) },
};

const struct bench_preset *bench_preset_find(const char *name)
{
	for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
		if (!strcmp(presets[i].name, name))
			return &presets[i];
	return NULL;
}
