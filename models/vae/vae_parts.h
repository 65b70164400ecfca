/* vae_parts.h -- what autoencoders of convolutions share. */
#ifndef VAE_PARTS_H
#define VAE_PARTS_H
#include "models/nn.h"

struct vae_conv {
	at_t w_OIkk, b_O; /* NULL: absent */
};
at_t vae_conv(const struct vae_conv *c, at_t x_BCHW, int stride, int padding);

/* some(m, images) of `at_a_time` images after the other: memory is theirs.  Differentiable. */
at_t vae_in_pieces(const void *m, at_t (*some)(const void *m, at_t x_BCHW), at_t x_BCHW, int64_t at_a_time);

/* One head over all pixels: (B, N, C) each. */
at_t vae_attention(at_t q_BNC, at_t k_BNC, at_t v_BNC);

/* On a GPU: the kernels of the decoder's convolutions (their names begin with "decoder.") in channels-last
 * order, which the images between them take over, so that cuDNN need not turn each around and back. */
void vae_order_for_gpu(struct nn_net *n);

#endif
