#include "trainer/evaluation/evaluate.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "trainer/judging.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* This rank's share on its way to the judges, who want it in order. */
struct share {
	const struct evaluator *v;
	struct judging *judging;
	int64_t *place, *id; /* of those to be sampled: where in the share, and which */
	int64_t n, done;     /* of those, and of the share what has been handed over */
	struct progress bar;
};

static void submit(struct share *s, at_t rgb_BHW3)
{
	int n = (int)at_size(rgb_BHW3, 0);
	int64_t *id = mem_zero((size_t)n, sizeof *id), *prompt;

	for (int i = 0; i < n; i++)
		id[i] = s->judging->first + s->done + i;
	prompt = prompts_of(s->v, id, n);
	judging_submit_images(s->judging, s->done, rgb_BHW3, s->v->prompts, prompt);
	s->done += n;
	if (!s->v->quiet)
		progress_tick(&s->bar, s->done, "%s", "");
	free(prompt);
	free(id);
}

/* n images that are in the album. */
static int submit_album(struct share *s, int64_t n, struct err *e)
{
	const struct album *a = s->v->album;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	size_t each = (size_t)a->w * (size_t)a->h * 3;
	uint8_t *rgb = mem_alloc(each * (size_t)n);
	struct image im;
	int ret = 0;

	for (int64_t i = 0; i < n && !ret; i++) {
		if ((ret = album_get(&im, a, s->judging->first + s->done + i, e)))
			break;
		memcpy(rgb + each * (size_t)i, im.rgb, each);
		image_free(&im);
	}
	if (!ret)
		submit(s, at_from(rgb, DIMS(n, a->h, a->w, 3), AT_U8));
	free(rgb);
	at_end(sc);
	return ret;
}

/* Everything before place `end` of the share, which the album has. */
static int submit_until(struct share *s, int64_t end, struct err *e)
{
	while (s->done < end)
		if (submit_album(s, end - s->done < s->v->batch ? end - s->done : s->v->batch, e))
			return -1;
	return 0;
}

/* Images at .. at + n - 1 of those to be sampled; between them may be some that the album has. */
static int take(void *ctx, int64_t at, at_t rgb_BHW3, struct err *e)
{
	struct share *s = ctx;
	const struct album *a = s->v->album;
	int64_t n = at_size(rgb_BHW3, 0), each = at_numel(rgb_BHW3) / n, k;

	for (int64_t i = 0; i < n; i += k) {
		for (k = 1; i + k < n && s->place[at + i + k] == s->place[at + i] + k;)
			k++;
		for (int64_t j = i; a && j < i + k; j++)
			if (album_put(a, s->id[at + j], (const uint8_t *)at_data(rgb_BHW3) + j * each, e))
				return -1;
		if (submit_until(s, s->place[at + i], e))
			return -1;
		submit(s, at_narrow(rgb_BHW3, 0, i, k));
	}
	return 0;
}

static void find_missing(struct share *s)
{
	const struct judging *j = s->judging;

	s->place = mem_zero((size_t)j->count, sizeof *s->place);
	s->id = mem_zero((size_t)j->count, sizeof *s->id);
	for (int64_t i = 0; i < j->count; i++) {
		if (s->v->album && s->v->album->there[j->first + i])
			continue;
		s->place[s->n] = i;
		s->id[s->n++] = j->first + i;
	}
}

static int score_share(const struct evaluator *v, const struct pass *pass, struct judging *j, struct err *e)
{
	struct share share = { .v = v, .judging = j };
	struct sampling s = evaluator_sampling(v, pass);

	find_missing(&share);
	s.take = take;
	s.take_ctx = &share;
	if (!v->quiet)
		progress_begin(&share.bar, "evaluate", 0, j->count);
	int ret = sampling_run(&s, share.id, share.n, e) || submit_until(&share, j->count, e) ? -1 : 0;
	if (!v->quiet)
		progress_end(&share.bar);
	free(share.place);
	free(share.id);
	return ret;
}

/* The result of prompts begin .. begin + n - 1. */
static void count(const struct evaluator *v, const struct mixture_scores *all, int64_t begin, int64_t n,
		  struct eval_result *r)
{
	for (int64_t i = begin * v->images_per_prompt; i < (begin + n) * v->images_per_prompt; i++) {
		const struct prompt *p = &v->prompts->v[i / v->images_per_prompt];

		eval_count(r, v->mixture, all, i, p->tag, p->text);
	}
	eval_finish(r);
	for (int k = 0; k < r->n_rewards; k++)
		if (r->reward[k].watched && !r->reward[k].score.n)
			log_warn_once("reward %s, which is watched, scored no image of the evaluation",
				      r->reward[k].name);
}

static void count_all(const struct evaluator *v, const struct mixture_scores *all, struct eval_result *r)
{
	const struct prompts *p = v->prompts;
	struct eval_result of[PROMPT_SETS] = { 0 };
	double weight[PROMPT_SETS];
	int n = 0;

	if (!p->sets) {
		count(v, all, 0, p->n, r);
		return;
	}
	for (int k = 0; k < p->sets; k++) {
		if (!p->set[k].n)
			continue;
		count(v, all, p->set[k].begin, p->set[k].n, &of[n]);
		of[n].name = mem_str(p->set[k].name);
		weight[n++] = p->set[k].weight;
	}
	eval_join(r, of, weight, n);
}

int evaluate(const struct evaluator *v, const struct pass *pass, struct eval_result *r, struct err *e)
{
	struct dist *d = v->dist;
	int64_t n = v->prompts->n * v->images_per_prompt;
	int *set = mem_zero((size_t)n, sizeof *set), ret;
	double start = clock_now();
	struct mixture_scores all;
	struct judging j;

	eval_release(r);
	for (int64_t i = 0; i < n; i++)
		set[i] = prompts_set_of(v->prompts, i / v->images_per_prompt);
	judging_begin(&j, d, v->mixture, n, v->images_per_prompt);
	judging_hold_out(&j);
	j.set = set;
	ret = dist_agree(d, score_share(v, pass, &j, e), e);
	if (ret) {
		judging_drop(&j);
		free(set);
		return ret;
	}
	judging_finish(&j, &all, NULL);
	free(set);
	if (dist_stops(d)) { /* some may not have waited for the scores */
		mixture_scores_free(&all);
		return stop_check(e);
	}
	count_all(v, &all, r);
	snprintf(r->why, sizeof r->why, "%s", all.why);
	r->seconds = clock_now() - start;
	mixture_scores_free(&all);
	return ret;
}
