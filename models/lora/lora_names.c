/* lora_names.c -- module names of the original release of SD3, from those of diffusers. */
#include "models/lora/lora_names.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>

struct rename {
	const char *here, *there;
};

static const struct rename whole[] = {
	{ "context_embedder", "context_embedder" },
	{ "time_text_embed.timestep_embedder.linear_1", "t_embedder_mlp_0" },
	{ "time_text_embed.timestep_embedder.linear_2", "t_embedder_mlp_2" },
	{ "time_text_embed.text_embedder.linear_1", "y_embedder_mlp_0" },
	{ "time_text_embed.text_embedder.linear_2", "y_embedder_mlp_2" },
	{ "norm_out.linear", "final_layer_adaLN_modulation_1" },
	{ "proj_out", "final_layer_linear" },
};
static const struct rename in_block[] = {
	{ "norm1.linear", "x_block_adaLN_modulation_1" },
	{ "norm1_context.linear", "context_block_adaLN_modulation_1" },
	{ "attn.to_q", "x_block_attn_qkv" },
	{ "attn.to_out.0", "x_block_attn_proj" },
	{ "attn.add_q_proj", "context_block_attn_qkv" },
	{ "attn.to_add_out", "context_block_attn_proj" },
	{ "attn2.to_q", "x_block_attn2_qkv" },
	{ "attn2.to_out.0", "x_block_attn2_proj" },
	{ "ff.net.0.proj", "x_block_mlp_fc1" },
	{ "ff.net.2", "x_block_mlp_fc2" },
	{ "ff_context.net.0.proj", "context_block_mlp_fc1" },
	{ "ff_context.net.2", "context_block_mlp_fc2" },
};
#define N(table) (sizeof(table) / sizeof *(table))

static const char *find(const struct rename *table, size_t n, const char *here)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(table[i].here, here))
			return table[i].there;
	return NULL;
}

/* "transformer_blocks.12.attn.to_q" -> 12 and "attn.to_q". */
static bool split(const char *name, long *block, const char **rest)
{
	char *end;

	if (!text_starts(name, "transformer_blocks."))
		return false;
	*block = strtol(name + strlen("transformer_blocks."), &end, 10);
	if (*end != '.')
		return false;
	*rest = end + 1;
	return true;
}

char *lora_original_name(const struct nn_net *net, int site, bool *swap)
{
	const struct nn_site *t = &net->site[site];
	const char *rest, *there;
	long block;

	*swap = !strcmp(t->name[0], "norm_out.linear");
	if (!split(t->name[0], &block, &rest)) {
		there = find(whole, N(whole), t->name[0]);
		return there ? mem_str(there) : NULL;
	}
	there = find(in_block, N(in_block), rest);
	/* the last block's text stream has a scale and a shift alone, which diffusers keeps in that order */
	*swap = !strcmp(rest, "norm1_context.linear") && t->row[t->parts] == 2 * t->in;
	return there ? mem_printf("joint_blocks_%ld_%s", block, there) : NULL;
}

char *lora_underscored(const char *module)
{
	char *s = mem_str(module);

	for (char *p = s; *p; p++)
		if (*p == '.')
			*p = '_';
	return s;
}
