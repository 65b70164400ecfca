#include "trainer/epoch.h"
#include "base/log.h"

int epoch_part(struct trainer *t, const struct samples *s, struct update_stats *u, struct round_times *time)
{
	update_step(t, s, t->at.part, t->x->train.steps_per_epoch, u);
	if (u->stopped)
		return -1;
	time->update += u->seconds - u->reduce_seconds;
	time->own_update += u->own_seconds;
	time->reduce += u->reduce_seconds;
	t->at.forwards += u->forwards;
	t->unsaved = true;
	t->at.part++;
	return 0;
}

void epoch_over(struct trainer *t, const struct samples *s)
{
	t->at.part = 0;
	t->at.epoch++;
	if (t->train.sets)
		for (int64_t i = 0; i < s->n; i += s->n / s->groups)
			t->at.dealt[s->set[i]]++;
	t->at.images += s->n + s->extra;
	t->at.unavailable += s->scores.unavailable;
}

void epoch_count(struct trainer *t, double start, double cpu, const struct round_times *time)
{
	double most = clock_now() - start, spent = clock_cpu() - cpu;

	dist_max_f64(t->dist, &most, 1);
	dist_sum_f64(t->dist, &spent, 1);
	t->at.train_seconds += most;
	t->at.stage_seconds += most;
	t->at.cpu_seconds += spent;
	t->at.forwards += time->sampled;
}
