#include "trainer/experiment.h"
#include "base/machine/share.h"
#include "base/file.h"
#include "base/mem.h"
#include "rewards/mixture/mixture.h"
#include "trainer/fit.h"
#include "trainer/prompt_sets.h"
#include <stdlib.h>
#include <string.h>

static const struct field run_fields[] = {
	FIELD(struct run_conf, name, .init = "",
	      .doc = "name of the run; empty: the name of the configuration file"),
	FIELD(struct run_conf, seed, .init = "0", .min = 0, .max = 9007199254740992.0,
	      .doc = "seed of everything random"),
	FIELD(struct run_conf, device, .init = "auto", .choices = at_device_names,
	      .doc = "where tensors live; auto: cuda if the build has it and a GPU is visible, else cpu"),
	FIELD(struct run_conf, dtype, .init = "float32", .choices = at_weight_dtypes,
	      .doc = "type of the frozen weights; adapters, optimizer and loss are always float32"),
	FIELD(
	    struct run_conf, memory, .init = "0.9",
	    .doc =
		"how much memory `auto` sizes may use on each rank: a share of what is free (0.9), or a size "
		"(600MiB, 2.5GiB) for all of its tensors, weights included"),
	FIELD(struct run_conf, threads, .init = "0", .min = 0, .max = 1024,
	      .doc =
		  "CPU threads per rank; 0: OMP_NUM_THREADS or, if that is not set, the rank's share of the "
		  "cores that it may run on"),
	FIELD(struct run_conf, deterministic, .init = "false",
	      .doc = "on a GPU, use only deterministic kernels: resumed and repeated runs are then "
		     "bit-identical there too, and updates are slower; a reward model that needs another "
		     "kernel fails"),
	FIELD(struct run_conf, timeout, .init = "1800", .min = 0, .max = 1e9, .unit = "s",
	      .doc =
		  "end the job when a rank has shown no sign of life for so long: it is stuck in a reward, a "
		  "file or a GPU, or it, its host or the network is lost; longer than anything that shows "
		  "none in between (a call of a reward, a micro-batch, reading a file's weights); 0: never"),
	FIELD(struct run_conf, max_seconds, .init = "0", .min = 0, .max = 1e9, .unit = "s",
	      .doc =
		  "end this process after so many seconds, start-up included, as SIGTERM would: with a "
		  "checkpoint and `run.requeue_code`, and no epoch is begun that would not end in time. For "
		  "slices of a queue; `train.max_seconds` counts over resumes, and ends the run; 0: no "
		  "limit"),
	FIELD(struct run_conf, requeue_code, .init = "75", .min = 1, .max = 255,
	      .doc = "exit code of a run that SIGTERM, SIGUSR1, SIGINT or `run.max_seconds` ended early and "
		     "that `--resume` goes on with"),
	FIELD_END
};
static const struct field ranks_fields[] = {
	FIELD(struct ranks_conf, reward, .init = "0", .min = 0, .max = 1e6, .unit = "ranks",
	      .doc =
		  "how many ranks, the last ones of the job, score images for the others, which train: puts "
		  "large reward models on GPUs of their own; 0: every rank scores what it samples"),
	FIELD_END
};
static const struct field model_fields[] = {
	FIELD(struct model_conf, path, .init = NULL, .doc = "model directory in diffusers layout"),
	FIELD(struct model_conf, text_length, .was = "t5_length", .init = "auto", .min = 1, .max = 4096,
	      .words = batch_words, .unit = "tokens",
	      .doc = "how much of a prompt is read, by Stable Diffusion 3's T5 and the encoders of other "
		     "families; what is longer is cut off; auto: the family's usual length in training, 128 "
		     "for Stable Diffusion 3"),
	FIELD(struct model_conf, vae_dtype, .init = "float32", .choices = at_weight_dtypes,
	      .doc = "type in which the VAE decodes images; the published runs use float32"),
	FIELD(struct model_conf, vae_batch, .init = "1", .min = 1, .max = 4096, .unit = "images",
	      .doc = "images decoded at a time; more keep a GPU busier and take more memory"),
	FIELD(struct model_conf, text_cache, .init = "",
	      .doc =
		  "folder where prompt embeddings and hashes of model files are kept for later runs; empty: "
		  "$XDG_CACHE_HOME/contraflow/text or ~/.cache/contraflow/text"),
	FIELD_END
};
static const struct field prompts_fields[] = {
	FIELD(struct prompts_conf, train, .init = "",
	      .doc = "training prompts, .txt or .jsonl; required, unless there are `prompts.sets`"),
	FIELD(struct prompts_conf, test, .init = "",
	      .doc = "held-out prompts for evaluation; empty: no evaluation"),
	FIELD(struct prompts_conf, groups, .init = "48", .min = 1, .max = 1e6, .unit = "prompts",
	      .doc = "prompts per epoch, over all ranks"),
	FIELD(struct prompts_conf, group_size, .init = "24", .min = 2, .max = 1e4, .unit = "images",
	      .doc = "images per prompt: the group within which rewards are compared"),
	FIELD(
	    struct prompts_conf, draw, .init = "0", .min = 0, .max = 1e5, .unit = "images",
	    .doc =
		"draw so many images of each prompt and train on group_size of them, the best and the worst "
		"half by total reward; 0: as many as are trained"),
	FIELD(struct prompts_conf, by_tag, .init = "false",
	      .doc = "sample the metadata's tags in turn: rare ones are trained as often as common ones"),
	FIELD(struct prompts_conf, height, .init = "0", .min = 0, .max = 16384, .unit = "pixels",
	      .doc = "height of an image; 0: the model's own size"),
	FIELD(struct prompts_conf, width, .init = "0", .min = 0, .max = 16384, .unit = "pixels",
	      .doc = "width of an image; 0: the model's own size"),
	FIELD_END
};
static const struct field preview_fields[] = {
	FIELD(struct preview_conf, steps, .init = "0", .min = 0, .max = 1000,
	      .doc =
		  "with prompts.draw, choose by images of so few steps; the chosen ones are sampled again, "
		  "from the same noise, as `rollout` says, and their scores alone count; 0: choose by images "
		  "of the rollout's own steps"),
	FIELD(struct preview_conf, solver, .init = "", .doc = "solver of these images; empty: the rollout's"),
	FIELD(struct preview_conf, fp8, .init = "false",
	      .doc = "sample them with 8-bit weights and activations"),
	FIELD_END
};
static const struct field_word block_words[] = {
	{ "auto", -1 }, { "false", 0 }, { "true", TRANSFORMER_BLOCKS }, { NULL, 0 }
};
static const char *const timestep_names[] = { "rollout", "float", NULL };
static const struct field train_fields[] = {
	FIELD(struct train_conf, algorithm, .init = ALGORITHM_DEFAULT, .choices = algorithm_names,
	      .doc = "the RL algorithm, whose own keys are in the section of its name"),
	FIELD(struct train_conf, max_steps, .init = "1000", .min = 1, .max = 1e9, .unit = "optimizer steps",
	      .doc = "length of the run"),
	FIELD(struct train_conf, gradient_checkpointing, .was = "checkpoint_blocks", .init = "false",
	      .min = 0, .max = TRANSFORMER_BLOCKS, .words = block_words, .unit = "blocks",
	      .doc =
		  "how many of the transformer's blocks are computed again in the backward pass, which saves "
		  "memory; true: all; auto: as few as fit into `run.memory`"),
	FIELD(struct train_conf, max_seconds, .init = "0", .min = 0, .max = 1e9, .unit = "s",
	      .doc = "end the run after the first step that passes this training time, resumes included "
		     "(`run.max_seconds` is of one process); 0: no limit"),
	FIELD(struct train_conf, steps_per_epoch, .init = "1", .min = 1, .max = 1000,
	      .unit = "optimizer steps",
	      .doc = "optimizer steps per epoch, among which the epoch's images are divided"),
	FIELD(struct train_conf, micro_batch, .init = "32", .min = 1, .max = 65536, .words = batch_words,
	      .doc =
		  "(image, noise level) pairs per forward and backward pass on each rank; auto: as many as "
		  "fit into `run.memory`"),
	FIELD(struct train_conf, cuda_graphs, .was = "graphs", .init = "false",
	      .doc = "on a GPU, replay the forward and backward pass from CUDA graphs; batches where "
		     "an algorithm's `kl_every` leaves out pairs run without"),
	FIELD(struct train_conf, stop_at, .init = "0", .min = 0, .max = 1e9,
	      .doc = "end the run or stage after an evaluation whose held-out score is at least this: "
		     "`strict` where a "
		     "reward gives it, else `soft` (the one that is logged); 0: never"),
	FIELD(struct train_conf, timestep_fraction, .init = "0.99", .min = 1e-3, .max = 1,
	      .doc = "share of the rollout's noise levels at which each image is trained; the count is "
		     "rounded down"),
	FIELD(struct train_conf, timesteps, .init = "rollout", .choices = timestep_names,
	      .doc = "timestep given to the transformer in an update: as in the rollout (rollout.timesteps), "
		     "or 1000 sigma"),
	FIELD(struct train_conf, max_grad_norm, .init = "1", .min = 0, .max = 1e9,
	      .doc = "clip gradients to this norm; 0: no clipping"),
	FIELD(struct train_conf, max_skipped, .init = "5", .min = 1, .max = 1e6, .unit = "steps",
	      .doc =
		  "go back to the last checkpoint after this many non-finite steps in a row, and end the run "
		  "after this many in a row that had nothing to learn from"),
	FIELD(struct train_conf, max_rollbacks, .init = "3", .min = 0, .max = 1e6,
	      .doc = "how often a run goes back to a checkpoint before it ends with an error"),
	FIELD(struct train_conf, max_unavailable, .init = "0.5", .min = 0, .max = 1,
	      .doc = "stop the run when more than this share of an epoch's images has no reward"),
	FIELD_END
};
static const char *const alarm_names[] = { "none", "warn", "stop", "kl", NULL };
static const struct field eval_fields[] = {
	FIELD(struct eval_conf, every, .init = "10", .min = 0, .max = 1e9, .unit = "optimizer steps",
	      .doc = "steps between evaluations on the held-out prompts; 0: only before and after training"),
	FIELD(struct eval_conf, images_per_prompt, .init = "1", .min = 1, .max = 10000, .unit = "images",
	      .doc = "images per held-out prompt, each from its own fixed noise"),
	FIELD(struct eval_conf, max_unavailable, .init = "0.5", .min = 0, .max = 1,
	      .doc = "where more than this share of an evaluation's images lacks the held-out score, its "
		     "numbers are "
		     "logged with a warning and decide nothing (`train.stop_at`, `eval.alarm`)"),
	FIELD(struct eval_conf, alarm, .init = "warn", .choices = alarm_names,
	      .doc = "what to do when a reward that is not trained on (of `eval.rewards`, or with `weight: "
		     "0`) has fallen "
		     "from its best evaluation while the total rose, both by more than their 95 % intervals: "
		     "`warn`, "
		     "`stop` the run or stage, raise the weight of the `kl` term, or `none` of these"),
	FIELD(struct eval_conf, alarm_kl, .init = "2", .min = 1, .max = 1000,
	      .doc = "`eval.alarm: kl`: each alarm multiplies the weight of the KL term by this"),
	FIELD_END
};
const struct field checkpoint_fields[] = {
	FIELD(struct checkpoint_conf, every, .init = "50", .min = 0, .max = 1e9, .unit = "optimizer steps",
	      .doc = "steps between checkpoints; 0: only at the end"),
	FIELD(struct checkpoint_conf, keep, .init = "2", .min = 1, .max = 1e6, .unit = "checkpoints",
	      .doc = "how many of the newest checkpoints to keep"),
	FIELD_END
};
#define SECTION(member, table, ...)                                                                          \
	{                                                                                                    \
		.name = #member, .fields = table, .offset = offsetof(struct experiment, member), __VA_ARGS__ \
	}
