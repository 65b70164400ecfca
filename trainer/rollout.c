/* rollout.c -- the images of an epoch: prompts, noise keyed by sample, the old policy, rewards beside,
 * advantages. */
#include "aten/transfer.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "trainer/sampling.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

void samples_release(struct samples *s)
{
	free(s->prompt);
	free(s->group);
	free(s->advantage);
	free(s->r);
	free(s->strict);
	mixture_scores_free(&s->scores);
	at_free(s->x0_NCHW);
	for (int i = 0; i < s->steps; i++)
		at_free(s->state_NCHW[i]);
	free(s->state_NCHW);
	cond_free(&s->cond);
	*s = (struct samples) { 0 };
}

static bool needs(const struct trainer *t, unsigned what)
{
	const struct experiment *x = t->x;

	return x->algorithm->demands(x->algorithm_conf, &x->advantage).needs & what;
}

struct transition *trainer_laws(const struct trainer *t)
{
	int steps = t->rollout.schedule.steps;

	if (!needs(t, NEEDS_LAW))
		return NULL;
	struct transition *law = mem_zero((size_t)steps, sizeof *law);
	for (int i = 0; i < steps; i++)
		law[i] = sampler_law(&t->rollout, i);
	return law;
}

void trainer_window(struct trainer *t)
{
	const struct algorithm_type *type = t->x->algorithm;
	struct sampler *s = &t->rollout;

	if (type->window)
		type->window(t->x->algorithm_conf, (uint64_t)t->x->run.seed, (uint64_t)t->at.epoch,
			     s->schedule.steps, &s->noisy_from, &s->noisy_to);
}

void samples_make_states(const struct trainer *t, struct samples *s, struct at_dims chw)
{
	struct at_dims nchw = DIMS(s->count, chw.d[0], chw.d[1], chw.d[2]);
	struct transition *law = trainer_laws(t);

	if (!law)
		return;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	s->steps = t->rollout.schedule.steps;
	s->state_NCHW = mem_zero((size_t)s->steps, sizeof *s->state_NCHW);
	for (int i = 0; i < s->steps; i++)
		if (law[i].std > 0 || (i && law[i - 1].std > 0 && needs(t, NEEDS_NEXT)))
			s->state_NCHW[i] = at_keep(at_zeros(nchw, AT_F32, t->pipeline.device));
	at_end(sc);
	free(law);
}

static void draw(const struct trainer *t, struct samples *s)
{
	const struct prompts_conf *c = &t->x->prompts;
	int64_t *of_group = mem_zero((size_t)c->groups, sizeof *of_group), end;

	*s = (struct samples) { .groups = c->groups, .n = c->groups * c->group_size };
	s->prompt = mem_zero((size_t)s->n, sizeof *s->prompt);
	s->group = mem_zero((size_t)s->n, sizeof *s->group);
	s->advantage = mem_zero((size_t)s->n, sizeof *s->advantage);
	s->r = mem_zero((size_t)s->n, sizeof *s->r);
	s->strict = mem_zero((size_t)s->n, sizeof *s->strict);
	prompts_draw(&t->train, (uint64_t)t->x->run.seed, t->at.epoch, c->groups, c->by_tag, of_group);
	for (int64_t i = 0; i < s->n; i++) {
		s->group[i] = i / c->group_size;
		s->prompt[i] = of_group[s->group[i]];
	}
	prompts_share(s->n, t->dist->rank, t->dist->ranks, &s->first, &end);
	s->count = end - s->first;
	free(of_group);
}

/* Brightness and clipping of a batch: images that drift are the first sign of reward hacking. */
static void pixel_health(struct samples *s, const uint8_t *rgb, size_t n)
{
	size_t sum = 0, saturated = 0;

	for (size_t i = 0; i < n; i++) {
		sum += rgb[i];
		saturated += rgb[i] == 0 || rgb[i] == 255;
	}
	s->pixels += (double)n;
	s->pixel_mean += (double)sum / 255;
	s->pixel_saturated += (double)saturated;
}

/* Conditioning of this rank's groups, for the rollout and the update of the epoch. */
static int encode_groups(struct trainer *t, struct samples *s, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t last = s->group[s->first + s->count - 1], n, *prompt;
	struct cond c = { 0 };
	int ret;

	s->first_group = s->group[s->first];
	n = last - s->first_group + 1;
	prompt = mem_zero((size_t)n, sizeof *prompt);
	for (int64_t i = 0; i < s->count; i++)
		prompt[s->group[s->first + i] - s->first_group] = s->prompt[s->first + i];
	ret = encode_prompts(&t->pipeline, &t->train, prompt, (int)n, &c, e);
	if (!ret)
		s->cond = cond_keep(&c);
	free(prompt);
	at_end(sc);
	return dist_agree(t->dist, ret, e);
}

/* Rows of the conditioning for samples id[0..n) of this rank's share. */
struct cond samples_cond(const struct trainer *t, const struct samples *s, const int64_t *id, int n)
{
	at_t row_B = at_empty(DIMS(n), AT_I64, AT_CPU);
	int64_t *row = at_data(row_B);

	for (int i = 0; i < n; i++)
		row[i] = s->group[id[i]] - s->first_group;
	at_send_all(1, &row_B, &row_B, t->pipeline.device);
	return cond_rows(&s->cond, row_B);
}

