/*
 * lora_file.h -- adapters in the layouts of PEFT, diffusers and kohya (lora_raw.h has them), and whole
 * transformers with an adapter in their weights.
 */
#ifndef LORA_FILE_H
#define LORA_FILE_H
#include "models/lora/lora.h"

#define LORA_PEFT_CONFIG       "adapter_config.json"
#define LORA_PEFT_WEIGHTS      "adapter_model.safetensors"
#define LORA_DIFFUSERS_WEIGHTS "pytorch_lora_weights.safetensors"
#define LORA_DIFFUSERS_META    "lora_adapter_metadata"

/* Any layout, from a folder or a file, with each pair's own rank and alpha, float values of any type.  A
 * kohya pair on a fused to_q, to_k, to_v becomes three, each without the ranks whose columns of B are zero
 * for it.  An adapter of another shape, or on modules that `net` lacks, is an error. */
int lora_load(struct lora *l, const struct nn_net *net, const char *path, enum at_device dev, struct err *e);

/* PEFT's folder, float32: DIR must not exist, and appears whole or not at all. */
int lora_save(const struct lora *l, const char *dir, struct err *e);

enum lora_layout { LORA_PEFT, LORA_DIFFUSERS, LORA_KOHYA };
/* A folder for PEFT (as lora_save), one file for the others.  What is read back has the same scale * B A, and
 * in float32 the same A and rank; B and alpha, too, but in diffusers' layout, where the scale is in B and
 * alpha is the rank: not every reader of it looks for an alpha. */
int lora_export(const struct lora *l, enum lora_layout layout, const char *path, enum at_dtype dt,
		struct err *e);

#endif