const struct experiment_section experiment_sections[] = {
	SECTION(run, run_fields, .doc = "The run as a whole"),
	SECTION(ranks, ranks_fields, .doc = "Division of the ranks"),
	SECTION(model, model_fields, .doc = "The base model"),
	SECTION(lora, lora_fields, .doc = "The LoRA adapter that is trained"),
	SECTION(prompts, prompts_fields, .doc = "Prompts and image sizes of an epoch"),
	SECTION(rollout, rollout_fields, .doc = "How the old policy samples"),
	{ .name = "rollout.preview",
	  .fields = preview_fields,
	  .offset = offsetof(struct experiment, preview),
	  .doc = "Cheaper images to choose from" },
	SECTION(advantage, advantage_fields,
		.doc = "From rewards to advantages and optimality probabilities"),
	SECTION(train, train_fields, .doc = "The update"),
	SECTION(optimizer, optimizer_fields, .doc = "AdamW"),
	SECTION(policy, policy_fields, .doc = "The old and the averaged policy"),
	SECTION(eval, eval_fields, .doc = "Evaluation of the averaged policy on held-out prompts"),
	{ .name = "eval.sampler",
	  .fields = eval_sampler_fields,
	  .offset = offsetof(struct experiment, eval.sampler),
	  .doc = "How evaluation samples" },
	SECTION(checkpoint, checkpoint_fields, .doc = "Checkpoints"),
	SECTION(log, log_fields, .doc = "Logging"),
	{ .name = NULL }
};

