/*
 * pretrain.h -- makes the base model of the shapes world: flow matching on rendered scenes, with part of the
 * captions swapped, so that the model draws cleanly and obeys its prompt only now and then.
 */
#ifndef PRETRAIN_H
#define PRETRAIN_H
#include "base/conf.h"
#include "data/shapes.h"
#include "dist/dist.h"
#include "sampler/sample.h"
#include "trainer/optimizer.h"

struct pretrain_run {
	int64_t seed, threads;
	char *out; /* the model directory */
};
struct pretrain_model {
	int64_t heads, head_dim, layers, dual_layers, patch, channels, patch_pixels, text_dim, text_length;
	bool qk_norm;
	double shift;
};
struct pretrain_train {
	char *prompts;
	int64_t steps, batch, clean_steps;
	double caption_noise, t_mean, t_std, max_grad_norm, ema_decay;
};
struct pretrain_eval {
	char *prompts;
	int64_t every, images_per_prompt;
	struct sampler_conf sampler;
};
struct pretrain_conf {
	struct pretrain_run run;
	struct shapes_conf world;
	struct pretrain_model model;
	struct pretrain_train train;
	struct optimizer_conf optimizer;
	struct pretrain_eval eval;
	struct conf_node *tree;
};
struct pretrain_section {
	const char *name, *doc;
	const struct field *fields;
	size_t offset;
};
extern const struct pretrain_section pretrain_sections[]; /* name NULL ends it */

int pretrain_read(struct pretrain_conf *c, const char *path, const char *const *set, int n, struct err *e);
void pretrain_release(struct pretrain_conf *c);
/* Trains and leaves the averaged model in run.out, which appears whole or not at all. */
int pretrain(struct pretrain_conf *c, struct dist *d, struct err *e);

#endif
