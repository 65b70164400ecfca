/* rollout.c -- the images of an epoch: prompts, noise keyed by sample, the old policy, rewards beside,
 * advantages. */
#include "aten/transfer.h"
#include "algorithms/selection.h"
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
	free(s->set);
	free(s->of_set);
	free(s->drawn);
	free(s->advantage);
	free(s->r);
	free(s->strict);
	mixture_scores_free(&s->scores);
	at_free(s->x0_NCHW);
	at_free(s->given_t_NT);
	at_free(s->given_noise_NTCHW);
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

void samples_make(struct samples *s, int64_t n, int64_t groups)
{
	*s = (struct samples) { .groups = groups, .n = n };
	s->prompt = mem_zero((size_t)s->n, sizeof *s->prompt);
	s->group = mem_zero((size_t)s->n, sizeof *s->group);
	s->set = mem_zero((size_t)s->n, sizeof *s->set);
	s->advantage = mem_zero((size_t)s->n, sizeof *s->advantage);
	s->r = mem_zero((size_t)s->n, sizeof *s->r);
	s->strict = mem_zero((size_t)s->n, sizeof *s->strict);
}

/* `each` images of every prompt of the epoch. */
static void draw(const struct trainer *t, struct samples *s, int64_t each)
{
	const struct prompts_conf *c = &t->x->prompts;
	int64_t *of_group = mem_zero((size_t)c->groups, sizeof *of_group), end;

	samples_make(s, c->groups * each, c->groups);
	prompts_draw_sets(&t->train, (uint64_t)t->x->run.seed, t->at.epoch, c->groups, c->by_tag, t->at.dealt,
			  of_group);
	for (int64_t i = 0; i < s->n; i++) {
		s->group[i] = i / each;
		s->prompt[i] = of_group[s->group[i]];
		s->set[i] = prompts_set_of(&t->train, s->prompt[i]);
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

/* For the rollout and the update of the epoch. */
int samples_encode(struct trainer *t, struct samples *s, struct err *e)
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
	const struct sampler *sampler;
	bool fp8, keep; /* keep the latents */
	int64_t each;   /* images drawn of a prompt: id / each is the prompt's place */
};

static int condition(void *ctx, const int64_t *id, int n, struct cond *out, struct err *e)
{
	const struct share *x = ctx;
	at_t row_B = at_empty(DIMS(n), AT_I64, AT_CPU);
	int64_t *row = at_data(row_B);

	(void)e;
	for (int i = 0; i < n; i++)
		row[i] = id[i] / x->each - x->s->first_group;
	at_send_all(1, &row_B, &row_B, x->t->pipeline.device);
	*out = cond_rows(&x->s->cond, row_B);
	return 0;
}

static int submit(void *ctx, int64_t at, at_t rgb_BHW3, struct err *e)
{
	struct share *x = ctx;
	struct samples *s = x->s;

	judging_submit_images(x->judging, at, rgb_BHW3, &x->t->train, s->prompt + s->first + at);
	pixel_health(s, at_data(rgb_BHW3), (size_t)at_numel(rgb_BHW3));
	(void)e; /* what cannot be scored says so in its scores */
	return 0;
}

/* So many numbers of a latent are enough to tell how far the images of a group are apart. */
enum { DIVERSITY_NUMBERS = 1024 };

/* All numbers of a small latent, of a large one DIVERSITY_NUMBERS at random, the same of each: (count, n) on
 * the CPU.  Not evenly spaced: a step of 64 in a latent that is 64 wide would see one column. */
static at_t thin(at_t x_NCHW)
{
	int64_t rows = at_size(x_NCHW, 0), all = at_numel(x_NCHW) / rows;
	int64_t n = all < DIVERSITY_NUMBERS ? all : DIVERSITY_NUMBERS;
	at_t at_n = at_empty(DIMS(n), AT_I64, AT_CPU), out;
	int64_t *at = at_data(at_n);
	struct rng r = rng_make(0, RNG_HEALTH, 0, 0);

	for (int64_t i = 0; i < n; i++)
		at[i] = n == all ? i : rng_below(&r, (uint32_t)all);
	at_send_all(1, &at_n, &at_n, at_device_of(x_NCHW));
	out = at_index_select(at_reshape(x_NCHW, DIMS(rows, all)), 1, at_n);
	return at_contiguous(at_to(out, AT_F32, AT_CPU));
}

/* Sums over all ranks, since a group may be spread over two of them: with m the mean of a group of G latents,
 * sum |x - m|^2 = sum |x|^2 - G |m|^2, over all groups divided by what is free, images - groups. */
static double spread(struct trainer *t, const struct samples *s)
{
	int64_t n = s->groups * DIVERSITY_NUMBERS;
	double *sum = mem_zero((size_t)n + 2, sizeof *sum), within = 0,
	       free_rows = (double)(s->n - s->groups);
	int64_t *images = mem_zero((size_t)s->groups, sizeof *images);

	if (s->count) {
		at_t x_NK = thin(s->x0_NCHW);
		const float *x = at_f32(x_NK);
		int64_t width = at_size(x_NK, 1);

		for (int64_t i = 0; i < s->count; i++)
			for (int64_t k = 0; k < width; k++) {
				double v = (double)x[i * width + k];
				sum[s->group[s->first + i] * DIVERSITY_NUMBERS + k] += v;
				sum[n] += v * v;
				sum[n + 1] += 1;
			}
	}
	dist_sum_f64(t->dist, sum, (int)n + 2);
	for (int64_t i = 0; i < s->n; i++)
		images[s->group[i]]++;
	within = sum[n];
	for (int64_t i = 0; i < n; i++)
		within -= sum[i] * sum[i] / (double)images[i / DIVERSITY_NUMBERS];
	within = sqrt(fmax(within, 0) / (sum[n + 1] / (double)s->n) / free_rows) / sqrt(sum[n] / sum[n + 1]);
	free(images);
	free(sum);
	return s->n > s->groups ? within : NAN;
}

void samples_measure(struct trainer *t, struct samples *s)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	double sums[5] = { s->count ? at_sum_squares(s->x0_NCHW) : 0, (double)at_numel(s->x0_NCHW),
			   s->pixel_mean, s->pixel_saturated, s->pixels };

	dist_sum_f64(t->dist, sums, 5);
	s->x0_norm = sqrt(sums[0] / sums[1]);
	s->pixel_mean = sums[2] / sums[4]; /* NAN in a replay: there are no images, only latents */
	s->pixel_saturated = sums[3] / sums[4];
	s->diversity = spread(t, s);
	at_end(sc);
}

