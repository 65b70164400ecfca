/* loop.c -- a training run: prompts, rollout, rewards, advantage, update, old policy, epoch after epoch. */
#include "aten/memory.h"
#include "base/alive.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "algorithms/gradient.h"
#include "sampler/replay.h"
#include "trainer/evaluation/grids.h"
#include "trainer/record/archive.h"
#include "trainer/reward_ranks.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GRID_IMAGES  36
#define GRID_COLUMNS 12

/* Seconds of an epoch by phase; `eval` is what came before it. */
struct round_times {
	double rollout, reward_wait, update, reduce, eval;
	double forwards; /* of an image, by all ranks: update_stats.forwards and the rollout's */
};

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

static int save_grid(struct trainer *t, struct err *e)
{
	struct evaluator v = make_evaluator(t);
	struct pass ema = policies_ema_pass(&t->policies);
	struct image grid;
	int ret = grid_sample(&grid, &v, &ema, GRID_IMAGES, GRID_COLUMNS, (int)t->x->log.grid_zoom, e);

	if (grid.rgb) {
		char *path = mem_printf("%s/samples/step-%06lld.png", t->dir, (long long)t->at.step);
		ret = image_write_png(path, grid.w, grid.h, grid.rgb, e);
		if (!ret && metrics_tensorboard(t->metrics))
			tb_image(metrics_tensorboard(t->metrics), "samples", t->at.step, grid.w, grid.h,
				 grid.rgb);
		free(path);
		image_free(&grid);
	}
	return dist_agree(t->dist, ret, e);
}

static int evaluate_ema(struct trainer *t, struct eval_result *r, struct err *e)
{
	struct evaluator v = make_evaluator(t);
	struct pass ema = policies_ema_pass(&t->policies);
	return evaluate(&v, &ema, r, e);
}

/* ---- What a step tells ----------------------------------------------------------------------- */

static double mean_of(const double *v, int64_t n)
{
	double sum = 0, count = 0;
	for (int64_t i = 0; i < n; i++)
		if (!isnan(v[i])) {
			sum += v[i];
			count++;
		}
	return count ? sum / count : NAN;
}

static void add_metrics(struct trainer *t, const struct samples *s, const struct update_stats *u, double eta,
			const struct round_times *time)
{
	struct metrics *m = t->metrics;
	char name[128];

	metrics_add(m, "epoch", (double)t->at.epoch);
	metrics_add(m, "images", (double)t->at.images);
	if (t->file->n_stages)
		metrics_add(m, "stage", (double)t->at.stage + 1);
	metrics_add(m, "reward/mean", s->stats.reward_mean);
	metrics_add(m, "reward/std", s->stats.reward_std);
	for (int k = 0; k < s->scores.rewards; k++) {
		if (mixture_at(t->mixture, k)->held_out)
			continue;
		snprintf(name, sizeof name, "reward/%s", mixture_at(t->mixture, k)->name);
		metrics_add(m, name, mean_of(s->scores.value + k * s->n, s->n));
	}
	if (s->extra)
		metrics_add(m, "reward/drawn", s->extra_mean);
	double strict = mean_of(s->strict, s->n);
	if (!isnan(strict))
		metrics_add(m, "reward/strict", strict);
	metrics_add(m, "reward/unavailable", (double)s->scores.unavailable);
	if (mixture_has_quorum(t->mixture))
		metrics_add(m, "reward/left_out", (double)s->scores.n_left_out);
	metrics_add(m, "advantage/flat_groups", (double)s->stats.flat_groups / (double)s->groups);
	metrics_add(m, "advantage/r_mean", s->stats.r_mean);
	metrics_add(m, "loss/policy", u->policy_loss);
	metrics_add(m, "loss/kl", u->kl);
	if (u->has_old)
		metrics_add(m, "loss/old_deviation", u->old_deviation);
	const char *const *own = algorithm_metrics(t->x->algorithm);
	for (int k = 0; own[k]; k++) {
		snprintf(name, sizeof name, "loss/%s", own[k]);
		metrics_add(m, name, u->metric[k]);
	}
	metrics_add(m, "grad_norm", u->grad_norm);
	metrics_add(m, "lr", u->lr);
	metrics_add(m, "old_eta", eta);
	metrics_add(m, "lora_norm", lora_norm(&t->policies.theta));
	metrics_add(m, "skipped", (double)t->at.skipped);
	metrics_add(m, "health/x0_norm", s->x0_norm);
	metrics_add(m, "health/pixel_mean", s->pixel_mean);
	metrics_add(m, "health/pixel_saturated", s->pixel_saturated);
	struct at_memory memory;
	at_memory_read(t->pipeline.device, &memory);
	metrics_add(m, "memory/peak", (double)memory.peak / 1073741824);
	metrics_add(m, "memory/reserved", (double)memory.reserved_peak / 1073741824);
	metrics_add(m, "compute/forwards", time->forwards);
	metrics_add(m, "time/rollout", time->rollout);
	metrics_add(m, "time/reward_wait", time->reward_wait);
	metrics_add(m, "time/update", time->update);
	metrics_add(m, "time/all_reduce", time->reduce);
	metrics_add(m, "time/eval", time->eval);
	metrics_add(m, "time/train_total", t->at.train_seconds);
}

