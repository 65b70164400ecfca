/* block.c -- a block as a function of listed tensors. */
#include "models/block.h"
#include "models/lora/lora.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

/* What the function depends on, beyond tensors. */
struct call {
	const struct nn_net *net;
	int block, n;
	struct pass pass;
	void (*f)(const void *ctx, const struct pass *pass, const at_t *in, at_t *out);
	char ctx[BLOCK_CONTEXT];
};

/* Counts the tensors of the block that an adapter trains; lists them, unless list is NULL, or with `from`
 * puts those there into the copies of the pass instead. */
static int trained(const struct call *k, at_t *list, const at_t *from, struct lora_pair *pair, at_t *w)
{
	const struct lora *lora = k->pass.lora;
	const struct lora_merged *merged = k->pass.merged;
	int n = 0;

	for (int site = 0; site < k->net->n_site; site++) {
		if (k->net->site[site].block != k->block)
			continue;
		for (int part = 0; lora && part < NN_PARTS; part++) {
			int at = lora->at[site * NN_PARTS + part];

			if (at < 0)
				continue;
			if (from) {
				pair[at].a_RI = from[n];
				pair[at].b_OR = from[n + 1];
			} else if (list) {
				list[n] = lora->pair[at].a_RI;
				list[n + 1] = lora->pair[at].b_OR;
			}
			n += 2;
		}
		if (!lora && merged && merged->w[site]) {
			if (from)
				w[site] = from[n];
			else if (list)
				list[n] = merged->w[site];
			n++;
		}
	}
	return n;
}

/* With a pass of its own: what autograd recomputes must be a function of what it was given. */
static void run(void *ctx, const at_t *in, at_t *out)
{
	const struct call *k = ctx;
	struct pass pass = k->pass;
	struct lora lora;
	struct lora_merged merged;

	if (pass.lora) {
		lora = *pass.lora;
		lora.pair = mem_alloc((size_t)lora.n * sizeof *lora.pair);
		memcpy(lora.pair, pass.lora->pair, (size_t)lora.n * sizeof *lora.pair);
		trained(k, NULL, in + k->n, lora.pair, NULL);
		pass.lora = &lora;
	} else if (pass.merged) {
		merged = *pass.merged;
		merged.w = mem_alloc((size_t)merged.n_site * sizeof *merged.w);
		memcpy(merged.w, pass.merged->w, (size_t)merged.n_site * sizeof *merged.w);
		trained(k, NULL, in + k->n, NULL, merged.w);
		pass.merged = &merged;
	}
	k->f(k->ctx, &pass, in, out);
	if (pass.lora)
		free(lora.pair);
	else if (pass.merged)
		free(merged.w);
}

void block_checkpoint(const struct nn_net *net, int block, const struct pass *pass,
		      void (*f)(const void *ctx, const struct pass *pass, const at_t *in, at_t *out),
		      const void *ctx, size_t size, int n, const at_t *in, int outs, at_t *out)
{
	struct call k = { .net = net, .block = block, .n = n, .pass = *pass, .f = f };
	int more = trained(&k, NULL, NULL, NULL, NULL);
	at_t *all = mem_zero((size_t)(n + more), sizeof *all);

	if (size > BLOCK_CONTEXT)
		at_panic("block_checkpoint: a context of %zu bytes, at most %d", size, BLOCK_CONTEXT);
	memcpy(k.ctx, ctx, size);
	memcpy(all, in, (size_t)n * sizeof *all);
	trained(&k, all + n, NULL, NULL, NULL);
	at_checkpoint(run, &k, sizeof k, n + more, all, outs, out);
	free(all);
}