/* First-level names below `section` that tables of their own or plug-ins read. */
static const char *const *others_of(const char *section)
{
	static const char *const in_eval[] = { "sampler", "rewards", NULL };
	static const char *const in_rollout[] = { "preview", NULL };
	static const char *const in_prompts[] = { "sets", NULL };

	if (!strcmp(section, "prompts"))
		return in_prompts;
	if (!strcmp(section, "rollout"))
		return in_rollout;
	return strcmp(section, "eval") ? NULL : in_eval;
}

static int check_sections(const struct conf_node *tree, struct err *e)
{
	const struct field none[] = { FIELD_END };
	enum { MOST = 64 };
	const char *known[MOST + 1];
	int n = 0;

	for (const struct experiment_section *s = experiment_sections; s->name; s++)
		if (!strchr(s->name, '.'))
			known[n++] = s->name;
	known[n++] = "rewards";
	known[n++] = "stages";
	for (int i = 0; algorithms[i] && n < MOST; i++)
		known[n++] = algorithms[i]->name;
	known[n] = NULL;
	return conf_fill(NULL, none, tree, "", known, e);
}

/* Every algorithm's section is read, so that none holds a mistake; that of the chosen one is kept. */
static int fill_algorithm(struct experiment *x, struct err *e)
{
	x->algorithm = algorithm_find(x->train.algorithm);
	for (int i = 0; algorithms[i]; i++) {
		const struct algorithm_type *type = algorithms[i];
		void *conf = mem_zero(1, type->conf_size);

		if (conf_fill(conf, type->fields, x->tree, type->name, NULL, e)) {
			free(conf);
			return -1;
		}
		if (type == x->algorithm) {
			x->algorithm_conf = conf;
		} else {
			conf_release(conf, type->fields);
			free(conf);
		}
	}
	return 0;
}

