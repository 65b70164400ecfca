/*
 * pretrain.h -- makes the base model of the shapes world: flow matching on rendered scenes, with part of the
 * captions swapped, so that the model draws cleanly and obeys its prompt only now and then.
 *
 * Relations are learned first and in two stages.  Which cells a shape may take depends on three things at
 * once: the relation, the shape's role (subject or object) and the cell.  While every shape is as often
 * subject as object, no two of the three predict anything, and training sees no slope.  In the first
 * `relation_steps` only position prompts are drawn, and of them those whose subject is in the first half of
 * the table of shapes and whose object in the second: there the shape tells the role.  Once cells follow from
 * relation and shape, letting go of the order is a small step.
 */
#ifndef PRETRAIN_H
#define PRETRAIN_H
#include "base/conf/conf.h"
#include "data/shapes/shapes.h"
#include "dist/dist.h"
#include "sampler/sample.h"
#include "algorithms/optimizer.h"

struct pretrain_run {
	int64_t seed, threads;
	char *out; /* the model directory */
};
struct pretrain_model {
	int64_t heads, head_dim, layers, dual_layers, patch, channels, patch_pixels, text_dim, text_length;
	bool qk_norm;
	double shift;
	char *start; /* a model directory to go on from */
};
struct pretrain_train {
	char *prompts;
	int64_t steps, end, batch, relation_steps, clean_steps;
	double caption_noise, t_mean, t_std, max_grad_norm, ema_decay;
};
/* How often a tag is drawn, relative to the others. */
struct pretrain_weights {
	double single_object, two_object, counting, colors, position, color_attr;
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
	struct pretrain_weights weights;
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
