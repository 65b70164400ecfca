/* loop.c -- a training run: prompts, rollout, rewards, advantage, update, old policy, epoch after epoch. */
#include "base/alive.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "base/version.h"
#include "algorithms/gradient.h"
#include "sampler/replay.h"
#include "trainer/epoch.h"
#include "trainer/evaluation/grids.h"
#include "trainer/record/archive.h"
#include "trainer/record/rows.h"
#include "trainer/reward_ranks.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GRID_IMAGES  36
#define GRID_COLUMNS 12

static struct evaluator make_evaluator(struct trainer *t)
{
	return (struct evaluator) { .dist = t->dist,
				    .pipeline = &t->pipeline,
				    .sampler = &t->eval_sampler,
				    .mixture = t->mixture,
				    .prompts = &t->test,
				    .images_per_prompt = t->x->eval.images_per_prompt,
				    .batch = t->batches.eval,
				    .height = t->x->prompts.height,
				    .width = t->x->prompts.width,
				    .seed = (uint64_t)t->x->run.seed };
}

static int write_grid(struct trainer *t, const struct image *grid, const json_t *told, struct err *e)
{
	char *image = mem_printf("%s/samples/step-%06lld.png", t->dir, (long long)t->at.step),
	     *words = mem_printf("%s/samples/step-%06lld.json", t->dir, (long long)t->at.step);
	int ret =
	    image_write_png(image, grid->w, grid->h, grid->rgb, e) || json_write(words, told, e) ? -1 : 0;

	if (!ret && metrics_tensorboard(t->metrics)) {
		tb_image(metrics_tensorboard(t->metrics), "samples", t->at.step, grid->w, grid->h, grid->rgb);
		ret = metrics_flush(t->metrics, e);
	}
	if (!ret)
		live_image(t->live, t->at.step, image, words);
	free(image);
	free(words);
	return ret;
}

static int save_grid(struct trainer *t, struct err *e)
{
	struct evaluator v = make_evaluator(t);
	struct pass ema = policies_ema_pass(&t->policies);
	struct image grid;
	json_t *told;
	int ret = grid_sample(&grid, &told, &v, &ema, GRID_IMAGES, GRID_COLUMNS, (int)t->x->log.grid_zoom, e);

	if (grid.rgb)
		ret = write_grid(t, &grid, told, e);
	image_free(&grid);
	json_decref(told);
	return dist_agree(t->dist, ret, e);
}

/* The row that has been collected, with the number of the step that was the last. */
static int write_row(struct trainer *t, struct err *e)
{
	int ret = t->metrics ? metrics_write(t->metrics, t->at.step, e) : 0;

	t->at.rows = t->metrics ? metrics_rows(t->metrics) : 0; /* also where TensorBoard alone failed */
	if (dist_agree(t->dist, ret, e))
		return -1;
	t->unsaved = true;
	return 0;
}

static int evaluate_ema(struct trainer *t, const char *when, bool over, struct eval_result *r, struct err *e)
{
	struct evaluator v = make_evaluator(t);
	struct pass ema = policies_ema_pass(&t->policies);

	if (evaluate(&v, &ema, r, e))
		return -1;
	if (t->metrics) {
		rows_eval(t, r);
		log_info("%s: held-out %s %.3f", when, eval_held_out_name(r), eval_held_out(r)->mean);
	}
	if (!over) { /* with its row, or without one that cannot be written: it is not made again */
		trainer_take_evaluation(t, r);
		t->at.evaluated = t->at.step;
	}
	return write_row(t, e);
}

/* ---- The run --------------------------------------------------------------------------------- */

/* The state of the newest checkpoint, and with it its part of the records.  Other images than those that led
 * here come next: epochs go on counting, and so do what was skipped and how often we went back. */