static void keep_latents(struct trainer *t, struct samples *s, struct sampling *how)
{
	s->x0_NCHW = at_keep(at_empty(DIMS(s->count, how->chw.d[0], how->chw.d[1], how->chw.d[2]), AT_F32,
				      t->pipeline.device));
	how->x0_NCHW = s->x0_NCHW;
	samples_make_states(t, s, how->chw);
	how->state_NCHW = s->state_NCHW;
	how->keep_next = needs(t, NEEDS_NEXT);
}

/* Samples this rank's share batch by batch; scoring goes on beside. */
static int sample_share(struct share *x, struct err *e)
{
	struct trainer *t = x->t;
	struct samples *s = x->s;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	const struct prompts_conf *c = &t->x->prompts;
	struct pass old = policies_sampling_pass(&t->policies, x->fp8);
	struct sampling how = { .pipeline = &t->pipeline,
				.sampler = x->sampler,
				.pass = &old,
				.chw = pipeline_latent_shape(&t->pipeline, c->height, c->width),
				.batch = t->batches.rollout,
				.seed = (uint64_t)t->x->run.seed,
				.epoch = (uint64_t)t->at.epoch,
				.purpose = RNG_LATENT,
				.steps = RNG_SOLVER,
				.forwards = &s->forwards,
				.cond = condition,
				.cond_ctx = x,
				.take = submit,
				.take_ctx = x };
	int64_t *id = mem_zero((size_t)s->count, sizeof *id);

	for (int64_t i = 0; i < s->count; i++)
		id[i] = s->drawn ? s->drawn[s->first + i] : s->first + i;
	if (x->keep)
		keep_latents(t, s, &how);
	double start = clock_now();
	int ret = sampling_run(&how, id, s->count, e);
	s->own_seconds += clock_now() - start;
	ret = dist_agree(t->dist, ret, e);
	free(id);
	if (!ret && x->keep)
		samples_measure(t, s);
	at_end(sc);
	return ret;
}

static void take_strict(const struct trainer *t, struct samples *s)
{
	for (int64_t i = 0; i < s->n; i++) {
		int judge = mixture_judge(t->mixture, s->set[i]);

		s->strict[i] = judge < 0 ? NAN : mixture_sub_of(t->mixture, &s->scores, judge, i, "strict");
	}
}

/* The samples of one set of prompts as if there were no others. */
struct judged {
	int64_t n, groups;
	int64_t *sample, *group, *of_group; /* which sample and which group of all */
	double *basis, *value, *weight, *advantage, *r;
	bool *left_out;
};