/* Steps are normal, and some noise is in them; a solver that cannot be opened is somebody else's error. */
static bool has_law(const struct sampler_conf *c)
{
	struct err ignored;
	const struct solver_type *type = solver_open(c->solver, &ignored);
	bool law = !type || (type->law && (c->eta < 0 ? type->strength : c->eta) > 0);

	solver_close(type);
	return law;
}

/* More images drawn than trained. */
static int check_draw(const struct experiment *x, struct err *e)
{
	const struct prompts_conf *c = &x->prompts;
	bool more = c->draw > c->group_size;

	if (c->draw && c->draw < c->group_size)
		return err_set(
		    e, "prompts.draw = %lld: fewer than the prompts.group_size = %lld that are trained",
		    (long long)c->draw, (long long)c->group_size);
	if (!more && (x->preview.steps || !strcmp(x->advantage.over, "drawn")))
		return err_set(e, "%s: nothing is chosen from without prompts.draw above prompts.group_size",
			       x->preview.steps ? "rollout.preview.steps" : "advantage.over = 'drawn'");
	if (x->preview.steps && !strcmp(x->advantage.over, "drawn"))
		return err_set(e,
			       "advantage.over = 'drawn': scores of previews (rollout.preview.steps) are not "
			       "those of the images that are trained");
	if (x->preview.steps && x->algorithm->demands(x->algorithm_conf, &x->advantage).needs & NEEDS_LAW)
		return err_set(
		    e,
		    "rollout.preview.steps: %s samples with noise on the way, and a preview would show "
		    "another image",
		    x->algorithm->name);
	return 0;
}

