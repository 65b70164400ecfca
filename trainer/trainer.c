/* trainer.c -- opening everything a training run needs, with each mistake of the user found before any work
 * is done. */
#include "trainer/trainer.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include "algorithms/gradient.h"
#include "models/content_hash.h"
#include "models/lora/lora_file.h"
#include "trainer/record/adapters.h"
#include "trainer/record/checkpoints.h"
#include "trainer/prompt_sets.h"
#include "trainer/reward_ranks.h"
#include "dist/startup.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int read_prompts(struct trainer *t, struct err *e)
{
	const struct prompts_conf *c = &t->x->prompts;

	if (t->archives)
		prompts_copy(&t->train, &t->archives->prompts);
	else if (prompts_read_train(&t->train, t->x, e))
		return -1;
	if (prompts_read_test(&t->test, t->x, e))
		return -1;
	if (t->test.n)
		prompts_warn_seen(&t->test, &t->train);
	if (t->archives)
		return 0;
	if (c->groups * c->group_size < t->dist->ranks)
		return err_set(e,
			       "%lld images per epoch (prompts.groups x prompts.group_size) are fewer than "
			       "the %d ranks; "
			       "start fewer ranks or sample more",
			       (long long)(c->groups * c->group_size), t->dist->ranks);
	return 0;
}

/* The model's files are read for their hashes once a job: by rank 0, and where machines have disks each, by
 * one rank of each, which must find what rank 0 found. */
static int hash_files(struct trainer *t, const struct pipeline_options *o, struct err *e)
{
	struct dist *d = t->dist;
	struct pipeline_hashes own = { 0 };
	double start = clock_now();
	char size[32];
	int ret = 0;

	if (d->rank == 0)
		ret = pipeline_hash(&t->hashes, o, e);
	if (dist_agree(d, ret, e))
		return -1;
	if (d->rank == 0 && content_hash_read())
		log_info("model files: %s read for their hashes in %.1f s",
			 text_size(size, (double)content_hash_read()), clock_now() - start);
	dist_broadcast(d, &t->hashes, sizeof t->hashes, 0);
	if (d->local_rank == 0 && d->rank != 0) {
		ret = pipeline_hash(&own, o, e);
		if (!ret && (own.transformer != t->hashes.transformer || own.text != t->hashes.text))
			ret =
			    err_set(e, "%s: these files are not those that rank 0 has by this name", o->dir);
	}
	return dist_agree(d, ret, e);
}

/* Collective. */
static int open_pipeline(struct trainer *t, enum at_device dev, struct err *e)
{
	const struct experiment *x = t->file;
	enum at_dtype dt, vae;

	const struct family *family = pipeline_family(x->model.path, e);
	int ret =
	    !family || at_dtype_parse(&dt, x->run.dtype, e) || at_dtype_parse(&vae, x->model.vae_dtype, e);

	if (dist_agree(t->dist, ret ? -1 : 0, e))
		return -1;
	char *cache = experiment_cache(x);
	struct pipeline_options m = { .dir = x->model.path,
				      .dtype = dt,
				      .device = dev,
				      .vae_dtype = vae,
				      .vae_batch = x->model.vae_batch,
				      .text_length =
					  x->model.text_length ? x->model.text_length : family->text_length,
				      .text_cache = cache,
				      .hashes = &t->hashes };

	ret = hash_files(t, &m, e) || dist_agree(t->dist, pipeline_open(&t->pipeline, &m, e), e) ? -1 : 0;
	free(cache);
	return ret;
}

/* All of a stage but its judges. */
static void leave(struct trainer *t)
{
	gradient_replays_free(t->gradients);
	t->gradients = NULL;
	sampler_release(&t->rollout);
	sampler_release(&t->eval_sampler);
	if (t->preview.pipeline)
		sampler_release(&t->preview);
	t->preview = (struct sampler) { 0 };
	prompts_free(&t->train);
	prompts_free(&t->test);
	if (t->x)
		experiment_release(t->x);
	t->x = NULL;
}

