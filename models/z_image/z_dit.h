/*
 * z_dit.h -- Z-Image's single-stream transformer (arXiv 2511.22699), as diffusers' ZImageTransformer2DModel
 * computes it.  Every size comes from config.json.
 *
 * Image and caption are refined apart, two blocks each, and then run as one sequence, image first.  Each is
 * filled up to a multiple of 32 tokens with a learnt one, which attends like the others.
 */
#ifndef Z_DIT_H
#define Z_DIT_H
#include "base/json.h"
#include "models/cond.h"
#include "models/cost.h"
#include "models/layers/rope.h"
#include "models/nn.h"

#define Z_DIT_BLOCKS 256 /* the most that there may be of all kinds; TRANSFORMER_BLOCKS at most */
#define Z_DIT_TIME   256 /* channels of the sinusoids, and at most of what every modulation reads */
#define Z_DIT_HIDDEN 1024
#define Z_DIT_FILL   32 /* image and caption are filled up to multiples of this */
#define Z_DIT_AXES   3  /* of positions: caption and image, rows, columns */

struct z_dit_conf {
	int64_t patch_size, in_channels, dim, n_layers, n_refiner_layers, n_heads, n_kv_heads, cap_feat_dim;
	double norm_eps, t_scale;
	bool qk_norm;
	struct rope rope;              /* axes_dims, rope_theta */
	int64_t axes_lens[Z_DIT_AXES]; /* positions that there may be */
};

struct z_dit_block {
	struct nn_linear ada; /* scale and gate of attention, of the feed-forward; site -1 in the caption's */
	struct nn_linear qkv, out, w1, w2, w3;
	at_t norm_q_K, norm_k_K; /* NULL without qk_norm */
	at_t attention_norm1_D, attention_norm2_D, ffn_norm1_D, ffn_norm2_D;
};
struct z_dit {
	struct z_dit_conf conf;
	struct nn_net net;
	at_t x_pad_1D, cap_pad_1D, cap_norm_E;
	struct nn_linear time1, time2, x_embedder, cap_embedder, final_ada, final;
	int64_t blocks;
	/* In the order of the forward: n_refiner_layers of the image, as many of the caption, n_layers. */
	struct z_dit_block *block;
};

/* Of *out, which z_dit_close frees: transformer.h has what each does. */
int z_dit_lay_out(void **m, const json_t *config, const char *what, struct err *e);
json_t *z_dit_config(const void *m);
void z_dit_start(void *m);
void z_dit_close(void *m);

int64_t z_dit_filled(int64_t tokens);             /* up to a multiple of Z_DIT_FILL */
int64_t z_dit_hidden(const struct z_dit_conf *c); /* channels within a feed-forward */
/* Image tokens of latents h x w, fillers left out. */
int64_t z_dit_tokens(const void *m, int64_t h, int64_t w);
/* x (B, C, h, w), t (B) float32 = 1000 sigma, "text" (B, L, cap_feat_dim) -> velocity eps - x0. */
at_t z_dit_velocity(const void *m, const struct pass *p, at_t x_BChw, at_t t_B, const struct cond *c,
		    at_t guidance_B);
const char *z_dit_attention(const void *m, at_t x_BChw, const struct cond *c);
void z_dit_cost(const void *m, struct cost *c, const struct cost_shape *s);

#endif
