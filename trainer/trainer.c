/* trainer.c -- opening everything a training run needs, with each mistake of the user found before any work
 * is done. */
#include "trainer/trainer.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_prompts(struct trainer *t, const struct prompts *p, struct err *e)
{
	for (int64_t i = 0; i < p->n; i++)
		if (mixture_check(t->mixture, p->v[i].text, p->v[i].meta, e))
			return err_in(e, "%s: prompt %lld ('%.80s')", p->path, (long long)i + 1,
				      p->v[i].text);
	return 0;
}

static int open_prompts(struct trainer *t, struct err *e)
{
	const struct prompts_conf *c = &t->x->prompts;

	if (prompts_read(&t->train, c->train, e) || check_prompts(t, &t->train, e))
		return -1;
	if (*c->test && (prompts_read(&t->test, c->test, e) || check_prompts(t, &t->test, e)))
		return -1;
	if (c->groups * c->group_size < t->dist->ranks)
		return err_set(e,
			       "%lld pictures an epoch (prompts.groups x prompts.group_size) are fewer than "
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

static int open_pipeline(struct trainer *t, struct err *e)
{
	struct experiment *x = t->x;
	enum at_dtype dt;

	if (mixture_open(&t->mixture, x->tree, 1, e) || open_prompts(t, e) ||
	    at_dtype_parse(&dt, x->run.dtype, e))
		return -1;
	bool cuda = !strcmp(x->run.device, "cuda");
	if (cuda && !at_cuda_devices())
		return err_set(e, "run.device is cuda, but %s",
			       at_cuda_built() ? "no GPU is visible"
					       : "this build has no CUDA (meson -Dcuda=enabled)");
	char *cache = cache_dir(x);
	struct pipeline_options m = { .dir = x->model.path,
				      .dtype = dt,
				      .device = cuda ? AT_CUDA : AT_CPU,
				      .t5_length = x->model.t5_length,
				      .text_cache = cache };
	int ret = pipeline_open(&t->pipeline, &m, e);
	free(cache);
	return ret;
}

/* What needs the pipeline. */
static int open_policies(struct trainer *t, struct err *e)
{
	struct experiment *x = t->x;

	if (sampler_init(&t->rollout, &t->pipeline, &x->rollout, e) ||
	    sampler_init(&t->eval_sampler, &t->pipeline, &x->eval.sampler, e))
		return -1;
	conditioner_rest(t->pipeline.text);
	return policies_init(&t->policies, &x->policy, &t->pipeline.transformer.net, &x->lora,
			     (uint64_t)x->run.seed, t->pipeline.device, e);
}

int trainer_open(struct trainer *t, struct experiment *x, struct dist *d, struct err *e)
{
	*t = (struct trainer) { .x = x, .dist = d };
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	int threads = x->run.threads ? (int)x->run.threads : (int)(cores / d->local_ranks);

	at_set_threads(threads > 0 ? threads : 1);
	if (dist_agree(d, open_pipeline(t, e), e) || prepare_prompts(d, &t->pipeline, &t->train, e) ||
	    (t->test.n && prepare_prompts(d, &t->pipeline, &t->test, e)) ||
	    dist_agree(d, open_policies(t, e), e)) {
		trainer_close(t);
		return -1;
	}
	struct at_scope *s = at_begin(AT_NO_GRAD);
	optimizer_init(&t->optimizer, &x->optimizer, t->policies.theta.numel, t->pipeline.device);
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
	sampler_release(&t->rollout);
	sampler_release(&t->eval_sampler);
	prompts_free(&t->train);
	prompts_free(&t->test);
	mixture_close(t->mixture);
	pipeline_close(&t->pipeline);
	free(t->dir);
	*t = (struct trainer) { 0 };
}
