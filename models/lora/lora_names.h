/*
 * lora_names.h -- what other programs call the modules of SD3's transformer.
 *
 * sd-scripts and ComfyUI keep the names of the original release, with underscores for dots, and its shapes:
 * to_q, to_k and to_v are one module there (as they are one site here), and two modulations have shift and
 * scale the other way round.
 */
#ifndef LORA_NAMES_H
#define LORA_NAMES_H
#include "models/nn.h"

/* Of site `site` in a whole transformer: "joint_blocks_3_x_block_attn_qkv"; free().  NULL: it has none.
 * *swap: its rows are (shift, scale) there and (scale, shift) here. */
char *lora_original_name(const struct nn_net *net, int site, bool *swap);
/* "a.b.0" -> "a_b_0"; free(). */
char *lora_underscored(const char *module);

#endif
