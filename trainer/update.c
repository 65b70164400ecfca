/*
 * update.c -- one optimizer step: the algorithm's pairs of its part of the epoch through the algorithm's
 * loss.
 *
 * Shapes: B pairs of a micro-batch, C channels, H height, W width of the latents, P adapter parameters, N
 * numbers that are told of a pair.
 */
#include "base/log.h"
#include "base/mem.h"
#include "algorithms/gradient.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdlib.h>

int trainer_levels(const struct trainer *t)
{
	return algorithm_levels(&t->rollout.schedule, t->x->train.timestep_fraction);
}

/* Sums over the pairs of a step, for the log: of policy loss, the algorithm's notes, kl, (v - v_old)^2, n, n
 * with kl. */
enum { SUM_POLICY, SUM_NOTES, SUM_KL = SUM_NOTES + ALGORITHM_NOTES, SUM_DEVIATION, SUM_N, SUM_KL_N, SUMS };

/* A step's pairs: of the work all ranks know the size, each its own. */
struct work_list {
	struct pair *v;
	int n;
	int64_t total; /* of all ranks, those of weight 0 included */
};

/* Adds the pairs of a sample, where it has a score; a step without noise has no law, and is none. */
static void add_pairs(struct work_list *l, const struct trainer *t, const struct round *r,
		      const struct samples *s, int64_t id, struct pair *room)
{
	const struct algorithm_type *type = t->x->algorithm;
	bool mine = id >= s->first && id < s->first + s->count;

	if (isnan(s->r[id]))
		return;
	int n = type->pairs ? type->pairs(t->x->algorithm_conf, r, id, room) : pairs_at_random(r, id, room);
	for (int k = 0; k < n; k++) {
		if (r->law && !(r->law[room[k].level].std > 0))
			continue;
		l->total++;
		if (mine && room[k].weight != 0)
			l->v[l->n++] = room[k];
	}
}

/* The part of every unit, a sample or a whole group where the algorithm looks at those: -1 where nothing has
 * a score, so that what could not be scored leaves no part shorter than the others. */
static int64_t *deal(const struct trainer *t, const struct samples *s, int64_t units, int64_t each,
		     int64_t parts)
{
	int64_t *part = mem_zero((size_t)units, sizeof *part), *unit = mem_zero((size_t)units, sizeof *unit);
	int64_t *dealt = mem_zero((size_t)units, sizeof *dealt), n = 0;
	/* images of a prompt are alike; prompts are not, and may come in turns (prompts.by_tag) */
	bool anew = each > 1 || parts > t->x->prompts.group_size;

	for (int64_t i = 0; i < units; i++) {
		part[i] = -1;
		for (int64_t k = 0; k < each && part[i] < 0; k++)
			part[i] = isnan(s->r[i * each + k]) ? -1 : 0;
		if (!part[i])
			unit[n++] = i;
	}
	prompts_deal(n, parts, anew, (uint64_t)t->x->run.seed, t->at.epoch, dealt);
	for (int64_t i = 0; i < n; i++)
		part[unit[i]] = dealt[i];
	free(unit);
	free(dealt);
	return part;
}

/* Of part `part`, in a random order. */
static struct work_list list_pairs(const struct trainer *t, const struct samples *s, int64_t part,
				   int64_t parts)
{
	struct transition *law = trainer_laws(t);
	struct round r = { .schedule = &t->rollout.schedule,
			   .levels = trainer_levels(t),
			   .seed = (uint64_t)t->x->run.seed,
			   .epoch = (uint64_t)t->at.epoch,
			   .n = s->n,
			   .group = s->group,
			   .advantage = s->advantage,
			   .r = s->r,
			   .law = law };
	int64_t units = t->x->algorithm->group ? s->groups : s->n, each = s->n / units;
	int64_t *order = mem_zero((size_t)units, sizeof *order), *dealt = deal(t, s, units, each, parts);
	struct rng shuffle = rng_make(r.seed, RNG_SHUFFLE, r.epoch, 0);
	struct pair *room = mem_zero((size_t)r.levels, sizeof *room);
	struct work_list l = { .v = mem_zero((size_t)(s->count * r.levels + 1), sizeof *l.v) };

	for (int64_t i = 0; i < units; i++)
		order[i] = i;
	rng_shuffle(&shuffle, order, units);
	for (int64_t i = 0; i < units; i++)
		for (int64_t k = 0; k < each && dealt[order[i]] == part; k++)
			add_pairs(&l, t, &r, s, order[i] * each + k, room);
	free(dealt);
	free(order);
	free(room);
	free(law);
	return l;
}

/* Every random thing of a pair has a stream of its own, named by a sample and a level; its group's sum, too.
 */
static uint64_t at_level(const struct trainer *t, int64_t i, const struct pair *p)
{
	return (uint64_t)i * (uint64_t)t->rollout.schedule.steps + (uint64_t)p->level;
}

