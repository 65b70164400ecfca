/*
 * cost.h -- what a forward computes and moves, op by op, and the least time that it can take on a machine
 * whose rates are known: an op takes as long as its products or its bytes, whichever is longer.
 *
 * Counted are multiplications and additions of products, and bytes of weights once a call and of activations
 * as the ops that exist read and write them; what stands in a product's epilogue (biases, GELU) is free.
 */
#ifndef COST_H
#define COST_H
#include "models/nn.h"

struct cost {
	double gemm, copy; /* of the machine, FLOP/s and bytes/s; 0: no seconds are wanted */
	bool backward;     /* what is added is a backward, without gradients of the weights */
	double flop, bytes, seconds;
};
/* What a network is run on. */
struct cost_shape {
	int64_t batch, h, w; /* of latents */
	int64_t text_tokens;
	double size; /* bytes of a number */
};

/* A backward of a product with a frozen weight is a product of that size again, of attention there are four
 * products for two, and of anything else the gradient goes where the value went and reads it once more. */
enum cost_kind { COST_PRODUCT, COST_ATTENTION, COST_ELEMENTS };
void cost_op(struct cost *c, enum cost_kind kind, double flop, double bytes);
/* rows x in -> rows x out */
void cost_linear(struct cost *c, double rows, double in, double out, double size);
/* B batches of Q queries over S keys, all heads D wide */
void cost_attention(struct cost *c, double B, double Q, double S, double D, double size);
/* The linears that adapters can change, N image tokens a sample. */
void cost_sites(struct cost *c, const struct nn_net *n, const struct cost_shape *s, int64_t N);
double cost_rows(const struct nn_site *t, const struct cost_shape *s,
		 int64_t N); /* that a site is applied to */
void cost_add(struct cost *c, const struct cost *more, double times);

#endif
