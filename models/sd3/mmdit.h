/*
 * mmdit.h -- SD3's multimodal diffusion transformer (arXiv 2403.03206) and SD3.5's MMDiT-X, as diffusers'
 * SD3Transformer2DModel computes it.  Every size comes from config.json.
 *
 * Inputs: x (B, C, H, W) latents, t (B) float32 in [0, 1000], text (B, L, joint_attention_dim),
 * pooled (B, pooled_projection_dim).  Output: velocity (B, out_channels, H, W).
 */
#ifndef MMDIT_H
#define MMDIT_H
#include "base/json.h"
#include "models/nn.h"

#define MMDIT_LAYERS 256 /* the most that num_layers may be; TRANSFORMER_BLOCKS at most */
#define MMDIT_TIME   256 /* channels of the sinusoidal timestep embedding */

struct mmdit_conf {
	int64_t sample_size, patch_size, in_channels, out_channels;
	int64_t num_layers, attention_head_dim, num_attention_heads;
	int64_t joint_attention_dim, caption_projection_dim, pooled_projection_dim, pos_embed_max_size;
	bool qk_norm;   /* "rms_norm"; false: none */
	int64_t n_dual; /* dual_attention_layers */
	int64_t dual[MMDIT_LAYERS];
};

struct mmdit_attention {
	struct nn_linear qkv, out;
	at_t norm_q_K, norm_k_K; /* NULL without qk_norm */
};

/* One of the two streams of a joint block.  An absent linear has no weights and site -1. */
struct mmdit_stream {
	struct nn_linear ada; /* 6 D, 9 D with dual attention, 2 D for the context of the last block */
	struct mmdit_attention attn;
	struct nn_linear up, down; /* absent in the context of the last block */
};
struct mmdit_block {
	struct mmdit_stream image, text;
	bool dual, last; /* last: context_pre_only */
	struct mmdit_attention attn2;
};
struct mmdit {
	struct mmdit_conf conf;
	struct nn_net net;
	int64_t width;      /* D = heads * head_dim */
	at_t pos_embed_1MD; /* (1, max * max, D) buffer */
	/* pos_embed.proj, a convolution of stride p: run as a linear over patches; takes no adapter */
	at_t patch_w_DCpp, patch_b_D;
	struct nn_linear time1, time2, pool1, pool2, context, norm_out, proj_out;
	struct mmdit_block *block;
};

/* As struct transformer_type has these.  A network that is laid out must not move: its parameter list points
 * into it. */
int mmdit_lay_out(void **m, const json_t *config, const char *what, struct err *e);
json_t *mmdit_config(const void *m);
/* adaLN and proj_out are zero as SD3 starts, positions as diffusers has them. */
void mmdit_start(void *m);
void mmdit_close(void *m);

int64_t mmdit_tokens(const struct mmdit *m, int64_t h, int64_t w); /* image tokens of such latents */
/* The kernel (at_sdpa_kernel) of the joint attention over such latents and text, for the log. */
const char *mmdit_attention(const struct mmdit *m, at_t x_BCHW, at_t text_BLE);
/* H and W are multiples of patch_size, at most patch_size * pos_embed_max_size. */
at_t mmdit_forward(const struct mmdit *m, const struct pass *p, at_t x_BCHW, at_t t_B, at_t text_BLE,
		   at_t pooled_BP);

#endif