/* What the algorithm has against the rest of the configuration. */
static int check_algorithm(const struct experiment *x, struct err *e)
{
	const struct algorithm_type *type = x->algorithm;
	const struct setting s = { .rollout = &x->rollout,
				   .advantage = &x->advantage,
				   .dtype = x->run.dtype,
				   .group_size = x->prompts.group_size,
				   .steps_per_epoch = x->train.steps_per_epoch };

	if (type->group && x->train.steps_per_epoch > x->prompts.groups)
		return err_set(
		    e,
		    "train.steps_per_epoch = %lld: %s looks at whole groups, and an epoch has %lld "
		    "(prompts.groups)",
		    (long long)x->train.steps_per_epoch, type->name, (long long)x->prompts.groups);
	if (type->demands(x->algorithm_conf, &x->advantage).needs & NEEDS_LAW && !has_law(&x->rollout))
		return err_set(
		    e,
		    "rollout.solver = '%s': %s learns from steps with noise: take a stochastic solver "
		    "whose steps have a law, and rollout.eta above 0",
		    x->rollout.solver, type->name);
	if (!strcmp(x->eval.alarm, "kl") && !(type->demands(x->algorithm_conf, &x->advantage).kl > 0))
		return err_set(
		    e,
		    "eval.alarm = 'kl': the weight of %s's KL term is 0, and no factor raises that: set "
		    "its kl_beta",
		    type->name);
	if (type->check && type->check(x->algorithm_conf, &s, e))
		return err_in(e, "train.algorithm %s", type->name);
	return 0;
}

/* Keys that would change nothing. */
static int check_effect(const struct experiment *x, struct err *e)
{
	const char *where = conf_where(x->tree, "advantage.reward_clip");

	if (x->advantage.reward_clip > 0 && strcmp(x->advantage.combine, "normalised") != 0)
		return err_set(
		    e,
		    "%s%sadvantage.reward_clip = %g: it bounds each reward's own advantages, which "
		    "only `advantage.combine: normalised` makes: set that, or drop this",
		    where, *where ? ": " : "", x->advantage.reward_clip);
	return 0;
}

/* The tables' sections from x->tree. */
static int fill(struct experiment *x, struct err *e)
{
	if (check_sections(x->tree, e))
		return experiment_hint(e);
	for (const struct experiment_section *s = experiment_sections; s->name; s++)
		if (conf_fill((char *)x + s->offset, s->fields, x->tree, s->name, others_of(s->name), e))
			return experiment_hint(e);
	share_replace(&x->model.path);
	if (prompt_sets_fill(x, e))
		return experiment_hint(e);
	return fill_algorithm(x, e) ? experiment_hint(e) : 0;
}

/* What is the same for all stages. */
static bool is_common(const char *section)
{
	static const char *const common[] = { "run", "ranks", "model", "lora", "stages" };

	for (size_t i = 0; i < sizeof common / sizeof *common; i++)
		if (!strcmp(section, common[i]))
			return true;
	return false;
}