static int go_back(struct trainer *t, struct err *e)
{
	struct progress_state was = t->at;
	bool found = false;

	t->unsaved = false; /* nothing here is worth more than the checkpoint */
	if (was.rollbacks >= t->x->train.max_rollbacks)
		return err_set(e,
			       "step %lld: %lld in a row were not finite, after %lld returns to a checkpoint "
			       "(train.max_rollbacks): the newest one is sound; go on from it with a lower "
			       "optimizer.lr (it is %g) or train.max_grad_norm (%g), with run.dtype bfloat16 "
			       "or float32 instead of float16, or another run.seed, and look at the rewards",
			       (long long)was.step + 1, (long long)was.skipped_in_row,
			       (long long)was.rollbacks, t->x->optimizer.lr, t->x->train.max_grad_norm);
	if (checkpoint_resume(t, &found, e))
		return -1;
	if (!found)
		return err_set(
		    e,
		    "%lld steps in a row were not finite, and there is no checkpoint to go back to; lower "
		    "optimizer.lr or look at the rewards",
		    (long long)was.skipped_in_row);
	t->at.epoch = was.epoch + 1;
	t->at.part = 0;
	t->at.skipped = was.skipped;
	t->at.skipped_in_row = 0;
	t->at.rollbacks = was.rollbacks + 1;
	t->at.train_seconds = was.train_seconds;
	t->at.stage_seconds = was.stage_seconds;
	t->at.cpu_seconds = was.cpu_seconds;
	t->at.forwards = was.forwards;
	int ret = 0;
	if (t->metrics) {
		metrics_close(t->metrics);
		ret = metrics_open(&t->metrics, t->dir, t->at.step, t->at.rows, t->x->log.tensorboard, e);
		if (!ret && t->live)
			metrics_listen(t->metrics, live_row, t->live);
		live_back(t->live, t->at.step);
		log_warn("went back to the checkpoint of step %lld (%lld of at most %lld times)",
			 (long long)t->at.step, (long long)t->at.rollbacks,
			 (long long)t->x->train.max_rollbacks);
	}
	return dist_agree(t->dist, ret, e);
}

/* Nothing in a part of the epoch to learn from: a pause of a server of rewards, or a lasting mistake. */
static int after_empty(struct trainer *t, const struct samples *s, struct err *e)
{
	struct err why;

	if (s->scores.unavailable >= s->n)
		err_set(&why, "no image was scored (%s)", s->scores.why);
	else
		err_set(&why, "%lld of %lld images were scored, and train.algorithm %s wants none of them",
			(long long)(s->n - s->scores.unavailable), (long long)s->n, t->x->algorithm->name);
	t->at.empty_in_row++;
	if (t->dist->rank == 0)
		log_warn("epoch %lld has nothing to learn from: %s (%lld in a row)", (long long)t->at.epoch,
			 why.msg, (long long)t->at.empty_in_row);
	if (t->at.empty_in_row < t->x->train.max_skipped)
		return 0;
	return err_set(e, "%lld steps in a row had nothing to learn from (train.max_skipped): %.700s",
		       (long long)t->at.empty_in_row, why.msg);
}

/* A step with a non-finite number changed nothing; too many in a row go back to the last checkpoint. */
static int after_skip(struct trainer *t, bool *back, struct err *e)
{
	t->at.skipped++;
	t->at.skipped_in_row++;
	if (t->dist->rank == 0)
		log_warn("step %lld skipped: a loss or gradient is not finite (%lld in a row)",
			 (long long)t->at.step + 1, (long long)t->at.skipped_in_row);
	*back = t->at.skipped_in_row >= t->x->train.max_skipped;
	return *back ? go_back(t, e) : 0;
}

/* One part of the epoch.  *u becomes what a step tells that was made. */
static int run_part(struct trainer *t, const struct samples *s, struct update_stats *u, bool *back,
		    struct round_times *time, struct err *e)
{
	struct update_stats now;

	if (epoch_part(t, s, &now, time))
		return stop_check(e);
	if (now.empty)
		return after_empty(t, s, e);
	t->at.empty_in_row = 0;
	if (now.skipped)
		return after_skip(t, back, e);
	t->at.skipped_in_row = 0;
	*u = now;
	return 0;
}

/* Every rank computes every step: what differs between them would go on being trained, and never be seen. */
static int check_replicas(struct trainer *t, struct err *e)
{
	const struct policies *p = &t->policies;

	if (!dist_same(t->dist, p->theta_hash, "the trained policy (theta)", e) &&
	    !dist_same(t->dist, p->old_hash, "the old policy", e))
		return 0;
	struct err said = *e;
	return err_set(e,
		       "step %lld: the ranks no longer train the same adapter: %.700s; are their GPUs of one "
		       "kind, and libraries of one version? Is memory or a link faulty?",
		       (long long)t->at.step, said.msg);
}

/* One epoch of the algorithm, or what an early end has left of it: samples are a function of the old policy,
 * which stays as it is until the epoch is over. */
static int run_epoch(struct trainer *t, struct samples *s, struct update_stats *u, double *eta, bool *back,
		     struct round_times *time, struct err *e)
{
	int64_t parts = t->x->train.steps_per_epoch;
	double cpu = clock_cpu(), start = clock_now();

