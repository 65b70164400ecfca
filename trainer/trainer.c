/* trainer.c -- opening everything a training run needs, with each mistake of the user found before any work
 * is done. */
#include "trainer/trainer.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "algorithms/gradient.h"
#include "trainer/record/adapters.h"
#include "trainer/reward_ranks.h"
#include "dist/startup.h"
#include <stdlib.h>
#include <string.h>

static int open_prompts(struct trainer *t, struct err *e)
{
	const struct prompts_conf *c = &t->x->prompts;

	if (prompts_read(&t->train, c->train, e) || judging_check(t->mixture, &t->train, e))
		return -1;
	if (*c->test && (prompts_read(&t->test, c->test, e) || judging_check(t->mixture, &t->test, e)))
		return -1;
	if (c->groups * c->group_size < t->dist->ranks)
		return err_set(e,
			       "%lld images per epoch (prompts.groups x prompts.group_size) are fewer than "
			       "the %d ranks; "
			       "start fewer ranks or sample more",
			       (long long)(c->groups * c->group_size), t->dist->ranks);
	return 0;
}

/* Embeddings outlive runs, and runs with the same model share them. */
static char *cache_dir(const struct experiment *x)
{
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

	if (*x->model.text_cache)
		return mem_str(x->model.text_cache);
	if (xdg && *xdg)
		return file_join(xdg, "contraflow/text");
	return home && *home ? file_join(home, ".cache/contraflow/text") : mem_str(".cache/contraflow/text");
}

static int open_pipeline(struct trainer *t, enum at_device dev, struct err *e)
{
	const struct experiment *x = t->file;
	enum at_dtype dt, vae;

	const struct family *family = pipeline_family(x->model.path, e);

	if (!family || at_dtype_parse(&dt, x->run.dtype, e) || at_dtype_parse(&vae, x->model.vae_dtype, e))
		return -1;
	char *cache = cache_dir(x);
	struct pipeline_options m = { .dir = x->model.path,
				      .dtype = dt,
				      .device = dev,
				      .vae_dtype = vae,
				      .vae_batch = x->model.vae_batch,
				      .text_length =
					  x->model.text_length ? x->model.text_length : family->text_length,
				      .text_cache = cache };
	int ret = pipeline_open(&t->pipeline, &m, e);
	free(cache);
	return ret;
}

static void leave(struct trainer *t)
{
	gradient_replays_free(t->gradients);
	t->gradients = NULL;
	sampler_release(&t->rollout);
	sampler_release(&t->eval_sampler);
	prompts_free(&t->train);
	prompts_free(&t->test);
	mixture_close(t->mixture);
	t->mixture = NULL;
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

/* Solvers, rewards and prompts of a stage: what can be tried without the model. */
static int open_stage(struct trainer *t, int64_t i, struct err *e)
{
	if (experiment_stage(&t->stage, t->file, (int)i, e))
		return -1;
	t->x = &t->stage;
	if (check_sampler(t, &t->x->rollout, "rollout", e) ||
	    check_sampler(t, &t->x->eval.sampler, "eval.sampler", e) ||
	    reward_ranks_open(&t->mixture, t->dist, t->x->tree, (int)i, e) || open_prompts(t, e))
		return t->file->n_stages ? err_in(e, "stage %s", t->file->stage[i]) : -1;
	return 0;
}

/* That some step takes noise, where the algorithm learns from those: a solver may have a law without. */
static int check_noise(struct trainer *t, struct err *e)
{
	bool some = false;

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

static int open_samplers(struct trainer *t, struct err *e)
{
	if (t->x->train.cuda_graphs)
		t->gradients = gradient_replays_new();
	const struct prompts_conf *c = &t->x->prompts;
	struct at_dims chw = pipeline_latent_shape(&t->pipeline, c->height, c->width);
	return sampler_init(&t->rollout, &t->pipeline, &t->x->rollout, chw, e) || check_noise(t, e) ||
		       sampler_init(&t->eval_sampler, &t->pipeline, &t->x->eval.sampler, chw, e)
		   ? -1
		   : 0;
}

/* The rest of what a stage needs: its prompts encoded, its samplers. */
static int finish_stage(struct trainer *t, struct err *e)
{
	reward_ranks_agree(t->dist, t->mixture);
	return prepare_prompts(t->dist, &t->pipeline, &t->train, e) ||
		       (t->test.n && prepare_prompts(t->dist, &t->pipeline, &t->test, e)) ||
		       dist_agree(t->dist, open_samplers(t, e), e)
		   ? -1
		   : 0;
}

int trainer_enter(struct trainer *t, int64_t i, struct err *e)
{
	leave(t);
	return dist_agree(t->dist, open_stage(t, i, e), e) || finish_stage(t, e) ? -1 : 0;
}

/* With the model: the first stage, which is open, and where there are others, each of them once, so that all
 * prompts are encoded before the encoders go. */
static int finish_all(struct trainer *t, struct err *e)
{
	int n = experiment_stages(t->file);

	if (finish_stage(t, e))
		return -1;
	for (int i = 1; i < n; i++)
		if (trainer_enter(t, i, e))
			return -1;
	if (n > 1 && trainer_enter(t, 0, e))
		return -1;
	conditioner_rest(t->pipeline.text);
	return 0;
}

static int open_policies(struct trainer *t, struct err *e)
{
	const char *start = t->file->lora.start;
	char *file = NULL;

	if (*start && !(file = adapters_find(start, e)))
		return err_in(e, "lora.start");
	int ret = policies_init(&t->policies, &t->x->policy, t->pipeline.transformer.net, &t->file->lora,
				file, (uint64_t)t->file->run.seed, t->pipeline.device, e);
	free(file);
	return ret && *start ? err_in(e, "lora.start") : ret;
}

/* Mistakes in solvers, prompts and rewards are found before the model is read.  The last stage first, so that
 * the first stays open. */
static int open_stages(struct trainer *t, struct err *e)
{
	for (int i = experiment_stages(t->file) - 1; i >= 0; i--) {
		leave(t);
		if (open_stage(t, i, e))
			return -1;
	}
	return 0;
}

int trainer_open(struct trainer *t, const struct experiment *x, struct dist *d, struct err *e)
{
	enum at_device dev;

	*t = (struct trainer) { .file = x, .dist = d };
	if (dist_agree(d, startup_device(&dev, x->run.device, d, e), e) ||
	    dist_agree(d, open_stages(t, e), e) || dist_agree(d, open_pipeline(t, dev, e), e) ||
	    (t->pipeline.device == AT_CUDA && d->ranks > 1 && dist_use_nccl(d, e)) || finish_all(t, e) ||
	    dist_agree(d, open_policies(t, e), e)) {
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
	pipeline_close(&t->pipeline);
	eval_release(&t->before);
	free(t->dir);
	*t = (struct trainer) { 0 };
}