/* This rank's share on its way from the sampler to the judges. */
struct share {
	struct trainer *t;
	struct samples *s;
	struct judging *judging;
};

static int condition(void *ctx, const int64_t *id, int n, struct cond *out, struct err *e)
{
	const struct share *x = ctx;

	(void)e;
	*out = samples_cond(x->t, x->s, id, n);
	return 0;
}

static void submit(void *ctx, int64_t at, at_t rgb_BHW3)
{
	struct share *x = ctx;
	struct samples *s = x->s;

	judging_submit_images(x->judging, at, rgb_BHW3, &x->t->train, s->prompt + s->first + at);
	pixel_health(s, at_data(rgb_BHW3), (size_t)at_numel(rgb_BHW3));
}

/* Samples this rank's share batch by batch; scoring goes on beside. */
static int sample_share(struct trainer *t, struct samples *s, struct judging *j, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	const struct prompts_conf *c = &t->x->prompts;
	struct pass old = policies_sampling_pass(&t->policies, t->x->rollout.fp8);
	struct share share = { t, s, j };
	struct sampling how = { .pipeline = &t->pipeline,
				.sampler = &t->rollout,
				.pass = &old,
				.chw = pipeline_latent_shape(&t->pipeline, c->height, c->width),
				.batch = t->batches.rollout,
				.seed = (uint64_t)t->x->run.seed,
				.epoch = (uint64_t)t->at.epoch,
				.purpose = RNG_LATENT,
				.steps = RNG_SOLVER,
				.cond = condition,
				.cond_ctx = &share,
				.take = submit,
				.take_ctx = &share };
	int64_t *id = mem_zero((size_t)s->count, sizeof *id);

	for (int64_t i = 0; i < s->count; i++)
		id[i] = s->first + i;
	s->x0_NCHW = at_keep(
	    at_empty(DIMS(s->count, how.chw.d[0], how.chw.d[1], how.chw.d[2]), AT_F32, t->pipeline.device));
	how.x0_NCHW = s->x0_NCHW;
	samples_make_states(t, s, how.chw);
	how.state_NCHW = s->state_NCHW;
	how.keep_next = needs(t, NEEDS_NEXT);
	int ret = sampling_run(&how, id, s->count, e);
	free(id);
	if ((ret = dist_agree(t->dist, ret, e))) {
		at_end(sc);
		return ret;
	}
	s->x0_norm = s->count ? at_sum_squares(s->x0_NCHW) : 0;
	double sums[5] = { s->x0_norm, (double)at_numel(s->x0_NCHW), s->pixel_mean, s->pixel_saturated,
			   s->pixels };
	dist_sum_f64(t->dist, sums, 5);
	s->x0_norm = sqrt(sums[0] / sums[1]);
	s->pixel_mean = sums[2] / sums[4];
	s->pixel_saturated = sums[3] / sums[4];
	at_end(sc);
	return 0;
}

static void take_strict(const struct trainer *t, struct samples *s)
{
	int judge = -1;

	for (int64_t i = 0; i < s->n && judge < 0; i++)
		judge = mixture_judge(t->mixture, &s->scores, i);
	for (int64_t i = 0; i < s->n; i++)
		s->strict[i] = judge < 0 ? NAN : mixture_sub_of(t->mixture, &s->scores, judge, i, "strict");
}

/* Advantages and optimality probabilities from everybody's scores: the same on every rank. */
static void judge_samples(const struct trainer *t, struct samples *s)
{
	const struct advantage_conf *c = &t->x->advantage;
	const struct mixture_scores *all = &s->scores;
	bool sum = !strcmp(c->combine, "sum");
	double *basis = all->total, *weight = mem_zero((size_t)all->rewards, sizeof *weight);

	if (!sum) {
		for (int k = 0; k < all->rewards; k++)
			weight[k] = mixture_at(t->mixture, k)->weight;
		basis = mem_zero((size_t)s->n, sizeof *basis);
		advantage_combine(c, s->n, all->rewards, all->value, weight, s->group, s->groups,
				  all->left_out, basis);
	}
	advantage_compute(c, s->n, basis, s->group, s->groups, s->advantage, s->r, &s->stats);
	advantage_describe(s->n, all->total, &s->stats);
	if (!sum)
		free(basis);
	free(weight);
}

int rollout_epoch(struct trainer *t, struct samples *s, struct err *e)
{
	struct judging judging;
	double start = clock_now();
	int ret;

	trainer_window(t);
	draw(t, s);
	if ((ret = encode_groups(t, s, e)))
		return ret;
	judging_begin(&judging, t->dist, t->mixture, s->n, t->x->prompts.group_size);
	if (sample_share(t, s, &judging, e)) {
		judging_drop(&judging);
		return -1;
	}
	judging_finish(&judging, &s->scores, &s->reward_wait_seconds);
	if (dist_stops(t->dist)) /* some may not have waited for the scores */
		return stop_check(e);
	const struct mixture_scores *all = &s->scores; /* the same on every rank, and so is what follows */
	if ((double)all->unavailable > t->x->train.max_unavailable * (double)s->n)
		return err_set(
		    e, "rewards: %lld of %lld images could not be scored (train.max_unavailable is %g); %s",
		    (long long)all->unavailable, (long long)s->n, t->x->train.max_unavailable, all->why);
	take_strict(t, s);
	judge_samples(t, s);
	s->rollout_seconds = clock_now() - start - s->reward_wait_seconds;
	return 0;
}
