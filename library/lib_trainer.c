/* lib_trainer.c -- steps of training, one at a time, with rewards of the caller's. */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "library/inside.h"
#include "trainer/epoch.h"
#include "trainer/record/inputs.h"
#include "trainer/record/rundir.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct contraflow_trainer {
	struct library_state state;
	struct experiment experiment;
	struct dist dist;
	struct trainer trainer;
	struct trainer_scorer scorer;
	struct contraflow_pipeline pipeline;
	bool sized; /* `auto` sizes have been found */
	/* A step that has been sampled and not been made. */
	bool sampled;
	struct samples samples;
	struct judging judging;
	struct contraflow_image *image;
	int n;
	double start, cpu;    /* when it began, by clock_now and clock_cpu */
	const double *reward; /* while it is made */
	char *metrics;
};

/* ---- What stands where rewards stand in a run ---------------------------------------------------- */

static void keep_image(struct contraflow_image *im, const struct reward_item *item, int64_t group)
{
	size_t size = (size_t)item->w * (size_t)item->h * 3;

	free((void *)(uintptr_t)im->rgb);
	*im = (struct contraflow_image) { .rgb = memcpy(mem_alloc(size), item->rgb, size),
					  .width = item->w,
					  .height = item->h,
					  .prompt = item->prompt,
					  .metadata = item->meta,
					  .group = group };
}

static void submit(void *ctx, struct mixture_scores *s, const int *sample, const struct reward_item *item,
		   int n, bool group)
{
	struct contraflow_trainer *h = ctx;

	(void)s, (void)group;
	for (int i = 0; i < n; i++)
		keep_image(&h->image[sample[i]], &item[i], h->samples.group[sample[i]]);
}

/* Without rewards nothing is waited for: the step was dropped. */
static bool done(void *ctx, struct mixture_scores *s)
{
	struct contraflow_trainer *h = ctx;

	for (int i = 0; i < s->n && h->reward; i++) {
		s->value[i] = h->reward[i];
		if (isnan(s->value[i]) && s->why_at == INT64_MAX) {
			s->why_at = (int64_t)i * s->rewards;
			snprintf(s->why, sizeof s->why, "caller: no reward");
		}
	}
	return true;
}

static int check(void *ctx, const struct reward_item *item, int n, int *bad, struct err *e)
{
	(void)ctx, (void)item, (void)n, (void)bad, (void)e;
	return 0;
}

static int load(void *ctx, struct err *e)
{
	(void)ctx, (void)e;
	return 0;
}

static void close_nothing(void *ctx)
{
	(void)ctx;
}

static const struct mixture_backend from_caller = {
	.submit = submit, .done = done, .check = check, .load = load, .close = close_nothing
};

/* ---- Open ---------------------------------------------------------------------------------------- */

struct open_call {
	struct contraflow_trainer *h;
	const char *config;
	const char *const *settings;
};

static int read_experiment(struct open_call *c, struct err *e)
{
	/* the first of the two forgets the file's */
	static const char *const ours[] = { "rewards=null", "rewards={caller: {}}" };
	int n = library_count(c->settings);
	const char **set = mem_zero((size_t)n + 2, sizeof *set);

	for (int i = 0; i < n; i++)
		set[i] = c->settings[i];
	set[n] = ours[0];
	set[n + 1] = ours[1];
	int ret = experiment_read(&c->h->experiment, c->config, set, n + 2, e);
	free(set);
	return ret;
}

static int check_experiment(const struct experiment *x, struct err *e)
{
	if (x->n_stages)
		return err_set(e, "stages: the library trains one: give it a configuration of its own");
	if (x->n_sets)
		return err_set(e, "prompts.sets: the library has one set of prompts: prompts.train");
	if (x->ranks.reward)
		return err_set(e, "ranks.reward = %lld: the library is one process",
			       (long long)x->ranks.reward);
	if (x->prompts.draw > x->prompts.group_size)
		return err_set(
		    e,
		    "prompts.draw = %lld: the library trains on every image that it samples: leave "
		    "it out",
		    (long long)x->prompts.draw);
	return 0;
}

static int open_trainer(void *ctx, struct err *e)
{
	struct open_call *c = ctx;
	struct contraflow_trainer *h = c->h;
	const struct experiment *x = &h->experiment;

	dist_alone(&h->dist);
	h->scorer = (struct trainer_scorer) { &from_caller, h };
	if (read_experiment(c, e))
		return -1;
	if (check_experiment(x, e) || trainer_open(&h->trainer, x, &h->dist, 0, NULL, NULL, &h->scorer, e))
		return -1;
	h->trainer.metrics = metrics_new();
	return library_pipeline_over(&h->pipeline, &h->trainer.pipeline, &h->state, &x->eval.sampler,
				     x->prompts.height, x->prompts.width, e);
}