/* A stage is a section, and may not change what all have in common. */
static int check_stages(const struct experiment *x, struct err *e)
{
	for (int i = 0; i < x->n_stages; i++) {
		char *section = mem_printf("stages.%s", x->stage[i]);
		const char *where = conf_where(x->tree, section);
		int n, ret = 0;

		if (!*x->stage[i] || !conf_is_section(x->tree, section))
			ret = err_set(e, "%s: stages: '%s' is not a stage: write its name with keys below it",
				      where, x->stage[i]);
		else if (!mixture_name_is_good(x->stage[i])) /* files of the run carry it */
			ret = err_set(
			    e, "%s: stages: '%s' is not a valid name: use letters, digits, '-' and '_'",
			    where, x->stage[i]);
		if (!ret)
			ret = log_check_stage(x->tree, section, e);
		const char **keys = conf_keys(x->tree, section, &n);
		for (int k = 0; k < n && !ret; k++)
			if (is_common(keys[k]))
				ret = err_set(e,
					      "%s: %s.%s: a stage cannot have this section, which is the "
					      "same for all stages",
					      where, section, keys[k]);
		free(keys);
		free(section);
		if (ret)
			return -1;
	}
	return 0;
}

int experiment_stages(const struct experiment *x)
{
	return x->n_stages ? x->n_stages : 1;
}

int experiment_stage(struct experiment *out, const struct experiment *x, int i, struct err *e)
{
	*out = (struct experiment) { .tree = conf_copy(x->tree, "") };
	conf_remove(out->tree, "stages");
	if (x->n_stages) {
		char *section = mem_printf("stages.%s", x->stage[i]),
		     *rewards = mem_printf("%s.rewards", section),
		     *held_out = mem_printf("%s.eval.rewards", section);
		struct conf_node *over = conf_copy(x->tree, section);

		prompt_sets_replace(out->tree, x->tree, section);
		if (*conf_where(x->tree, rewards))
			conf_remove(out->tree, "rewards");
		if (*conf_where(x->tree, held_out)) {
			struct conf_node *eval = conf_copy(out->tree, "eval");

			conf_remove(eval, "rewards");
			conf_remove(out->tree, "eval");
			conf_put(out->tree, "eval", eval);
		}
		free(held_out);
		conf_overlay(out->tree, over);
		free(section);
		free(rewards);
	}
	if (fill(out, e) || check_algorithm(out, e) || check_draw(out, e) ||
	    mixture_resolve(out->tree, NULL, e) || check_effect(out, e)) {
		experiment_release(out);
		return x->n_stages ? err_in(e, "stage %s", x->stage[i]) : -1;
	}
	free(out->run.name);
	out->run.name = mem_str(x->run.name);
	return 0;
}

int experiment_from(struct experiment *x, const struct conf_node *tree, struct err *e)
{
	*x = (struct experiment) { .tree = conf_copy(tree, "") };
	if (!fill(x, e) && !check_algorithm(x, e) && !check_draw(x, e))
		return 0;
	experiment_release(x);
	return -1;
}

/* Owns the tree (NULL: e says why) that `path` holds. */
static int read_tree(struct experiment *x, struct conf_node *tree, const char *path, const char *const *set,
		     int n, struct err *e)
{
	*x = (struct experiment) { .tree = tree };
	if (!tree)
		return -1;
	for (int i = 0; i < n; i++)
		if (conf_set(x->tree, set[i], e))
			goto out;
	if (fill(x, e))
		goto out;
	double share, bytes;
	if (fit_parse_memory(&share, &bytes, x->run.memory, e)) {
		const char *where = conf_where(x->tree, "run.memory");
		err_in(e, "%s%srun.memory", where, *where ? ": " : "");
		goto out;
	}
	x->stage = conf_keys(x->tree, "stages", &x->n_stages);
	if (check_stages(x, e))
		goto out;
	for (int i = 0; i < experiment_stages(x); i++) {
		struct experiment stage;

		if (experiment_stage(&stage, x, i, e))
			goto out;
		experiment_release(&stage);
	}
	if (!*x->run.name) {
		const char *base = file_base(path), *dot = strrchr(base, '.');
		free(x->run.name);
		x->run.name = mem_printf("%.*s", dot ? (int)(dot - base) : (int)strlen(base), base);
	}
	return 0;
out:
	experiment_release(x);
	return -1;
}

