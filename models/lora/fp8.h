/*
 * fp8.h -- the weights of a transformer's blocks in 8 bits (E4M3, a scale a row), for sampling: half the
 * memory traffic of bfloat16 and twice its products a second on GPUs that have them (from sm_89 on).
 *
 * Activations are rounded likewise, token by token.  The linears outside the blocks and the adaLN products
 * stay as they are: they are a few per cent of the work and every token of the image depends on them.
 */
#ifndef FP8_H
#define FP8_H
#include "models/nn.h"

struct fp8_weights {
	int n_site;
	at_t *bytes_OI, *scale_O; /* kept; NULL where the weight stays as it is */
};
/* Rounds the net's weights, merged ones where there are (NULL: none), and so the base's where pairs lie
 * beside them, which are added to the product in the activations' type; *q zeroed, or filled before for the
 * same net, whose memory it reuses. */
void fp8_round(struct fp8_weights *q, const struct nn_net *net, const struct lora_merged *merged);
void fp8_release(struct fp8_weights *q);

#endif