/* How micro-batches are run: as the update does, or to see what they take. */
struct work {
	const struct sampler *sampler; /* for velocities without gradients, too */
	struct gradient_replays *replays;
	int64_t blocks;
	struct demands asked;
	bool has_old;  /* the old policy's velocity is asked for and is not theta's own */
	double *group; /* by at_level: what the first pass summed; NULL: there is none, or it runs */
};

/* How many of the pairs have a reference, and which unless all do. */
static int pick_kl_rows(const struct trainer *t, const struct demands *asked, struct gradient_batch *m,
			const struct pair *pair, int n)
{
	if (asked->needs & NEEDS_REFERENCE)
		return n;
	if (!(asked->kl > 0))
		return 0;

	int64_t *row = mem_zero((size_t)n, sizeof *row);
	int rows = 0;

	for (int i = 0; i < n; i++) {
		struct rng r = rng_make((uint64_t)t->x->run.seed, RNG_KL, (uint64_t)t->at.epoch,
					at_level(t, pair[i].sample, &pair[i]));
		if (rng_below(&r, (uint32_t)asked->kl_every) == 0)
			row[rows++] = i;
	}
	if (rows > 0 && rows < n)
		m->row_K = at_to(at_from(row, DIMS(rows), AT_I64), AT_I64, t->pipeline.device);
	free(row);
	return rows;
}

/* The noise of such a step, x before it and its law. */
static void gather_steps(const struct trainer *t, const struct samples *s, const struct pair *pair, int n,
			 struct at_dims chw, struct terms *m)
{
	enum { X, V, STD, DT, NUMBERS };
	at_t *z = mem_zero((size_t)n, sizeof *z), *x = mem_zero((size_t)n, sizeof *x);
	float *law = mem_zero((size_t)(NUMBERS * n), sizeof *law);

	for (int i = 0; i < n; i++) {
		struct sampler_steps one = { .seed = (uint64_t)t->x->run.seed,
					     .epoch = (uint64_t)t->at.epoch,
					     .purpose = RNG_SOLVER,
					     .id = &pair[i].sample };
		struct transition of = sampler_law(&t->rollout, pair[i].level);

		z[i] = sampler_step_noise(&t->pipeline, &one, pair[i].level, 1, chw);
		x[i] = at_narrow(s->state_NCHW[pair[i].level], 0, pair[i].sample - s->first, 1);
		law[NUMBERS * i + X] = (float)of.x;
		law[NUMBERS * i + V] = (float)of.v;
		law[NUMBERS * i + STD] = (float)of.std;
		law[NUMBERS * i + DT] = (float)of.dt;
	}
	m->z_BCHW = at_cat(n, z, 0);
	m->xt_BCHW = at_cat(n, x, 0);
	m->law_B4 = at_to(at_from(law, DIMS(n, NUMBERS), AT_F32), AT_F32, t->pipeline.device);
	free(z);
	free(x);
	free(law);
}

static struct gradient_batch gather(const struct trainer *t, const struct samples *s, const struct pair *pair,
				    int n)
{
	struct gradient_batch m = { 0 };
	enum at_device dev = t->pipeline.device;
	struct at_dims chw = at_shape(s->x0_NCHW);
	int64_t *row = mem_zero((size_t)n, sizeof *row), *sample = mem_zero((size_t)n, sizeof *sample);
	int64_t *id = mem_zero((size_t)n, sizeof *id);
	enum { LEVEL, TIMESTEP, R, ADVANTAGE, WEIGHT, COLUMNS };
	float *f = mem_zero((size_t)(COLUMNS * n), sizeof *f);
	at_t column[COLUMNS];

	for (int i = 0; i < n; i++) {
		row[i] = pair[i].sample - s->first;
		sample[i] = pair[i].sample;
		id[i] = (int64_t)at_level(t, pair[i].noise, &pair[i]);
		f[LEVEL * n + i] = (float)t->rollout.schedule.sigma[pair[i].level];
		f[TIMESTEP * n + i] = (float)t->rollout.schedule.t[pair[i].level];
		f[R * n + i] = (float)s->r[pair[i].sample];
		f[ADVANTAGE * n + i] = (float)((2 * s->r[pair[i].sample] - 1) * t->x->advantage.clip);
		f[WEIGHT * n + i] = (float)pair[i].weight;
	}
	for (int k = 0; k < COLUMNS; k++)
		column[k] = at_to(at_from(f + k * n, DIMS(n), AT_F32), AT_F32, dev);
	for (int k = 0; k + 1 < chw.n; k++)
		chw.d[k] = chw.d[k + 1];
	chw.n--;
	m.terms.x0_BCHW = at_index_select(s->x0_NCHW, 0, at_to(at_from(row, DIMS(n), AT_I64), AT_I64, dev));
	m.cond = samples_cond(t, s, sample, n);
	m.terms.t_B = column[LEVEL];
	m.timestep_B = column[TIMESTEP];
	m.terms.r_B = column[R];
	m.terms.advantage_B = column[ADVANTAGE];
	m.terms.weight_B = column[WEIGHT];
	if (s->state_NCHW) {
		gather_steps(t, s, pair, n, chw, &m.terms);
	} else {
		m.terms.eps_BCHW = sampler_noise(&t->pipeline, (uint64_t)t->x->run.seed, RNG_DIFFUSE,
						 (uint64_t)t->at.epoch, id, n, chw);
		m.terms.xt_BCHW = terms_noised(m.terms.x0_BCHW, m.terms.eps_BCHW, m.terms.t_B);
	}
	free(row);
	free(sample);
	free(id);
	free(f);
	return m;
}