static int check_sampler(const struct trainer *t, const struct sampler_conf *c, const char *section,
			 struct err *e)
{
	const char *where = conf_where(t->x->tree, section);

	return sampler_check(c, e) ? err_in(e, "%s%s%s", where, *where ? ": " : "", section) : 0;
}

static int check_size(const struct trainer *t, struct err *e)
{
	const struct prompts_conf *c = &t->x->prompts;
	const char *height = conf_where(t->x->tree, "prompts.height"),
		   *where = *height ? height : conf_where(t->x->tree, "prompts.width");
	char *what = mem_printf("%s%sprompts.", where, *where ? ": " : "");
	int ret = pipeline_check_size(t->x->model.path, c->height, c->width, what, e);

	free(what);
	return ret;
}

static int open_judges(struct trainer *t, struct err *e)
{
	const struct trainer_scorer *s = t->scorer;

	return s ? mixture_open_over(&t->mixture, t->x->tree, s->backend, s->ctx, e)
		 : reward_ranks_open(&t->mixture, t->dist, t->x->tree, (int)t->entered, e);
}

/* Sizes, solvers and prompts of a stage, and its judges, opened: what can be tried without the model and
 * without much work. */
static int try_stage(struct trainer *t, bool judges, struct err *e)
{
	if (check_sampler(t, &t->x->rollout, "rollout", e) ||
	    check_sampler(t, &t->x->eval.sampler, "eval.sampler", e) || check_size(t, e))
		return -1;
	if (judges && open_judges(t, e))
		return -1;
	return read_prompts(t, e) || (judges && ((!t->archives && judging_check(t->mixture, &t->train, e)) ||
						 (t->test.n && judging_check(t->mixture, &t->test, e))))
		   ? -1
		   : 0;
}

static int open_stage(struct trainer *t, int64_t i, bool judges, struct err *e)
{
	if (experiment_stage(&t->stage, t->file, (int)i, e))
		return -1;
	t->x = &t->stage;
	policies_warn(&t->x->policy);
	t->entered = i;
	if (try_stage(t, judges, e))
		return t->file->n_stages ? err_in(e, "stage %s", t->file->stage[i]) : -1;
	return 0;
}

static int load_judges(struct trainer *t, struct err *e)
{
	if (t->archives && !t->test.n)
		return 0; /* nothing is scored */
	if (mixture_load(t->mixture, e))
		return t->file->n_stages ? err_in(e, "stage %s", t->file->stage[t->entered]) : -1;
	return 0;
}

static void close_judges(struct trainer *t)
{
	mixture_close(t->mixture);
	t->mixture = NULL;
}

/* What the algorithm has against the steps, all of them with noise. */
static int check_steps(struct trainer *t, struct err *e)
{
	const struct algorithm_type *type = t->x->algorithm;
	struct sampler *s = &t->rollout;

	if (!type->check_steps)
		return 0;
	s->noisy_from = 0;
	s->noisy_to = s->schedule.steps;
	struct transition *law = trainer_laws(t);
	const struct round r = { .schedule = &s->schedule, .levels = trainer_levels(t), .law = law };
	int ret = type->check_steps(t->x->algorithm_conf, &r, e);
	free(law);
	return ret ? err_in(e, "train.algorithm %s", type->name) : 0;
}

/* That some step takes noise, where the algorithm learns from those: a solver may have a law without. */
static int check_noise(struct trainer *t, struct err *e)
{
	bool some = false;

	if (check_steps(t, e))
		return -1;
	trainer_window(t);
	struct transition *law = trainer_laws(t);
	for (int i = 0; law && i < t->rollout.schedule.steps; i++)
		some |= law[i].std > 0;
	free(law);
	if (!law || some)
		return 0;
	return err_set(e,
		       "rollout.solver = '%s': %s learns from steps with noise, and none of the %d steps "
		       "takes any",
		       t->x->rollout.solver, t->x->algorithm->name, t->rollout.schedule.steps);
}