	at_panic_context("rank %d, step %lld", t->dist->rank, (long long)t->at.step + 1);
	alive_context("step %lld", (long long)t->at.step + 1);
	if (rollout_epoch(t, s, e))
		return -1;
	time->rollout = s->rollout_seconds;
	time->reward_wait = s->reward_wait_seconds;
	time->sampled = (double)s->forwards;
	dist_sum_f64(t->dist, &time->sampled, 1);
	if (t->x->log.rollouts_every && t->at.epoch % t->x->log.rollouts_every == 0 && archive_write(t, s, e))
		return -1;
	while (t->at.part < parts && t->at.stage_step < t->x->train.max_steps)
		if (run_part(t, s, u, back, time, e)) {
			return -1;
		} else if (*back) {
			epoch_count(t, start, cpu, time);
			return 0;
		}
	*eta = policies_after_epoch(&t->policies, t->at.epoch + 1, t->at.stage_step);
	if (check_replicas(t, e)) {
		t->unsaved = false;
		return -1;
	}
	epoch_over(t, s);
	const double own[PACE_PHASES] = { s->own_seconds, s->reward_wait_seconds, time->own_update };
	pace_ranks(&time->pace, t->dist, own);
	pace_rewards(&time->pace, t->dist, t->mixture, &s->scores);
	epoch_count(t, start, cpu, time);
	return 0;
}

static bool due(int64_t every, int64_t before, int64_t now)
{
	return every > 0 && now / every > before / every;
}

/* A function of what a checkpoint holds: a stage that was over is over when the run goes on from there. */
static bool stage_is_over(const struct trainer *t)
{
	const struct train_conf *c = &t->x->train;

	return t->at.stage_step >= c->max_steps || (t->archives && t->at.epoch >= t->archives->n) ||
	       (c->max_seconds > 0 && t->at.stage_seconds >= c->max_seconds) ||
	       (c->stop_at > 0 && t->at.held_out >= c->stop_at) || t->alarm.stopped;
}

/* The evaluation and the grid that are due where the run stands, unless it ends there, where both come
 * anyway. An early end may come between them: the run then goes on here. */
static int look(struct trainer *t, bool *last, struct eval_result *eval, struct err *e)
{
	if (!t->test.n || *last)
		return 0;
	if (due(t->x->eval.every, t->at.evaluated, t->at.step)) {
		char when[64];

		snprintf(when, sizeof when, "step %lld", (long long)t->at.step);
		if (evaluate_ema(t, when, false, eval, e))
			return -1;
	}
	t->at.evaluated = t->at.step;
	*last = stage_is_over(t);
	if (!*last && due(t->x->log.grid_every, t->at.drawn, t->at.step) && save_grid(t, e))
		return -1;
	t->at.drawn = t->at.step;
	return 0;
}

static int save(struct trainer *t, struct err *e)
{
	double start = clock_now();

	t->unsaved = false; /* what fails is not tried again on the way out */
	int ret = checkpoint_save(t, e);
	t->saved_seconds += clock_now() - start;
	return ret;
}

static int write_step(struct trainer *t, const struct samples *s, const struct update_stats *u, double eta,
		      const struct round_times *time, int64_t before, struct err *e)
{
	struct tensorboard *tb = t->metrics ? metrics_tensorboard(t->metrics) : NULL;

	if (t->at.step == before)
		return 0; /* skipped: this step has its row */
	if (t->metrics)
		rows_step(t, s, u, eta, time);
	if (tb && due(10, before, t->at.step)) {
		tb_histogram(tb, "reward", t->at.step, s->scores.total, s->n);
		tb_histogram(tb, "r", t->at.step, s->r, s->n);
	}
	return write_row(t, e);
}

static void say_attention(const struct trainer *t, const struct samples *s)
{
	enum at_device dev = t->pipeline.device;

	if (t->dist->rank != 0 || !s->count)
		return;
	const struct transformer *net = &t->pipeline.transformer;
	const char *kernel = net->type->attention(net->m, s->x0_NCHW, &s->cond);

	log_info("attention: kernel '%s' in %s on %s", kernel, t->x->run.dtype, at_device_text(dev));
	if (t->pipeline.dtype != AT_F32 && !at_sdpa_is_best(dev, kernel))
		log_warn("attention runs at about half its speed, because cuDNN's kernel is not used; does "
			 "LD_LIBRARY_PATH have an older cuDNN than libtorch's own?");
}

