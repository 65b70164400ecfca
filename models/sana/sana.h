/*
 * sana.h -- SANA and SANA 1.5 (arXiv 2410.10629, 2501.18427) as a model family.
 *
 * The transformer is diffusers' SanaTransformer2DModel: image tokens attend to each other linearly (a kernel
 * of relu), to the text as usual, and their feed-forward is a convolution over the image, which alone tells
 * a token where it stands.  One modulation serves all blocks, each of which adds a table of its own.
 */
#ifndef SANA_H
#define SANA_H
#include "models/family.h"

#define SANA_TIME 256 /* channels of the sinusoids */
enum { SANA_SHIFT_A, SANA_SCALE_A, SANA_GATE_A, SANA_SHIFT_F, SANA_SCALE_F, SANA_GATE_F, SANA_MODS };

struct sana_conf {
	int64_t sample_size, patch_size, in_channels, out_channels;
	int64_t num_layers, num_attention_heads, attention_head_dim;
	int64_t num_cross_attention_heads, cross_attention_head_dim, cross_attention_dim, caption_channels;
	double mlp_ratio, norm_eps, timestep_scale;
	bool qk_norm, attention_bias;
};
struct sana_block {
	at_t table_MD; /* (SANA_MODS, D), added to the modulation */
	struct nn_linear qkv, out, cross_q, cross_kv, cross_out;
	at_t norm_q_D, norm_k_D, cross_norm_q_X, cross_norm_k_X; /* over all heads; NULL without qk_norm */
	/* The feed-forward's: to 2 F channels, over 3 x 3 tokens a channel, back from F. */
	at_t up_w_GD11, up_b_G, depth_w_G133, depth_b_G, down_w_DF11;
};
struct sana {
	struct sana_conf conf;
	struct nn_net net;
	int64_t width, cross, hidden; /* D = heads * head_dim; X, of attention to the text; F */
	/* patch_embed.proj, a convolution of stride p: run as a linear over patches; takes no adapter */
	at_t patch_w_DCpp, patch_b_D;
	at_t caption_norm_D, table_2D; /* the last one's: shift and scale, added to the time's embedding */
	struct nn_linear time[2], mod, caption[2], proj_out;
	struct sana_block *block;
};

/* The transformer's folder (sana_file.c), as struct transformer_type has these. */
int sana_lay_out(void **m, const json_t *config, const char *what, struct err *e);
json_t *sana_config(const void *m);
void sana_start(void *m);
void sana_close(void *m);

/* Its forward (sana_forward.c). */
at_t sana_velocity(const void *m, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		   at_t guidance_B);

extern const struct transformer_type transformer_sana;
extern const struct text_encoder_type sana_text_encoder;
extern const struct family family_sana;

#endif