/* The rollout's, but for what its section says. */
static int open_preview(struct trainer *t, struct at_dims chw, struct err *e)
{
	const struct preview_conf *p = &t->x->preview;
	struct sampler_conf c = t->x->rollout;

	if (!p->steps)
		return 0;
	c.steps = p->steps;
	c.eta = 0;
	if (*p->solver)
		c.solver = p->solver;
	return sampler_init(&t->preview, &t->pipeline, &c, chw, e) ? err_in(e, "rollout.preview") : 0;
}

/* More blocks than there are is a mistake in one of two numbers. */
static int check_blocks(const struct trainer *t, struct err *e)
{
	int64_t asked = t->x->train.gradient_checkpointing, blocks = t->pipeline.transformer.facts.blocks;

	if (asked <= blocks || asked == TRANSFORMER_BLOCKS)
		return 0;
	return err_set(e,
		       "train.gradient_checkpointing = %lld: the transformer has %lld blocks; true means all",
		       (long long)asked, (long long)blocks);
}

static int open_samplers(struct trainer *t, struct err *e)
{
	if (t->x->train.cuda_graphs)
		t->gradients = gradient_replays_new();
	const struct prompts_conf *c = &t->x->prompts;
	struct at_dims chw = pipeline_latent_shape(&t->pipeline, c->height, c->width);
	if (sampler_init(&t->rollout, &t->pipeline, &t->x->rollout, chw, e))
		return err_in(e, "rollout");
	if (check_blocks(t, e) || (t->archives && archived_check(t, e)) || check_noise(t, e) ||
	    open_preview(t, chw, e))
		return -1;
	return sampler_init(&t->eval_sampler, &t->pipeline, &t->x->eval.sampler, chw, e)
		   ? err_in(e, "eval.sampler")
		   : 0;
}

/* The rest of what a stage needs: its prompts encoded, its samplers. */
static int finish_stage(struct trainer *t, struct err *e)
{
	return prepare_prompts(t->dist, &t->pipeline, &t->train, e) ||
		       (t->test.n && prepare_prompts(t->dist, &t->pipeline, &t->test, e)) ||
		       dist_agree(t->dist, open_samplers(t, e), e)
		   ? -1
		   : 0;
}

int trainer_enter(struct trainer *t, int64_t i, struct err *e)
{
	struct mixture *before = t->mixture;

	t->mixture = NULL;
	leave(t);
	int ret = dist_agree(t->dist, open_stage(t, i, true, e), e);
	if (!ret)
		mixture_take_over(t->mixture, before);
	mixture_close(before); /* before others take its place */
	if (ret || dist_agree(t->dist, load_judges(t, e), e))
		return -1;
	reward_ranks_agree(t->dist, t->mixture);
	ret = finish_stage(t, e);
	conditioner_rest(t->pipeline.text);
	return ret;
}

/* With the model, and without judges: every stage once, stage `first` last, so that all prompts are encoded
 * before the encoders go. */
static int finish_all(struct trainer *t, int64_t first, struct err *e)
{
	int n = experiment_stages(t->file);

	reward_ranks_agree(t->dist, t->mixture);
	for (int64_t i = first + 1; i < first + n; i++) {
		leave(t);
		if (dist_agree(t->dist, open_stage(t, i % n, false, e), e) || finish_stage(t, e))
			return -1;
	}
	if (n > 1) {
		leave(t);
		if (dist_agree(t->dist, open_stage(t, first, false, e), e))
			return -1;
	}
	if (finish_stage(t, e))
		return -1;
	conditioner_rest(t->pipeline.text);
	return 0;
}

/* The adapter's shape in the newest checkpoint of a run that began with somebody's adapter, whose file may be
 * gone; rank 0 tells the others.  NULL: there is none, or it cannot be read (an error on rank 0). */
static struct lora_size *shape_of_run(struct trainer *t, const char *run, int *ret, struct err *e)
{
	const struct nn_net *net = t->pipeline.transformer.net;
	size_t n = (size_t)(net->n_site * NN_PARTS);
	struct lora_size *size = mem_zero(n, sizeof *size);
	bool found = false, failed = false;