static void say_replays(const struct trainer *t)
{
	int graphs = 0;
	int64_t forwards = 0, updates = gradient_replayed(t->gradients);

	if (t->rollout.replays)
		replays_count(t->rollout.replays, &graphs, &forwards);
	if (t->dist->rank == 0 && t->pipeline.device == AT_CUDA)
		log_info(
		    "CUDA graphs: %d captured of forwards, %lld forwards replayed, %lld updates replayed",
		    graphs, (long long)forwards, (long long)updates);
}

/* Where the time of this process is nearly over, no epoch is begun for nothing. */
static int may_begin(struct trainer *t, double seconds, struct err *e)
{
	if (stop_left() < seconds)
		stop_ask("run.max_seconds");
	return dist_stops(t->dist) ? stop_check(e) : 0;
}

/* All of an epoch that began at step `before`. */
static int turn(struct trainer *t, struct progress *bar, bool *last, struct eval_result *eval, struct err *e)
{
	struct samples s = { 0 };
	struct update_stats u = { 0 };
	struct round_times time = { 0 };
	char note[160];
	double eta = 0;
	int64_t before = t->at.step;
	bool back = false, first = bar->done == bar->base;
	int ret = run_epoch(t, &s, &u, &eta, &back, &time, e);

	if (!ret && first)
		say_attention(t, &s);
	if (!ret && !back) {
		*last = stage_is_over(t);
		ret = write_step(t, &s, &u, eta, &time, before, e) || look(t, last, eval, e) ? -1 : 0;
		if (!ret && (*last || due(t->x->checkpoint.every, before, t->at.step)))
			ret = save(t, e);
		trainer_note(t, &s, &u, eval, note, sizeof note);
		progress_tick(bar, t->at.stage_step, "%s", note);
	} else if (!ret) {
		*last = stage_is_over(t); /* the epochs of a replay, or the time, may be over all the same */
	}
	pace_release(&time.pace);
	samples_release(&s);
	return ret;
}

static int train_loop(struct trainer *t, struct err *e)
{
	struct eval_result eval = { 0 }; /* the newest of this loop */
	struct progress bar;
	bool last = stage_is_over(t);
	double took = 0;
	int ret;

	progress_begin(&bar, t->file->n_stages ? t->file->stage[t->at.stage] : "train", t->at.stage_step,
		       t->x->train.max_steps);
	ret = look(t, &last, &eval, e); /* of an early end before it */
	while (!last && !ret) {
		double start = clock_now();

		ret = may_begin(t, took, e) || turn(t, &bar, &last, &eval, e) ? -1 : 0;
		took = clock_now() - start;
	}
	progress_end(&bar);
	eval_release(&eval);
	say_replays(t);
	return ret;
}

/* result.json, or result-STAGE.json. */
static int write_result(struct trainer *t, const struct eval_result *after, struct err *e)
{
	const char *stage = t->file->n_stages ? t->file->stage[t->at.stage] : NULL;
	char *path =
	    stage ? mem_printf("%s/result-%s.json", t->dir, stage) : file_join(t->dir, "result.json");
	json_t *j = json_pack(
	    "{s:o, s:I, s:I, s:I, s:o, s:o, s:i, s:I}", "name", json_words(t->x->run.name), "optimizer_steps",
	    (json_int_t)t->at.step, "images", (json_int_t)t->at.images, "epochs", (json_int_t)t->at.epoch,
	    "train_seconds", json_number(t->at.train_seconds), "train_cpu_seconds",
	    json_number(t->at.cpu_seconds), "ranks", t->dist->ranks, "seed", (json_int_t)t->x->run.seed);
	json_object_set_new(j, "version", json_string(version()));
	if (stage) {
		json_object_set_new(j, "stage", json_string(stage));
		json_object_set_new(j, "stage_steps", json_integer(t->at.stage_step));
	}
	if (t->test.n) {
		json_object_set_new(j, "before", eval_json(&t->before));
		json_object_set_new(j, "after", eval_json(after));
	}
	int ret = json_write(path, j, e);
	json_decref(j);
	free(path);
	return ret;
}

static void say_where(const struct trainer *t)
{
	printf("\n  %lld optimizer steps, %lld images, %.0f s of training (%.0f CPU s)\n",
	       (long long)t->at.step, (long long)t->at.images, t->at.train_seconds, t->at.cpu_seconds);
	printf("  results   %s/result%s.json, metrics.jsonl, tensorboard/\n", t->dir,
	       t->file->n_stages ? "-*" : "");
	printf("  images    %s/samples/\n", t->dir);
	printf("  adapter   %s/checkpoints/step-%08lld/lora\n", t->dir, (long long)t->at.step);
	fflush(stdout);
}

