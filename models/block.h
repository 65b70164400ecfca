/*
 * block.h -- gradient checkpointing of one block: it keeps its inputs alone and runs again in the backward.
 *
 * Autograd must see whatever the block depends on, so the tensors that the pass trains in it (nn_begin_block
 * says which linears are in it) become inputs beside the caller's.
 */
#ifndef BLOCK_H
#define BLOCK_H
#include "models/nn.h"

#define BLOCK_CONTEXT 64 /* bytes that *ctx may have */

/* f(ctx, pass, in, out) computes out[0..outs) from in[0..n); it may run again later, when what ctx points to
 * must still be there.  *ctx, `size` bytes, is copied.  Results are of the innermost scope. */
void block_checkpoint(const struct nn_net *net, int block, const struct pass *pass,
		      void (*f)(const void *ctx, const struct pass *pass, const at_t *in, at_t *out),
		      const void *ctx, size_t size, int n, const at_t *in, int outs, at_t *out);

#endif