/* v of the frozen base on the rows that have a reference. */
static at_t reference(const struct work *w, const struct gradient_batch *m)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	at_t x = m->terms.xt_BCHW, at = m->timestep_B;
	struct cond c = m->cond;

	if (m->row_K) {
		x = at_index_select(x, 0, m->row_K);
		at = at_index_select(at, 0, m->row_K);
		c = cond_rows(&c, m->row_K);
	}
	return at_return(sc, sampler_still_velocity(w->sampler, &(struct pass) { 0 }, x, at, &c));
}

static void add_sums(double *sum, const struct gradient *g, int n, int kl_rows)
{
	int told = (int)at_size(g->told_NB, 0);
	double *v = mem_zero((size_t)(told * n), sizeof *v);

	at_copy_out(g->told_NB, v, AT_F64);
	for (int k = 0; k < told; k++)
		for (int i = 0; i < n; i++)
			sum[SUM_POLICY + k] += v[k * n + i];
	sum[SUM_N] += n;
	sum[SUM_DEVIATION] += at_item(g->deviation);
	sum[SUM_KL] += at_item(g->kl);
	sum[SUM_KL_N] += kl_rows;
	free(v);
}

/* A micro-batch with all that the algorithm asks for beside v. */
static struct gradient_batch prepare(const struct trainer *t, const struct work *w, const struct samples *s,
				     const struct pair *pair, int n, int *kl_rows)
{
	struct gradient_batch m = gather(t, s, pair, n);

	*kl_rows = pick_kl_rows(t, &w->asked, &m, pair, n);
	if (w->has_old) {
		struct pass old = policies_old_pass(&t->policies);
		m.terms.v_old_BCHW =
		    sampler_still_velocity(w->sampler, &old, m.terms.xt_BCHW, m.timestep_B, &m.cond);
	}
	if (*kl_rows)
		m.v_ref_KCHW = reference(w, &m);
	if (w->group) {
		double *sum = mem_zero((size_t)n, sizeof *sum);

		for (int i = 0; i < n; i++)
			sum[i] = w->group[at_level(t, s->group[pair[i].sample], &pair[i])];
		m.terms.group_B = at_to(at_from(sum, DIMS(n), AT_F64), AT_F64, t->pipeline.device);
		free(sum);
	}
	return m;
}

static struct gradient_task task_of(struct trainer *t, const struct work *w)
{
	return (struct gradient_task) { .theta = &t->policies.theta,
					.sampler = w->sampler,
					.algorithm = t->x->algorithm,
					.conf = t->x->algorithm_conf,
					.needs = w->asked.needs,
					.checkpoint_blocks = w->blocks };
}

/* Adds one micro-batch's gradient, each pair weighing 1 / total of the step. */
static void accumulate(struct trainer *t, const struct work *w, const struct samples *s,
		       const struct pair *pair, int n, int64_t total, double *sum)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	const struct demands *d = &w->asked;
	struct gradient_task task = task_of(t, w);
	int kl_rows;
	struct gradient_batch m = prepare(t, w, s, pair, n, &kl_rows);

	m.weight_policy = d->times / d->over / (double)total;
	m.weight_kl = d->kl * (double)d->kl_every / (double)total;

	struct gradient g = gradient_of(&task, w->replays, &m);
	at_add_(t->grad_P, g.grad_P);
	add_sums(sum, &g, n, kl_rows);
	at_end(sc);
}

static struct work work_of(const struct trainer *t, const struct sampler *sampler, int64_t blocks)
{
	struct demands d = t->x->algorithm->demands(t->x->algorithm_conf, &t->x->advantage);

	if (d.needs & NEEDS_REFERENCE || d.kl_every < 1)
		d.kl_every = 1; /* every pair has one */
	return (
	    struct work) { .sampler = sampler, .blocks = blocks, .asked = d, .has_old = d.needs & NEEDS_OLD };
}

