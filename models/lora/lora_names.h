/*
 * lora_names.h -- what other programs call the modules of a network (struct nn_rename).
 *
 * Where the original release has to_q, to_k and to_v as one module, they are one site here, too: a name there
 * is a whole site's, or that of sites which follow one another (FLUX.1's linear1).
 */
#ifndef LORA_NAMES_H
#define LORA_NAMES_H
#include "models/nn.h"

/* Of site `site`: "joint_blocks_3_x_block_attn_qkv"; free().  NULL: it has none.
 * *swap: the halves of its rows are the other way round there. */
char *lora_original_name(const struct nn_net *net, int site, bool *swap);
/* That name and the sites that have it, `site` among them. */
struct lora_run {
	char *name; /* free(); NULL: none, and `site` is alone */
	bool swap;
	int first, sites;
	int64_t rows;
};
struct lora_run lora_run_of(const struct nn_net *net, int site);
/* Is it a tensor of the original release, by its name? */
bool lora_is_original(const struct nn_net *net, const char *tensor);
/* The two halves of the rows change places. */
at_t lora_swap_halves(at_t rows_OR);
/* "a.b.0" -> "a_b_0"; free(). */
char *lora_underscored(const char *module);

#endif
