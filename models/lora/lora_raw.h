/*
 * lora_raw.h -- an adapter as its file has it, whatever program wrote it: pairs under the file's own module
 * names.
 *
 * PEFT:      DIR/adapter_config.json and adapter_model.safetensors, base_model.model.MODULE.lora_A.weight
 * diffusers: pytorch_lora_weights.safetensors, transformer.MODULE.lora_A.weight; ranks and alphas in the
 *            metadata `lora_adapter_metadata`, or as MODULE.alpha, or else alpha = rank
 * kohya:     lora_unet_MODULE.lora_down.weight, .lora_up.weight and .alpha, MODULE with underscores
 */
#ifndef LORA_RAW_H
#define LORA_RAW_H
#include "aten/safetensors.h"
#include "models/lora/lora.h"

struct lora_raw_pair {
	char *module;
	const struct st_entry *a, *b; /* (R, I), (O, R); NULL: missing */
	struct lora_size size;
};
struct lora_raw {
	const char *layout; /* "PEFT", "diffusers", "kohya" */
	struct st_file file;
	int n, cap;
	struct lora_raw_pair *pair;
};

/* A folder or a file.  What is no plain LoRA of a transformer (DoRA, biases, text encoders) is an error; a
 * pair without one half is not yet. */
int lora_raw_open(struct lora_raw *r, const char *path, struct err *e);
void lora_raw_close(struct lora_raw *r);
/* Does the folder or file look like an adapter?  For messages and choices; nothing is checked. */
bool lora_raw_is(const char *path);

#endif