/* Sums of all groups by at_level, all zero; NULL where the algorithm asks for none.  The caller's. */
static double *group_sums(const struct trainer *t, const struct samples *s, int64_t *n)
{
	*n = s->groups * t->rollout.schedule.steps;
	return t->x->algorithm->group ? mem_zero((size_t)*n, sizeof(double)) : NULL;
}

/* The first pass, over all pairs of all ranks; collective where there is one. */
static void sum_groups(struct trainer *t, struct work *w, const struct samples *s, const struct work_list *l)
{
	struct gradient_task task = task_of(t, w);
	int64_t n, micro = t->batches.micro;
	double *sum = group_sums(t, s, &n);

	for (int64_t at = 0; sum && at < l->n; at += micro) {
		struct at_scope *sc = at_begin(AT_NO_GRAD);
		int rows = (int)(l->n - at < micro ? l->n - at : micro), ignored;
		const struct pair *pair = l->v + at;
		struct gradient_batch m = prepare(t, w, s, pair, rows, &ignored);
		const double *value = at_data(gradient_group(&task, &m));

		for (int i = 0; i < rows; i++)
			sum[at_level(t, s->group[pair[i].sample], &pair[i])] += value[i];
		at_end(sc);
	}
	if (sum)
		dist_sum_f64(t->dist, sum, (int)n);
	w->group = sum;
}

void update_try(struct trainer *t, const struct samples *s, int n, int64_t blocks)
{
	struct pair *pair = mem_zero((size_t)n, sizeof *pair);
	struct sampler plain = t->rollout;
	struct work w = work_of(t, &plain, blocks);
	double sum[SUMS] = { 0 };
	int64_t sums;
	int level = 0;

	for (int i = 0; i < n; i++, level++) {
		while (s->state_NCHW && !s->state_NCHW[level % s->steps])
			level++; /* some step takes noise: trainer.c saw to it */
		pair[i] = (struct pair) { .sample = i % s->count,
					  .level = level % plain.schedule.steps,
					  .noise = i % s->count,
					  .weight = 1 };
	}
	plain.replays = NULL;
	w.asked.kl_every = 1;
	w.group = group_sums(t, s, &sums);
	accumulate(t, &w, s, pair, n, n, sum);
	free(w.group);
	free(pair);
}

static void fill_stats(struct update_stats *u, const struct trainer *t, const struct demands *d,
		       const double *sum)
{
	const struct algorithm_type *type = t->x->algorithm;
	double n = sum[SUM_N];

	u->policy_loss = sum[SUM_POLICY] / n * d->times / d->over;
	u->kl = sum[SUM_KL_N] > 0 ? sum[SUM_KL] / sum[SUM_KL_N] : 0;
	u->has_old = d->needs & NEEDS_OLD;
	u->old_deviation = sum[SUM_DEVIATION] / n;
	if (type->summary)
		type->summary(sum + SUM_NOTES, n, u->metric);
	else
		for (int k = 0; k < ALGORITHM_NOTES; k++)
			u->metric[k] = sum[SUM_NOTES + k] / n;
}

void update_step(struct trainer *t, const struct samples *s, int64_t part, int64_t parts,
		 struct update_stats *u)
{
	double start = clock_now(), sum[SUMS] = { 0 };
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct work w = work_of(t, &t->rollout, t->batches.blocks);
	struct work_list l = list_pairs(t, s, part, parts);
	int64_t micro = t->batches.micro;

	w.replays = t->gradients;
	w.has_old = w.has_old && !t->policies.old_is_theta;
	*u = (struct update_stats) { 0 };
	at_zero_(t->grad_P);
	sum_groups(t, &w, s, &l);
	for (int at = 0; at < l.n; at += (int)micro)
		accumulate(t, &w, s, l.v + at, l.n - at < micro ? l.n - at : (int)micro, l.total, sum);
	t->dist->reduce_seconds = 0;
	dist_sum_tensor(t->dist, t->grad_P);
	dist_sum_f64(t->dist, sum, SUMS);
	u->reduce_seconds = t->dist->reduce_seconds;

	/* The summed gradient has the same bits on every rank, so all take the same branch. */
	u->grad_norm = optimizer_clip(t->grad_P, t->x->train.max_grad_norm);
	u->lr = optimizer_rate(&t->x->optimizer, t->at.stage_step + 1, t->x->train.max_steps);
	u->empty = l.total == 0;
	u->skipped = u->empty || !isfinite(u->grad_norm) || !isfinite(sum[SUM_POLICY]);
	if (!u->skipped) {
		optimizer_update(&t->optimizer, t->policies.theta.flat, t->grad_P, u->lr);
		t->at.step++;
		t->at.stage_step++;
		policies_after_step(&t->policies, t->at.step);
	}
	fill_stats(u, t, &w.asked, sum);
	free(w.group);
	free(l.v);
	at_end(sc);
	u->seconds = clock_now() - start;
}