/* From where the stage stands to its end. */
static int run_stage(struct trainer *t, struct err *e)
{
	struct eval_result after = { 0 };
	int ret = -1;

	if (t->at.stage_step && t->at.evaluated < 0) /* without test prompts until now */
		t->at.evaluated = t->at.drawn = t->at.step;
	if (t->test.n && t->at.evaluated < 0 && evaluate_ema(t, "before training", false, &t->before, e))
		return -1;
	if (t->test.n && t->at.drawn < 0) {
		if (save_grid(t, e))
			return -1;
		t->at.drawn = t->at.step;
	}
	if (train_loop(t, e))
		return -1;
	if (t->test.n && evaluate_ema(t, "after training", true, &after, e))
		goto out;
	t->unsaved = false; /* the end is saved, and who goes on from there evaluates it again */
	if (t->test.n && save_grid(t, e))
		goto out;
	if (dist_agree(t->dist, t->dist->rank == 0 ? write_result(t, &after, e) : 0, e))
		goto out;
	if (t->dist->rank == 0 && t->test.n)
		eval_print(&t->before, &after, "held-out images");
	ret = 0;
out:
	eval_release(&after);
	return ret;
}

/* The next stage begins with the adapters, moments and counters of the one before, and with batch sizes of
 * its own; the checkpoint says so before its first step. */
static int next_stage(struct trainer *t, struct err *e)
{
	t->unsaved = false; /* the state before is saved, and this one is not yet whole */
	t->at.stage++;
	t->at.stage_step = 0;
	t->at.evaluated = t->at.drawn = -1;
	t->at.stage_seconds = 0;
	t->at.held_out = NAN;
	memset(t->at.dealt, 0, sizeof t->at.dealt);
	alarm_release(&t->alarm);
	t->batches = (struct batches) { 0 };
	if (trainer_enter(t, t->at.stage, e) || batches_resolve(t, e))
		return -1;
	if (t->dist->rank == 0)
		log_info("stage %lld of %d: %s", (long long)t->at.stage + 1, t->file->n_stages,
			 t->file->stage[t->at.stage]);
	return save(t, e);
}

/* Rows that could not be written belong to the step that is about to be saved: perhaps they can be now. */
static void write_rows_again(struct trainer *t)
{
	struct err said; /* the run ends by it already */

	if (!t->metrics)
		return;
	(void)metrics_flush(t->metrics, &said);
	t->at.rows = metrics_rows(t->metrics);
}

/* What a run that ends early has done and not saved is saved; *e says how to go on. */
static void keep(struct trainer *t, struct err *e)
{
	struct err said = *e, why;
	bool stops = dist_stops(t->dist), missing = t->unsaved || (stops && !t->at.step);
	long long step = t->at.step;

	if (missing)
		write_rows_again(t);
	if (missing && save(t, &why)) {
		stop_set_code(1);
		err_set(e, "%.600s; and step %lld cannot be saved: %.300s", said.msg, step, why.msg);
	} else if (stops) {
		err_set(e, "stopped by %s; step %lld is saved: --resume goes on from there (exit code %d)",
			stop_why(), step, stop_code());
	} else if (missing) {
		err_set(e, "%.800s (step %lld is saved: --resume goes on from there)", said.msg, step);
	}
}

static int run_stages(struct trainer *t, struct err *e)
{
	if (batches_resolve(t, e))
		return -1;
	for (;;) {
		if (run_stage(t, e))
			return -1;
		if (t->at.stage + 1 == experiment_stages(t->file))
			return 0;
		if (next_stage(t, e))
			return -1;
	}
}

int trainer_run(struct trainer *t, struct err *e)
{
	if (t->dist->rank == 0)
		log_info("%s: %lld adapter parameters on %d modules, %lld images per epoch on %d rank%s of "
			 "%d thread%s, %s",
			 t->x->run.name, (long long)t->policies.theta.numel, t->policies.theta.n,
			 (long long)(t->x->prompts.groups * t->x->prompts.group_size), t->dist->ranks,
			 t->dist->ranks > 1 ? "s" : "", at_threads(), at_threads() > 1 ? "s" : "",
			 at_device_name(t->pipeline.device));
	if (t->dist->rank == 0 && t->dist->servers) {
		char name[64];
		log_info("rewards are scored by %s", reward_ranks_name(t->dist, name, sizeof name));
	}
	if (run_stages(t, e)) {
		keep(t, e);
		return -1;
	}
	if (t->dist->rank == 0)
		say_where(t);
	return 0;
}