int contraflow_trainer_open(struct contraflow_trainer **out, const char *config, const char *const *settings,
			    struct contraflow_error *e)
{
	if (!out || !config)
		return library_refuse(e, "contraflow_trainer_open: NULL");
	struct contraflow_trainer *h = calloc(1, sizeof *h);
	struct open_call c = { h, config, settings };

	*out = NULL;
	if (!h)
		return library_refuse(e, "out of memory");
	if (!library_open(open_trainer, &c, e)) {
		*out = h;
		return 0;
	}
	contraflow_trainer_close(h);
	return -1;
}

/* What was sampled is of no more use. */
static void forget_step(struct contraflow_trainer *h)
{
	for (int i = 0; i < h->n; i++)
		free((void *)(uintptr_t)h->image[i].rgb);
	free(h->image);
	samples_release(&h->samples);
	h->image = NULL;
	h->n = 0;
	h->sampled = false;
}

static int release(void *ctx, struct err *e)
{
	struct contraflow_trainer *h = ctx;

	(void)e;
	if (h->sampled)
		judging_drop(&h->judging);
	forget_step(h);
	if (h->pipeline.model)
		library_pipeline_release(&h->pipeline);
	if (h->trainer.dist)
		trainer_close(&h->trainer);
	if (h->experiment.tree)
		experiment_release(&h->experiment);
	return 0;
}

void contraflow_trainer_close(struct contraflow_trainer *t)
{
	if (!t)
		return;
	library_call(NULL, release, t, NULL);
	free(t->metrics);
	free(t);
}

/* ---- A step -------------------------------------------------------------------------------------- */

static int begin_step(struct contraflow_trainer *h, struct err *e)
{
	struct trainer *t = &h->trainer;
	const struct prompts_conf *c = &t->x->prompts;

	if (t->at.stage_step >= t->x->train.max_steps)
		return err_set(e, "train.max_steps = %lld: all steps are made",
			       (long long)t->x->train.max_steps);
	if (!h->sized && batches_resolve(t, e))
		return -1;
	h->sized = true;
	h->n = (int)(c->groups * c->group_size);
	h->image = mem_zero((size_t)h->n, sizeof *h->image);
	h->start = clock_now();
	h->cpu = clock_cpu();
	if (rollout_begin(t, &h->samples, &h->judging, e)) {
		forget_step(h);
		return -1;
	}
	h->sampled = true;
	return 0;
}

static int sample(void *ctx, struct err *e)
{
	struct contraflow_trainer *h = ctx;

	return h->sampled ? 0 : begin_step(h, e);
}

int contraflow_trainer_sample(struct contraflow_trainer *t, const struct contraflow_image **images, int *n,
			      struct contraflow_error *e)
{
	if (!t || !images || !n)
		return library_refuse(e, "contraflow_trainer_sample: NULL");
	if (library_call(&t->state, sample, t, e))
		return -1;
	*images = t->image;
	*n = t->n;
	return 0;
}

/* The parts of the epoch; *u becomes what the last one told that made a step. */
static int update(struct trainer *t, const struct samples *s, struct update_stats *u,
		  struct round_times *time, struct err *e)
{
	while (t->at.part < t->x->train.steps_per_epoch && t->at.stage_step < t->x->train.max_steps) {
		struct update_stats now;

		if (epoch_part(t, s, &now, time))
			return err_set(e, "the process was asked to stop");
		if (!now.empty && !now.skipped)
			*u = now;
		t->at.skipped += !now.empty && now.skipped;
	}
	return 0;
}

static int make_step(struct contraflow_trainer *h, struct round_times *time, struct err *e)
{
	struct trainer *t = &h->trainer;
	struct samples *s = &h->samples;
	struct update_stats u = { 0 };

	if (rollout_finish(t, s, &h->judging, e))
		return -1;
	time->rollout = s->rollout_seconds;
	time->sampled = (double)s->forwards;
	if (update(t, s, &u, time, e))
		return -1;
	double eta = policies_after_epoch(&t->policies, t->at.epoch + 1, t->at.stage_step);
	epoch_over(t, s);
	epoch_count(t, h->start, h->cpu, time);
	rows_step(t, s, &u, eta, time);
	free(h->metrics);
	h->metrics = metrics_take(t->metrics, t->at.step);
	return 0;
}

static int learn(void *ctx, struct err *e)
{
	struct contraflow_trainer *h = ctx;
	struct round_times time = { .reward_wait = clock_now() - h->start - h->samples.rollout_seconds };
	int ret = make_step(h, &time, e);

	h->reward = NULL;
	forget_step(h);
	return ret;
}

