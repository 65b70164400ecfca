#include "trainer/evaluation/evaluate.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "trainer/judging.h"
#include <stdio.h>
#include <stdlib.h>

/* The prompts of images id[0..n); free it. */
static int64_t *prompts_of(const struct evaluator *v, const int64_t *id, int n)
{
	int64_t *prompt = mem_zero((size_t)n, sizeof *prompt);

	for (int i = 0; i < n; i++)
		prompt[i] = id[i] / v->images_per_prompt;
	return prompt;
}

static int encode(void *ctx, const int64_t *id, int n, struct cond *out, struct err *e)
{
	const struct evaluator *v = ctx;
	int64_t *prompt = prompts_of(v, id, n);
	int ret = encode_prompts(v->pipeline, v->prompts, prompt, n, out, e);

	free(prompt);
	return ret;
}

struct sampling evaluator_sampling(const struct evaluator *v, const struct pass *pass)
{
	return (struct sampling) { .pipeline = v->pipeline,
				   .sampler = v->sampler,
				   .pass = pass,
				   .chw = pipeline_latent_shape(v->pipeline, v->height, v->width),
				   .batch = v->batch,
				   .seed = v->seed,
				   .purpose = RNG_EVAL,
				   .steps = RNG_EVAL_SOLVER,
				   .cond = encode,
				   .cond_ctx = (void *)(uintptr_t)v };
}

/* This rank's share on its way from the sampler to the judges. */
struct share {
	const struct evaluator *v;
	struct judging *judging;
	const int64_t *id;
	struct progress bar;
};

static void submit(void *ctx, int64_t at, at_t rgb_BHW3)
{
	struct share *s = ctx;
	int n = (int)at_size(rgb_BHW3, 0);
	int64_t *prompt = prompts_of(s->v, s->id + at, n);

	judging_submit_images(s->judging, at, rgb_BHW3, s->v->prompts, prompt);
	if (!s->v->quiet)
		progress_tick(&s->bar, at + n, "%s", "");
	free(prompt);
}

static int score_share(const struct evaluator *v, const struct pass *pass, struct judging *j, struct err *e)
{
	int64_t *id = mem_zero((size_t)j->count, sizeof *id);
	struct share share = { .v = v, .judging = j, .id = id };
	struct sampling s = evaluator_sampling(v, pass);

	for (int64_t i = 0; i < j->count; i++)
		id[i] = j->first + i;
	s.take = submit;
	s.take_ctx = &share;
	if (!v->quiet)
		progress_begin(&share.bar, "evaluate", 0, j->count);
	int ret = sampling_run(&s, id, j->count, e);
	if (!v->quiet)
		progress_end(&share.bar);
	free(id);
	return ret;
}

int evaluate(const struct evaluator *v, const struct pass *pass, struct eval_result *r, struct err *e)
{
	struct dist *d = v->dist;
	int64_t n = v->prompts->n * v->images_per_prompt;
	int ret;
	double start = clock_now();
	struct mixture_scores all;
	struct judging j;

	eval_release(r);
	judging_begin(&j, d, v->mixture, n, v->images_per_prompt);
	judging_hold_out(&j);
	ret = dist_agree(d, score_share(v, pass, &j, e), e);
	if (ret) {
		judging_drop(&j);
		return ret;
	}
	judging_finish(&j, &all, NULL);
	if (dist_stops(d)) { /* some may not have waited for the scores */
		mixture_scores_free(&all);
		return stop_check(e);
	}
	for (int64_t i = 0; i < n; i++)
		eval_count(r, v->mixture, &all, i, v->prompts->v[i / v->images_per_prompt].tag,
			   v->prompts->v[i / v->images_per_prompt].text);
	eval_finish(r);
	for (int k = 0; k < r->n_rewards; k++)
		if (r->reward[k].watched && !r->reward[k].score.n)
			log_warn_once("reward %s, which is watched, scored no image of the evaluation",
				      r->reward[k].name);
	snprintf(r->why, sizeof r->why, "%s", all.why);
	r->seconds = clock_now() - start;
	mixture_scores_free(&all);
	return ret;
}
