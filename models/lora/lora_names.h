/*
 * lora_names.h -- what other programs call the modules of a network (struct nn_rename).
 *
 * Where the original release has to_q, to_k and to_v as one module, they are one site here, too: a name
 * there is a whole site's.
 */
#ifndef LORA_NAMES_H
#define LORA_NAMES_H
#include "models/nn.h"

/* Of site `site`: "joint_blocks_3_x_block_attn_qkv"; free().  NULL: it has none.
 * *swap: the halves of its rows are the other way round there. */
char *lora_original_name(const struct nn_net *net, int site, bool *swap);
/* "a.b.0" -> "a_b_0"; free(). */
char *lora_underscored(const char *module);

#endif