int contraflow_trainer_learn(struct contraflow_trainer *t, const double *reward, int n,
			     struct contraflow_error *e)
{
	if (!t || !reward)
		return library_refuse(e, "contraflow_trainer_learn: NULL");
	if (!t->sampled)
		return library_refuse(e, "contraflow_trainer_learn: contraflow_trainer_sample comes first");
	if (n != t->n)
		return library_refuse(e, "contraflow_trainer_learn: n is not the number of images");
	for (int i = 0; i < n; i++)
		if (!isnan(reward[i]) && !(fabs(reward[i]) <= REWARD_MOST))
			return library_refuse(
			    e, "contraflow_trainer_learn: a reward is infinite, or beyond 1e30");
	t->reward = reward;
	return library_call(&t->state, learn, t, e);
}

int contraflow_trainer_step(struct contraflow_trainer *t,
			    int (*reward)(void *ctx, const struct contraflow_image *images, int n,
					  double *reward),
			    void *ctx, struct contraflow_error *e)
{
	const struct contraflow_image *images;
	int n;

	if (!t || !reward)
		return library_refuse(e, "contraflow_trainer_step: NULL");
	if (contraflow_trainer_sample(t, &images, &n, e))
		return -1;
	double *value = malloc((size_t)n * sizeof *value);
	if (!value)
		return library_refuse(e, "out of memory");
	for (int i = 0; i < n; i++)
		value[i] = NAN;
	int ret = reward(ctx, images, n, value)
		      ? library_refuse(e, "contraflow_trainer_step: the rewards' function "
					  "failed; the step can be made again")
		      : contraflow_trainer_learn(t, value, n, e);
	free(value);
	return ret;
}

const char *contraflow_trainer_metrics(const struct contraflow_trainer *t)
{
	return t->metrics;
}

int64_t contraflow_trainer_steps(const struct contraflow_trainer *t)
{
	return t->trainer.at.step;
}

/* ---- What is trained ----------------------------------------------------------------------------- */

struct contraflow_pipeline *contraflow_trainer_pipeline(struct contraflow_trainer *t)
{
	return &t->pipeline;
}

struct adapter_call {
	struct contraflow_trainer *t;
	enum contraflow_policy which;
	struct contraflow_adapter *a;
};

static int copy_policy(void *ctx, struct err *e)
{
	struct adapter_call *c = ctx;
	const struct policies *p = &c->t->trainer.policies;
	const struct lora *of[] = { &p->ema, &p->old, &p->theta };

	if ((unsigned)c->which > CONTRAFLOW_THETA)
		return err_set(e, "contraflow_trainer_adapter: there is no policy %d", (int)c->which);
	c->a = library_adapter_of(&c->t->pipeline, of[c->which]);
	return 0;
}

int contraflow_trainer_adapter(struct contraflow_trainer *t, enum contraflow_policy which,
			       struct contraflow_adapter **out, struct contraflow_error *e)
{
	struct adapter_call c = { t, which, NULL };

	if (!t || !out)
		return library_refuse(e, "contraflow_trainer_adapter: NULL");
	*out = NULL;
	if (library_call(&t->state, copy_policy, &c, e))
		return -1;
	*out = c.a;
	return 0;
}

struct dir_call {
	struct contraflow_trainer *t;
	const char *dir;
};

static void work_in(struct trainer *t, const char *dir)
{
	free(t->dir);
	t->dir = mem_str(dir);
}

static int save_state(struct trainer *t, struct err *e)
{
	t->at.rows = -1; /* whoever keeps rows there knows how many there are */
	json_decref(t->inputs);
	t->inputs = inputs_hash(t->file);
	return rundir_write_config(t, e) || checkpoint_save(t, e) ? -1 : 0;
}

static int save(void *ctx, struct err *e)
{
	struct dir_call *c = ctx;
	struct trainer *t = &c->t->trainer;
	struct runlock lock;

	work_in(t, c->dir);
	if (file_mkdirs(c->dir, e) || runlock_take(&lock, c->dir, e))
		return -1;
	int ret = save_state(t, e);
	runlock_drop(&lock, false);
	return ret;
}

static int resume(void *ctx, struct err *e)
{
	struct dir_call *c = ctx;
	bool found = false;

	work_in(&c->t->trainer, c->dir);
	if (checkpoint_resume(&c->t->trainer, &found, e))
		return -1;
	c->t->sized = false;
	return found ? 0 : err_set(e, "%s: there is no checkpoint", c->dir);
}

static int in_dir(struct contraflow_trainer *t, const char *dir, int (*f)(void *ctx, struct err *e),
		  struct contraflow_error *e)
{
	struct dir_call c = { t, dir };

	if (!t || !dir || !*dir)
		return library_refuse(e, "a trainer and a directory are needed");
	if (t->sampled)
		return library_refuse(e, "a step has begun: contraflow_trainer_learn ends it");
	return library_call(&t->state, f, &c, e);
}

int contraflow_trainer_save(struct contraflow_trainer *t, const char *dir, struct contraflow_error *e)
{
	return in_dir(t, dir, save, e);
}

int contraflow_trainer_resume(struct contraflow_trainer *t, const char *dir, struct contraflow_error *e)
{
	return in_dir(t, dir, resume, e);
}