int experiment_read(struct experiment *x, const char *path, const char *const *set, int n, struct err *e)
{
	return read_tree(x, conf_read(path, e), path, set, n, e);
}

int experiment_read_text(struct experiment *x, const char *text, size_t size, const char *path,
			 const char *const *set, int n, struct err *e)
{
	return read_tree(x, conf_parse(text, size, path, e), path, set, n, e);
}

uint64_t experiment_hash(const struct experiment *x)
{
	struct conf_node *tree = conf_empty();
	struct text text = { 0 };

	experiment_store(x, tree);
	conf_emit(&text, tree);
	uint64_t hash = file_hash(text.s, text.n, 0);
	text_free(&text);
	conf_node_free(tree);
	return hash;
}

char *experiment_cache(const struct experiment *x)
{
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

	if (*x->model.text_cache)
		return mem_str(x->model.text_cache);
	if (xdg && *xdg)
		return file_join(xdg, "contraflow/text");
	return home && *home ? file_join(home, ".cache/contraflow/text") : mem_str(".cache/contraflow/text");
}

void experiment_release(struct experiment *x)
{
	for (const struct experiment_section *s = experiment_sections; s->name; s++)
		conf_release((char *)x + s->offset, s->fields);
	if (x->algorithm_conf)
		conf_release(x->algorithm_conf, x->algorithm->fields);
	free(x->algorithm_conf);
	prompt_sets_release(x);
	free(x->stage);
	conf_node_free(x->tree);
	*x = (struct experiment) { 0 };
}

/* `rewards` and `eval.rewards`, their names behind `prefix`. */
static void put_rewards(struct conf_node *out, const struct conf_node *tree, const char *prefix)
{
	static const char *const sections[] = { "rewards", "eval.rewards" };
	struct conf_node *resolved = conf_empty();
	struct err ignored; /* experiment_read has tried */

	for (int i = 0; i < 2 && (i || !mixture_resolve(tree, resolved, &ignored)); i++) {
		char *section = mem_printf("%s%s", prefix, sections[i]);

		if (conf_is_section(resolved, sections[i]))
			conf_put(out, section, conf_copy(resolved, sections[i]));
		free(section);
	}
	conf_node_free(resolved);
}

/* The tables' sections and the algorithm's, their names behind `prefix`. */
static void put_sections(struct conf_node *out, const struct experiment *x, const char *prefix, bool common)
{
	char *section;

	for (const struct experiment_section *s = experiment_sections; s->name; s++) {
		if (!common && is_common(s->name))
			continue;
		section = mem_printf("%s%s", prefix, s->name);
		if (!common && !strcmp(s->name, "log"))
			log_store_stage(out, &x->log, section);
		else
			conf_store(out, (const char *)x + s->offset, s->fields, section);
		if (!strcmp(s->name, "prompts"))
			prompt_sets_store(x, out, section);
		free(section);
	}
	section = mem_printf("%s%s", prefix, x->algorithm->name);
	conf_store(out, x->algorithm_conf, x->algorithm->fields, section);
	free(section);
}

void experiment_store(const struct experiment *x, struct conf_node *out)
{
	put_sections(out, x, "", true);
	if (!x->n_stages)
		put_rewards(out, x->tree, "");
	for (int i = 0; i < x->n_stages; i++) {
		struct experiment stage;
		struct err ignored; /* as above */
		char *prefix = mem_printf("stages.%s.", x->stage[i]);

		if (!experiment_stage(&stage, x, i, &ignored)) {
			put_sections(out, &stage, prefix, false);
			put_rewards(out, stage.tree, prefix);
			experiment_release(&stage);
		}
		free(prefix);
	}
}