/* ---- The run --------------------------------------------------------------------------------- */

/* A step with a non-finite number changed nothing; too many in a row go back to the last checkpoint. */
static int after_skip(struct trainer *t, const struct update_stats *u, struct err *e)
{
	bool found = false;

	t->at.skipped++;
	t->at.skipped_in_row++;
	if (t->dist->rank == 0)
		log_warn("step %lld skipped: %s (%lld in a row)", (long long)t->at.step + 1,
			 u->empty ? "there is nothing to learn from" : "a loss or gradient is not finite",
			 (long long)t->at.skipped_in_row);
	if (t->at.skipped_in_row < t->x->train.max_skipped)
		return 0;
	int64_t skipped = t->at.skipped, epoch = t->at.epoch;
	if (checkpoint_resume(t, &found, e))
		return -1;
	if (!found)
		return err_set(
		    e,
		    "%lld steps in a row were not finite, and there is no checkpoint to go back to; lower "
		    "optimizer.lr or look at the rewards",
		    (long long)t->at.skipped_in_row);
	/* Other images than those that led here: the epoch goes on counting. */
	t->at.epoch = epoch;
	t->at.skipped = skipped;
	t->at.skipped_in_row = 0;
	if (t->dist->rank == 0)
		log_warn("went back to the checkpoint of step %lld", (long long)t->at.step);
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

/* One epoch of the algorithm. */
static int run_epoch(struct trainer *t, struct samples *s, struct update_stats *u, double *eta,
		     struct round_times *time, struct err *e)
{
	int64_t parts = t->x->train.steps_per_epoch;
	double cpu = clock_cpu(), start = clock_now();

	at_panic_context("rank %d, step %lld", t->dist->rank, (long long)t->at.step + 1);
	alive_context("step %lld", (long long)t->at.step + 1);
	if (rollout_epoch(t, s, e))
		return -1;
	if (t->x->log.rollouts_every && t->at.epoch % t->x->log.rollouts_every == 0 && archive_write(t, s, e))
		return -1;
	t->at.images += s->n + s->extra;
	t->at.unavailable += s->scores.unavailable;
	for (int64_t part = 0; part < parts && t->at.stage_step < t->x->train.max_steps; part++) {
		update_step(t, s, part, parts, u);
		time->update += u->seconds - u->reduce_seconds;
		time->forwards += u->forwards;
		time->reduce += u->reduce_seconds;
		if (u->skipped && after_skip(t, u, e))
			return -1;
		if (!u->skipped)
			t->at.skipped_in_row = 0;
	}
	*eta = policies_after_epoch(&t->policies, t->at.epoch + 1, t->at.stage_step);
	if (check_replicas(t, e))
		return -1;
	t->at.epoch++;
	time->rollout = s->rollout_seconds;
	time->reward_wait = s->reward_wait_seconds;
	double spent[3] = { clock_now() - start, clock_cpu() - cpu, (double)s->forwards }, most = spent[0];
	dist_max_f64(t->dist, &most, 1);
	dist_sum_f64(t->dist, spent, 3);
	time->forwards += spent[2];
	t->at.train_seconds += most;
	t->at.stage_seconds += most;
	t->at.cpu_seconds += spent[1];
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

	return t->at.stage_step >= c->max_steps ||
	       (c->max_seconds > 0 && t->at.stage_seconds >= c->max_seconds) ||
	       (c->stop_at > 0 && t->at.held_out >= c->stop_at) || t->alarm.stopped;
}

/* Evaluation, grid, metrics and checkpoint after an epoch that began at step `before`. */
static int after_epoch(struct trainer *t, const struct samples *s, const struct update_stats *u, double eta,
		       struct round_times *time, int64_t before, bool *last, struct eval_result *eval,
		       struct err *e)
{
	bool evaluated = false;
	int ret = 0;

	if (t->test.n && !*last && due(t->x->eval.every, before, t->at.step)) {
		double start = clock_now();
		if (evaluate_ema(t, eval, e))
			return -1;
		time->eval = clock_now() - start;
		evaluated = true;
		trainer_take_evaluation(t, eval);
		*last = stage_is_over(t);
	}
	if (t->metrics) {
		add_metrics(t, s, u, eta, time);
		if (evaluated) {
			eval_add_metrics(eval, t->metrics);
			log_info("step %lld  held-out %s %.3f", (long long)t->at.step,
				 eval_held_out_name(eval), eval_held_out(eval)->mean);
		}
		struct tensorboard *tb = metrics_tensorboard(t->metrics);
		if (tb && due(10, before, t->at.step)) {
			tb_histogram(tb, "reward", t->at.step, s->scores.total, s->n);
			tb_histogram(tb, "r", t->at.step, s->r, s->n);
		}
		ret = metrics_write(t->metrics, t->at.step, e);
	}
	if (dist_agree(t->dist, ret, e))
		return -1;
	if (t->test.n && !*last && due(t->x->log.grid_every, before, t->at.step) && save_grid(t, e))
		return -1;
	if (*last || due(t->x->checkpoint.every, before, t->at.step))
		return checkpoint_save(t, e);
	return 0;
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

static int train_loop(struct trainer *t, struct err *e)
{
	const struct train_conf *c = &t->x->train;
	struct eval_result eval = { 0 }; /* the newest of this loop */
	struct progress bar;
	bool last = stage_is_over(t), said = false;
	int ret = 0;

	progress_begin(&bar, t->file->n_stages ? t->file->stage[t->at.stage] : "train", t->at.stage_step,
		       c->max_steps);
	while (!last && !ret) {
		struct samples s;
		struct update_stats u = { 0 };
		struct round_times time = { 0 };
		char note[160];
		double eta = 0;
		int64_t before = t->at.step;
		ret = run_epoch(t, &s, &u, &eta, &time, e);
		if (!ret && !said)
			say_attention(t, &s);
		said = true;
		if (!ret) {
			last = stage_is_over(t);
			ret = after_epoch(t, &s, &u, eta, &time, before, &last, &eval, e);
			trainer_note(t, &s, &u, &eval, note, sizeof note);
			progress_tick(&bar, t->at.stage_step, "%s", note);
		}
		samples_release(&s);
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
	    "{s:s, s:I, s:I, s:I, s:o, s:o, s:i, s:I}", "name", t->x->run.name, "optimizer_steps",
	    (json_int_t)t->at.step, "images", (json_int_t)t->at.images, "epochs", (json_int_t)t->at.epoch,
	    "train_seconds", json_number(t->at.train_seconds), "train_cpu_seconds",
	    json_number(t->at.cpu_seconds), "ranks", t->dist->ranks, "seed", (json_int_t)t->x->run.seed);
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

	if (t->test.n && t->at.stage_step == 0) {
		if (evaluate_ema(t, &t->before, e) || save_grid(t, e))
			return -1;
		log_info("before training: held-out %s %.3f", eval_held_out_name(&t->before),
			 eval_held_out(&t->before)->mean);
		trainer_take_evaluation(t, &t->before);
	}
	if (train_loop(t, e))
		return -1;
	if (t->test.n && (evaluate_ema(t, &after, e) || save_grid(t, e)))
		goto out;
	if (t->test.n)
		log_note("after training: held-out %s %.3f", eval_held_out_name(&after),
			 eval_held_out(&after)->mean);
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
	t->at.stage++;
	t->at.stage_step = 0;
	t->at.stage_seconds = 0;
	t->at.held_out = NAN;
	alarm_release(&t->alarm);
	t->batches = (struct batches) { 0 };
	if (trainer_enter(t, t->at.stage, e) || batches_resolve(t, e))
		return -1;
	if (t->dist->rank == 0)
		log_info("stage %lld of %d: %s", (long long)t->at.stage + 1, t->file->n_stages,
			 t->file->stage[t->at.stage]);
	return checkpoint_save(t, e);
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
	if (batches_resolve(t, e))
		return -1;
	for (;;) {
		if (run_stage(t, e))
			return -1;
		if (t->at.stage + 1 == experiment_stages(t->file))
			break;
		if (next_stage(t, e))
			return -1;
	}
	if (t->dist->rank == 0)
		say_where(t);
	return 0;
}
