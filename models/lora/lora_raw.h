/*
 * lora_raw.h -- an adapter as its file has it, whatever program wrote it: pairs under the file's own module
 * names.
 *
 * PEFT:      DIR/adapter_config.json and adapter_model.safetensors, base_model.model.MODULE.lora_A.weight
 * diffusers: pytorch_lora_weights.safetensors, transformer.MODULE.lora_A.weight (a model's own
 *            save_lora_adapter(): MODULE.lora_A.weight); ranks and alphas in the metadata
 *            `lora_adapter_metadata`, PEFT's keys behind "transformer." or, where none is behind a part's
 * name, as they are; or as MODULE.alpha; or else alpha = rank ComfyUI:   diffusion_model.MODULE, otherwise as
 * diffusers kohya:     lora_unet_MODULE.lora_down.weight, .lora_up.weight and .alpha, MODULE with
 * underscores; LyCORIS writes lycoris_MODULE
 *
 * MODULE.lora_A.NAME.weight, as a state_dict() of PEFT has it, is MODULE.lora_A.weight.
 */
#ifndef LORA_RAW_H
#define LORA_RAW_H
#include "aten/safetensors.h"
#include "base/json.h"
#include "models/lora/lora.h"

struct lora_raw_pair {
	char *module;
	const struct st_entry *a, *b; /* (R, I), (O, R); NULL: missing */
	struct lora_size size;
};
struct lora_raw {
	const char *layout; /* "PEFT", "diffusers", "ComfyUI", "kohya" */
	struct st_file file;
	int n, cap;
	struct lora_raw_pair *pair;
};

/* A folder or a file.  What is no plain LoRA of a transformer (DoRA, biases, text encoders) is an error; a
 * pair without one half is not yet. */
int lora_raw_open(struct lora_raw *r, const char *path, struct err *e);
void lora_raw_close(struct lora_raw *r);

/* PEFT's configuration (lora_peft.c); `what` names it in errors.  Whatever would change W x + (alpha / r) B A
 * x is an error that names the key; json_decref() what is returned, NULL with an error. */
int lora_peft_check(const json_t *o, const char *what, struct err *e);
json_t *lora_peft_read(const char *path, struct err *e);
/* Of diffusers' metadata, the transformer's part; {}: it is about another part alone. */
json_t *lora_peft_parse(const char *text, const char *what, struct err *e);
/* Ranks and alphas of all pairs. */
int lora_peft_apply(struct lora_raw *r, json_t *o, const char *what, struct err *e);
/* Does the folder or file look like an adapter?  For messages and choices; nothing is checked. */
bool lora_raw_is(const char *path);

#endif
