#include "trainer/record/rows.h"
#include "aten/memory.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

/* Of one set of prompts: its images alone, by its rewards. */
static void rows_set(struct trainer *t, const struct samples *s, int set)
{
	const char *name = t->train.set[set].name;
	double *own = mem_zero((size_t)s->n, sizeof *own), images = 0;
	char key[256];

	for (int64_t i = 0; i < s->n; i++)
		images += s->set[i] == set;
	snprintf(key, sizeof key, "reward/%s/images", name);
	metrics_add(t->metrics, key, images);
	if (images > 0) {
		snprintf(key, sizeof key, "reward/%s/mean", name);
		metrics_add(t->metrics, key, s->of_set[set].reward_mean);
		snprintf(key, sizeof key, "reward/%s/std", name);
		metrics_add(t->metrics, key, s->of_set[set].reward_std);
	}
	for (int k = 0; k < s->scores.rewards && images > 0; k++) {
		if (mixture_at(t->mixture, k)->held_out || isnan(mixture_weight(t->mixture, k, set)))
			continue;
		for (int64_t i = 0; i < s->n; i++)
			own[i] = s->set[i] == set ? s->scores.value[k * s->n + i] : NAN;
		snprintf(key, sizeof key, "reward/%s/%s", name, mixture_at(t->mixture, k)->name);
		metrics_add(t->metrics, key, mean_of(own, s->n));
	}
	free(own);
}

void rows_step(struct trainer *t, const struct samples *s, const struct update_stats *u, double eta,
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
	for (int k = 0; s->of_set && k < t->train.sets; k++)
		rows_set(t, s, k);
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
	metrics_add_counts(m, "histogram/reward", s->scores.total, s->n);
	metrics_add_counts(m, "histogram/r", s->r, s->n);
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
	metrics_add(m, "rollbacks", (double)t->at.rollbacks);
	metrics_add(m, "health/x0_norm", s->x0_norm);
	metrics_add(m, "health/diversity", s->diversity);
	metrics_add(m, "health/pixel_mean", s->pixel_mean);
	metrics_add(m, "health/pixel_saturated", s->pixel_saturated);
	struct at_memory memory;
	at_memory_read(t->pipeline.device, &memory);
	metrics_add(m, "memory/peak", (double)memory.peak / 1073741824);
	metrics_add(m, "memory/reserved", (double)memory.reserved_peak / 1073741824);
	metrics_add(m, "compute/forwards", t->at.forwards);
	metrics_add(m, "time/rollout", time->rollout);
	metrics_add(m, "time/reward_wait", time->reward_wait);
	metrics_add(m, "time/update", time->update);
	metrics_add(m, "time/all_reduce", time->reduce);
	if (t->saved_seconds > 0)
		metrics_add(m, "time/checkpoint", t->saved_seconds);
	t->saved_seconds = 0;
	pace_add(&time->pace, m, t->mixture);
	metrics_add(m, "time/train_total", t->at.train_seconds);
	metrics_add(m, "time/device_total",
		    t->pipeline.device == AT_CUDA ? t->at.train_seconds * t->dist->ranks : t->at.cpu_seconds);
}

void rows_eval(struct trainer *t, const struct eval_result *r)
{
	struct metrics *m = t->metrics;

	if (t->file->n_stages)
		metrics_add(m, "stage", (double)t->at.stage + 1);
	eval_add_metrics(r, m);
	metrics_add(m, "time/eval", r->seconds);
}