static void judged_free(struct judged *j)
{
	free(j->sample);
	free(j->group);
	free(j->of_group);
	free(j->basis);
	free(j->value);
	free(j->weight);
	free(j->advantage);
	free(j->r);
	free(j->left_out);
}

static void judged_take(struct judged *j, const struct trainer *t, const struct samples *s, int set)
{
	const struct mixture_scores *all = &s->scores;
	size_t n = (size_t)s->n, rewards = (size_t)all->rewards;

	*j = (struct judged) { .sample = mem_zero(n, sizeof *j->sample),
			       .group = mem_zero(n, sizeof *j->group),
			       .of_group = mem_zero((size_t)s->groups, sizeof *j->of_group),
			       .basis = mem_zero(n, sizeof *j->basis),
			       .value = mem_zero(n * rewards, sizeof *j->value),
			       .weight = mem_zero(rewards, sizeof *j->weight),
			       .advantage = mem_zero(n, sizeof *j->advantage),
			       .r = mem_zero(n, sizeof *j->r),
			       .left_out = mem_zero(rewards * (size_t)s->groups, sizeof *j->left_out) };
	for (int64_t i = 0; i < s->n; i++) {
		if (s->set[i] != set)
			continue;
		if (!j->groups || j->of_group[j->groups - 1] != s->group[i])
			j->of_group[j->groups++] = s->group[i];
		j->group[j->n] = j->groups - 1;
		j->basis[j->n] = all->total[i];
		j->sample[j->n++] = i;
	}
	for (int k = 0; k < all->rewards; k++) {
		double weight = mixture_weight(t->mixture, k, set);

		j->weight[k] = isnan(weight) ? 0 : weight;
		for (int64_t i = 0; i < j->n; i++)
			j->value[k * j->n + i] = all->value[k * s->n + j->sample[i]];
		for (int64_t g = 0; g < j->groups; g++)
			j->left_out[k * j->groups + g] = all->left_out[k * s->groups + j->of_group[g]];
	}
}

/* Rewards of different sets have different scales: each set's advantages are by its own mean and spread. */
static void judge_set(const struct trainer *t, struct samples *s, int set, struct advantage_stats *stats)
{
	const struct advantage_conf *c = &t->x->advantage;
	struct judged j;

	judged_take(&j, t, s, set);
	double *totals =
	    memcpy(mem_alloc((size_t)s->n * sizeof *totals), j.basis, (size_t)s->n * sizeof *totals);
	if (strcmp(c->combine, "sum") != 0)
		advantage_combine(c, j.n, s->scores.rewards, j.value, j.weight, j.group, j.groups, j.left_out,
				  j.basis);
	advantage_compute(c, j.n, j.basis, j.group, j.groups, j.advantage, j.r, stats);
	advantage_describe(j.n, totals, stats);
	for (int64_t i = 0; i < j.n; i++) {
		s->advantage[j.sample[i]] = j.advantage[i];
		s->r[j.sample[i]] = j.r[i];
	}
	free(totals);
	judged_free(&j);
}

/* Advantages and optimality probabilities from everybody's scores: the same on every rank. */
static void judge_samples(const struct trainer *t, struct samples *s)
{
	int sets = t->train.sets;
	double sum = 0, n = 0;

	if (!sets) {
		judge_set(t, s, 0, &s->stats);
		return;
	}
	s->of_set = mem_zero((size_t)sets, sizeof *s->of_set);
	s->stats = (struct advantage_stats) { 0 };
	for (int k = 0; k < sets; k++) {
		judge_set(t, s, k, &s->of_set[k]);
		s->stats.flat_groups += s->of_set[k].flat_groups;
	}
	advantage_describe(s->n, s->scores.total, &s->stats);
	for (int64_t i = 0; i < s->n; i++)
		if (!isnan(s->r[i])) {
			sum += s->r[i];
			n++;
		}
	s->stats.r_mean = n > 0 ? sum / n : NAN;
}

/* Samples, drawn already, on their way to be scored: x->judging waits for that.  Collective. */
static int sample_all(struct share *x, struct err *e)
{
	struct trainer *t = x->t;
	struct samples *s = x->s;

	if (samples_encode(t, s, e))
		return -1;
	judging_begin(x->judging, t->dist, t->mixture, s->n, s->n / s->groups);
	x->judging->set = s->set;
	if (!sample_share(x, e))
		return 0;
	judging_drop(x->judging);
	return -1;
}