	if (t->dist->rank == 0) {
		char *dir = checkpoints_newest(run, &failed, e), *path = dir ? file_join(dir, "lora") : NULL;
		struct lora l = { 0 };

		failed = failed || (path && lora_load(&l, net, path, AT_CPU, e));
		found = path && !failed;
		for (int i = 0; found && i < l.n; i++)
			size[l.pair[i].site * NN_PARTS + l.pair[i].part] = l.pair[i].size;
		if (found)
			lora_release(&l);
		free(dir);
		free(path);
	}
	*ret = dist_agree(t->dist, failed ? -1 : 0, e);
	dist_broadcast(t->dist, &found, sizeof found, 0);
	dist_broadcast(t->dist, size, n * sizeof *size, 0);
	if (found && !*ret)
		return size;
	free(size);
	return NULL;
}

/* Collective.  `run`: the directory of one that goes on, or NULL. */
static int open_policies(struct trainer *t, const char *run, struct err *e)
{
	const char *start = t->file->lora.start;
	char *file = NULL;

	if (*start && run) {
		int failed;
		struct lora_size *size = shape_of_run(t, run, &failed, e);
		bool done = size;
		if (done)
			policies_lay_out(&t->policies, &t->x->policy, t->pipeline.transformer.net, size,
					 t->pipeline.device);
		free(size);
		if (done || failed)
			return failed;
	}
	if (*start && !(file = adapters_find(start, e)))
		return err_in(e, "lora.start");
	int ret = policies_init(&t->policies, &t->x->policy, t->pipeline.transformer.net, &t->file->lora,
				file, (uint64_t)t->file->run.seed, t->pipeline.device, e);
	free(file);
	return ret && *start ? err_in(e, "lora.start") : ret;
}

/* Mistakes in solvers, prompts and rewards are found before the model is read.  Stage `first` comes last and
 * stays open: its judges are the only ones that are loaded. */
static int open_stages(struct trainer *t, int64_t first, struct err *e)
{
	int n = experiment_stages(t->file);

	for (int64_t i = first + n - 1; i >= first; i--) {
		close_judges(t);
		leave(t);
		if (open_stage(t, i % n, true, e))
			return -1;
	}
	return load_judges(t, e);
}

int trainer_open(struct trainer *t, const struct experiment *x, struct dist *d, int64_t first,
		 const char *run, const struct archives *archives, const struct trainer_scorer *scorer,
		 struct err *e)
{
	enum at_device dev;

	*t = (struct trainer) { .file = x,
				.dist = d,
				.archives = archives,
				.scorer = scorer,
				.at = { .held_out = NAN, .evaluated = -1, .drawn = -1 } };
	d->reducer = &dist_reduce_mpi; /* until the GPU is in use: a job may have had a run before */
	if (dist_agree(d, startup_device(&dev, x->run.device, d, e), e) ||
	    dist_agree(d, open_stages(t, first, e), e) || open_pipeline(t, dev, e) ||
	    (t->pipeline.device == AT_CUDA && d->ranks > 1 && dist_use_nccl(d, e)) ||
	    finish_all(t, first, e) || dist_agree(d, open_policies(t, run, e), e)) {
		trainer_close(t);
		return -1;
	}
	struct at_scope *s = at_begin(AT_NO_GRAD);
	/* t->stage never moves: its tables stay where optimizer and policies look, whichever stage it is */
	optimizer_init(&t->optimizer, &t->x->optimizer, t->policies.theta.numel, t->pipeline.device);
	t->grad_P = at_keep(at_zeros(DIMS(t->policies.theta.numel), AT_F32, t->pipeline.device));
	at_end(s);
	return 0;
}

void trainer_close(struct trainer *t)
{
	metrics_close(t->metrics);
	if (t->optimizer.m_P)
		optimizer_release(&t->optimizer);
	at_free(t->grad_P);
	policies_release(&t->policies);
	leave(t);
	close_judges(t);
	pipeline_close(&t->pipeline);
	alarm_release(&t->alarm);
	eval_release(&t->before);
	json_decref(t->inputs);
	free(t->dir);
	*t = (struct trainer) { 0 };
}
