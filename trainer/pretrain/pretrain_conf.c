/* pretrain_conf.c -- what a pretraining configuration says. */
#include "trainer/pretrain/pretrain.h"
#include <string.h>

static const struct field run_fields[] = {
	FIELD(struct pretrain_run, seed, .init = "0", .min = 0, .max = 9007199254740992.0,
	      .doc = "everything random is a function of this"),
	FIELD(struct pretrain_run, threads, .init = "0", .min = 0, .max = 1024,
	      .doc = "CPU threads a rank; 0: OMP_NUM_THREADS, or where that is not set the cores that it was "
		     "given, divided among the ranks that have the same"),
	FIELD(struct pretrain_run, out, .init = NULL, .doc = "the model directory to make"), FIELD_END
};
static const struct field model_fields[] = {
	FIELD(struct pretrain_model, heads, .init = "4", .min = 1, .max = 256, .doc = "attention heads"),
	FIELD(struct pretrain_model, head_dim, .init = "32", .min = 8, .max = 256,
	      .doc = "channels a head; the width is heads times this"),
	FIELD(struct pretrain_model, layers, .init = "5", .min = 1, .max = 256, .doc = "joint blocks"),
	FIELD(struct pretrain_model, dual_layers, .init = "2", .min = 0, .max = 256,
	      .doc = "how many of the first blocks have a second attention, over the image alone"),
	FIELD(struct pretrain_model, qk_norm, .init = "true", .doc = "RMS norm of queries and keys"),
	FIELD(struct pretrain_model, patch, .init = "2", .min = 1, .max = 16, .unit = "latent pixels",
	      .doc = "side of a token"),
	FIELD(struct pretrain_model, channels, .init = "16", .min = 1, .max = 1024, .doc = "latent channels"),
	FIELD(struct pretrain_model, patch_pixels, .init = "4", .min = 1, .max = 64, .unit = "pixels",
	      .doc = "side of the autoencoder's patch"),
	FIELD(struct pretrain_model, text_dim, .init = "64", .min = 1, .max = 4096,
	      .doc = "channels of the text encoder"),
	FIELD(struct pretrain_model, text_length, .init = "10", .min = 1, .max = 256, .unit = "words",
	      .doc = "length prompts are padded to"),
	FIELD(struct pretrain_model, shift, .init = "3", .min = 0.01, .max = 100,
	      .doc = "timestep shift of the sampling schedule"),
	FIELD(
	    struct pretrain_model, start, .init = "",
	    .doc =
		"a model directory of this command's, of the same sizes, to go on from with its autoencoder; "
		"empty: random weights"),
	FIELD_END
};
static const struct field train_fields[] = {
	FIELD(struct pretrain_train, prompts, .init = NULL,
	      .doc = "training prompts with GenEval metadata, .jsonl"),
	FIELD(struct pretrain_train, steps, .init = "10000", .min = 1, .max = 1e9, .unit = "optimizer steps",
	      .doc = "length of the training"),
	FIELD(struct pretrain_train, end, .init = "0", .min = 0, .max = 1e9, .unit = "optimizer steps",
	      .doc = "stop after this many of them; 0: all"),
	FIELD(struct pretrain_train, batch, .init = "256", .min = 1, .max = 65536, .unit = "scenes",
	      .doc = "scenes a step, over all ranks"),
	FIELD(struct pretrain_train, relation_steps, .init = "0", .min = 0, .max = 1e9,
	      .unit = "optimizer steps",
	      .doc =
		  "steps at the start that draw position prompts alone, the subject of the first half of the "
		  "table of shapes, the object of the second"),
	FIELD(struct pretrain_train, caption_noise, .init = "0.5", .min = 0, .max = 1,
	      .doc = "share of the scenes that get another scene's caption"),
	FIELD(struct pretrain_train, clean_steps, .init = "0", .min = 0, .max = 1e9,
	      .unit = "optimizer steps", .doc = "steps at the start without caption noise"),
	FIELD(struct pretrain_train, t_mean, .init = "0.4", .min = -10, .max = 10,
	      .doc = "mean of the normal whose sigmoid is the flow time"),
	FIELD(struct pretrain_train, t_std, .init = "1.2", .min = 0.01, .max = 10,
	      .doc = "its standard deviation"),
	FIELD(struct pretrain_train, max_grad_norm, .init = "1", .min = 0, .max = 1e9,
	      .doc = "gradients are scaled down to this norm; 0: never"),
	FIELD(struct pretrain_train, ema_decay, .init = "0.998", .min = 0, .max = 1,
	      .doc = "largest decay of the averaged weights, which are saved"),
	FIELD_END
};
#define WEIGHT(tag)                                                                                          \
	FIELD(struct pretrain_weights, tag, .init = "1", .min = 0, .max = 1e6,                               \
	      .doc = "weight of the tag " #tag)
static const struct field weight_fields[] = {
	WEIGHT(single_object), WEIGHT(two_object), WEIGHT(counting), WEIGHT(colors),
	WEIGHT(position),      WEIGHT(color_attr), FIELD_END
};
static const struct field eval_fields[] = {
	FIELD(struct pretrain_eval, prompts, .init = NULL, .doc = "held-out prompts, .jsonl"),
	FIELD(struct pretrain_eval, every, .init = "1000", .min = 0, .max = 1e9, .unit = "optimizer steps",
	      .doc = "evaluation; 0: only at the end"),
	FIELD(struct pretrain_eval, images_per_prompt, .init = "4", .min = 1, .max = 10000, .unit = "images",
	      .doc = "images of each held-out prompt"),
	FIELD_END
};

#define SECTION(member, table, ...)                                                                          \
	{                                                                                                    \
		.name = #member, .fields = table, .offset = offsetof(struct pretrain_conf, member),          \
		__VA_ARGS__                                                                                  \
	}
const struct pretrain_section pretrain_sections[] = {
	SECTION(run, run_fields, .doc = "The run as a whole"),
	SECTION(world, shapes_fields, .doc = "The shapes world"),
	SECTION(model, model_fields, .doc = "The model to make"),
	SECTION(train, train_fields, .doc = "Flow matching on scenes"),
	SECTION(weights, weight_fields, .doc = "How often each tag is drawn, relative to the others"),
	SECTION(optimizer, optimizer_fields, .doc = "AdamW"),
	SECTION(eval, eval_fields, .doc = "Evaluation on held-out prompts"),
	{ .name = "eval.sampler",
	  .fields = eval_sampler_fields,
	  .offset = offsetof(struct pretrain_conf, eval.sampler),
	  .doc = "How evaluation samples" },
	{ .name = NULL }
};

int pretrain_read(struct pretrain_conf *c, const char *path, const char *const *set, int n, struct err *e)
{
	static const char *const known[] = { "run",       "world", "model",   "train", "weights",
					     "optimizer", "eval",  "rewards", NULL };
	static const char *const in_eval[] = { "sampler", NULL };
	const struct field none[] = { FIELD_END };

	*c = (struct pretrain_conf) { 0 };
	if (!(c->tree = conf_read(path, e)))
		return -1;
	for (int i = 0; i < n; i++)
		if (conf_set(c->tree, set[i], e))
			goto out;
	if (conf_fill(NULL, none, c->tree, "", known, e))
		goto out;
	for (const struct pretrain_section *s = pretrain_sections; s->name; s++)
		if (conf_fill((char *)c + s->offset, s->fields, c->tree, s->name,
			      strcmp(s->name, "eval") ? NULL : in_eval, e))
			goto out;
	if (shapes_check(&c->world, e))
		goto out;
	if (!c->eval.sampler.batch) {
		err_set(e, "%s: eval.sampler.batch: auto is for `contraflow train`; give a number",
			conf_where(c->tree, "eval.sampler.batch"));
		goto out;
	}
	if (sampler_check(&c->eval.sampler, e)) {
		err_in(e, "eval.sampler");
		goto out;
	}
	return 0;
out:
	pretrain_release(c);
	return -1;
}

void pretrain_release(struct pretrain_conf *c)
{
	for (const struct pretrain_section *s = pretrain_sections; s->name; s++)
		conf_release((char *)c + s->offset, s->fields);
	conf_node_free(c->tree);
	*c = (struct pretrain_conf) { 0 };
}
