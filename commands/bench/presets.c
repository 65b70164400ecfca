/* presets.c -- models of which the sizes are known here. */
#include "commands/bench/presets.h"
#include <string.h>

static const struct vae_conf tiny_vae = { .in_channels = 3,
					  .out_channels = 3,
					  .latent_channels = 16,
					  .layers_per_block = 1,
					  .norm_num_groups = 4,
					  .n_levels = 4,
					  .block_out_channels = { 8, 8, 16, 16 },
					  .mid_block_add_attention = true,
					  .scaling_factor = 1.5305,
					  .shift_factor = 0.0609 };
/* Of Stable Diffusion 3 and of FLUX.1, but for two factors that change no time. */
static const struct vae_conf published_vae = { .in_channels = 3,
					       .out_channels = 3,
					       .latent_channels = 16,
					       .layers_per_block = 2,
					       .norm_num_groups = 32,
					       .n_levels = 4,
					       .block_out_channels = { 128, 256, 512, 512 },
					       .mid_block_add_attention = true,
					       .scaling_factor = 1.5305,
					       .shift_factor = 0.0609 };

static const struct preset presets[] = {
	{ "tiny",
	  "{\"_class_name\": \"SD3Transformer2DModel\", \"sample_size\": 8, \"patch_size\": 2, "
	  "\"in_channels\": 16, \"out_channels\": 16, \"num_layers\": 2, \"attention_head_dim\": 16, "
	  "\"num_attention_heads\": 2, \"joint_attention_dim\": 32, \"caption_projection_dim\": 32, "
	  "\"pooled_projection_dim\": 32, \"pos_embed_max_size\": 16, \"qk_norm\": \"rms_norm\", "
	  "\"dual_attention_layers\": [0]}",
	  8, 12, 8, &tiny_vae },
	{ "medium",
	  "{\"_class_name\": \"SD3Transformer2DModel\", \"sample_size\": 128, \"patch_size\": 2, "
	  "\"in_channels\": 16, \"out_channels\": 16, \"num_layers\": 24, \"attention_head_dim\": 64, "
	  "\"num_attention_heads\": 24, \"joint_attention_dim\": 4096, \"caption_projection_dim\": 1536, "
	  "\"pooled_projection_dim\": 2048, \"pos_embed_max_size\": 384, \"qk_norm\": \"rms_norm\", "
	  "\"dual_attention_layers\": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}",
	  64, 205, 8, &published_vae },
	{ "sd3.5-large",
	  "{\"_class_name\": \"SD3Transformer2DModel\", \"sample_size\": 128, \"patch_size\": 2, "
	  "\"in_channels\": 16, \"out_channels\": 16, \"num_layers\": 38, \"attention_head_dim\": 64, "
	  "\"num_attention_heads\": 38, \"joint_attention_dim\": 4096, \"caption_projection_dim\": 2432, "
	  "\"pooled_projection_dim\": 2048, \"pos_embed_max_size\": 192, \"qk_norm\": \"rms_norm\"}",
	  64, 205, 8, &published_vae },
	/* diffusers' defaults have its sizes */
	{ "flux1-dev", "{\"_class_name\": \"FluxTransformer2DModel\", \"guidance_embeds\": true}", 64, 512, 8,
	  &published_vae },
	/* likewise; a prompt of 50 or so tokens */
	{ "z-image", "{\"_class_name\": \"ZImageTransformer2DModel\", \"axes_lens\": [1536, 512, 512]}", 64,
	  64, 8, &published_vae },
	/* likewise */
	{ "qwen-image", "{\"_class_name\": \"QwenImageTransformer2DModel\"}", 64, 64, 8, NULL },
	/* klein's 4B */
	{ "flux2-klein",
	  "{\"_class_name\": \"Flux2Transformer2DModel\", \"num_layers\": 5, \"num_single_layers\": 20, "
	  "\"num_attention_heads\": 24, \"joint_attention_dim\": 7680, \"guidance_embeds\": false}",
	  32, 512, 16, NULL },
	/* as z-image, with its norms of heads; 512 pixels are 16 latents */
	{ "sana-1.5", "{\"_class_name\": \"SanaTransformer2DModel\", \"qk_norm\": \"rms_norm_across_heads\"}",
	  16, 64, 32, NULL },
};

const struct preset *preset_find(const char *name)
{
	for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
		if (!strcmp(presets[i].name, name))
			return &presets[i];
	return NULL;
}

json_t *preset_config(const struct preset *p, struct err *e)
{
	return json_parse(p->transformer, strlen(p->transformer), p->name, e);
}

const struct family *preset_family(const json_t *config, const char *what, struct err *e)
{
	const struct transformer_type *type;
	const char *name;

	if (json_get_str(&name, config, "_class_name", families[0]->transformer->class_name, what, e) ||
	    !(type = transformer_find(name, what, e)))
		return NULL;
	for (int i = 0; families[i]; i++)
		if (families[i]->transformer == type)
			return families[i];
	return NULL;
}
