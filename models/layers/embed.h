/*
 * embed.h -- what a transformer's inputs become before its first block: latents as tokens and back, numbers
 * as sinusoids, and the two linears behind those.
 */
#ifndef EMBED_H
#define EMBED_H
#include "models/nn.h"

/* The order of a patch's features. */
enum embed_order {
	EMBED_CYX, /* channel, row, column */
	EMBED_YXC, /* row, column, channel */
};
/* (B, C, h, w) as patches of p x p, row by row: (B, h / p * w / p, C p p).  And back: h, w of latents. */
at_t embed_patches(at_t x_BChw, int64_t p, enum embed_order order);
at_t embed_unpatch(at_t x_BNF, int64_t h, int64_t w, int64_t p, enum embed_order order);

/* cos and sin of x at n / 2 frequencies 10000^(-i / (n / 2)), cosines first: (B, n) of (B), computed in
 * float32 whatever dt is. */
at_t embed_sinusoids(at_t x_B, int64_t n, enum at_dtype dt);
/* Two linears with SiLU between them. */
at_t embed_mlp(const struct nn_linear *first, const struct nn_linear *second, const struct pass *p, at_t x);

#endif