/* Their scores; collective. */
static int take_scores(struct trainer *t, struct samples *s, struct judging *judging, struct err *e)
{
	double waited;

	judging_finish(judging, &s->scores, &waited);
	s->reward_wait_seconds += waited;
	if (dist_stops(t->dist)) /* some may not have waited for the scores */
		return stop_check(e);
	const struct mixture_scores *all = &s->scores; /* the same on every rank, and so is what follows */
	if ((double)all->unavailable <= t->x->train.max_unavailable * (double)s->n)
		return 0;
	return err_set(e,
		       "rewards: %lld of %lld images could not be scored (train.max_unavailable is %g); %s",
		       (long long)all->unavailable, (long long)s->n, t->x->train.max_unavailable, all->why);
}

static int sample_and_judge(struct share *x, struct err *e)
{
	struct judging judging;

	x->judging = &judging;
	return sample_all(x, e) || take_scores(x->t, x->s, &judging, e) ? -1 : 0;
}

/* The trained images of those drawn. */
static void choose(const struct trainer *t, struct samples *s, const struct samples *all)
{
	int64_t keep = t->x->prompts.group_size, each = all->n / all->groups;

	draw(t, s, keep);
	s->drawn = mem_zero((size_t)s->n, sizeof *s->drawn);
	for (int64_t g = 0; g < s->groups; g++) {
		int64_t *of = s->drawn + g * keep;

		selection_best_worst(all->scores.total + g * each, each, keep, of);
		for (int64_t k = 0; k < keep; k++)
			of[k] += g * each;
	}
	s->extra = all->n;
	s->forwards = all->forwards;
	s->extra_mean = all->stats.reward_mean;
	s->reward_wait_seconds = all->reward_wait_seconds;
	s->own_seconds = all->own_seconds;
}

/* Draws and scores more images than are trained, and chooses: *all is the caller's to release. */
static int draw_many(struct trainer *t, struct samples *s, struct samples *all, struct err *e)
{
	int64_t each = t->x->prompts.draw;
	bool preview = t->preview.pipeline != NULL;
	struct share x = { .t = t,
			   .s = all,
			   .sampler = preview ? &t->preview : &t->rollout,
			   .fp8 = preview ? t->x->preview.fp8 : t->x->rollout.fp8,
			   .each = each };

	draw(t, all, each);
	if (sample_and_judge(&x, e))
		return -1;
	judge_samples(t, all);
	choose(t, s, all);
	return 0;
}

/* Advantages among all that were drawn. */
static void take_advantages(struct samples *s, const struct samples *all, int sets)
{
	for (int64_t i = 0; i < s->n; i++) {
		s->advantage[i] = all->advantage[s->drawn[i]];
		s->r[i] = all->r[s->drawn[i]];
	}
	s->stats = all->stats;
	for (int k = 0; s->of_set && k < sets; k++)
		s->of_set[k] = all->of_set[k];
}

/* The images that are trained. */
static struct share share_of(struct trainer *t, struct samples *s, int64_t each)
{
	return (struct share) {
		.t = t, .s = s, .sampler = &t->rollout, .fp8 = t->x->rollout.fp8, .keep = true, .each = each
	};
}

int rollout_begin(struct trainer *t, struct samples *s, struct judging *judging, struct err *e)
{
	struct share x = share_of(t, s, t->x->prompts.group_size);
	double start = clock_now();

	x.judging = judging;
	trainer_window(t);
	draw(t, s, x.each);
	int ret = sample_all(&x, e);
	s->rollout_seconds = clock_now() - start;
	return ret;
}

int rollout_finish(struct trainer *t, struct samples *s, struct judging *judging, struct err *e)
{
	if (take_scores(t, s, judging, e))
		return -1;
	take_strict(t, s);
	judge_samples(t, s);
	return 0;
}

int rollout_epoch(struct trainer *t, struct samples *s, struct err *e)
{
	const struct prompts_conf *c = &t->x->prompts;
	struct samples all = { 0 };
	struct share x = share_of(t, s, c->draw > c->group_size ? c->draw : c->group_size);
	double start = clock_now();
	int ret = 0;

	if (t->archives)
		return archived_epoch(t, s, e);
	*s = (struct samples) { 0 };
	trainer_window(t);
	if (x.each > c->group_size)
		ret = draw_many(t, s, &all, e);
	else
		draw(t, s, x.each);
	ret = ret || sample_and_judge(&x, e) ? -1 : 0;
	if (!ret) {
		take_strict(t, s);
		judge_samples(t, s);
		if (all.n && !strcmp(t->x->advantage.over, "drawn"))
			take_advantages(s, &all, t->train.sets);
		s->rollout_seconds = clock_now() - start - s->reward_wait_seconds;
	}
	samples_release(&all);
	return ret;
}
