/*
 * update.c -- one optimizer step: every sample of its part of the epoch, at its noise levels, through NFT's
 * loss.
 *
 * Shapes: B pairs of a micro-batch, C channels, H height, W width of the latents, P adapter parameters.
 */
#include "base/log.h"
#include "base/mem.h"
#include "algorithms/gradient.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdlib.h>

/* One thing to learn from: a sample of this rank at one of the sampler's noise levels. */
struct pair {
	int64_t sample; /* global index */
	int level;
};

/* Sums over the pairs of a step, for the log: of policy loss, kl, (v - v_old)^2, d = L- - L+, r, d^2, r^2, r
 * d, n, n with kl. */
enum { SUM_POLICY, SUM_KL, SUM_DEVIATION, SUM_D, SUM_R, SUM_DD, SUM_RR, SUM_RD, SUM_N, SUM_KL_N, SUMS };

/* This rank's pairs of part `part`; *total counts the pairs of all ranks. */
static struct pair *list_pairs(const struct trainer *t, const struct samples *s, int64_t part, int64_t parts,
			       int *n, int64_t *total)
{
	int steps = t->rollout.schedule.steps, levels = (int)(steps * t->x->train.timestep_fraction);
	uint64_t seed = (uint64_t)t->x->run.seed, epoch = (uint64_t)t->at.epoch;
	int64_t *order = mem_zero((size_t)s->n, sizeof *order),
		*level = mem_zero((size_t)steps, sizeof *level);
	struct rng shuffle = rng_make(seed, RNG_SHUFFLE, epoch, 0);
	struct pair *list;
	int mine = 0;

	levels = levels < 1 ? 1 : levels;
	for (int64_t i = 0; i < s->n; i++)
		order[i] = i;
	rng_shuffle(&shuffle, order, s->n);
	list = mem_zero((size_t)(s->count * levels + 1), sizeof *list);
	*total = 0;
	for (int64_t i = part * s->n / parts; i < (part + 1) * s->n / parts; i++) {
		int64_t id = order[i];
		if (isnan(s->r[id]))
			continue;
		*total += levels;
		if (id < s->first || id >= s->first + s->count)
			continue;
		struct rng r = rng_make(seed, RNG_TIMESTEP, epoch, (uint64_t)id);
		for (int k = 0; k < steps; k++)
			level[k] = k;
		rng_shuffle(&r, level, steps);
		for (int k = 0; k < levels; k++)
			list[mine++] = (struct pair) { .sample = id, .level = (int)level[k] };
	}
	free(order);
	free(level);
	*n = mine;
	return list;
}

/* Every random thing of a pair has a stream of its own, named by sample and level. */
static uint64_t pair_id(const struct trainer *t, const struct pair *p)
{
	return (uint64_t)p->sample * (uint64_t)t->rollout.schedule.steps + (uint64_t)p->level;
}

/* How micro-batches are run: as the update does, or to see what they take. */
struct work {
	const struct sampler *sampler; /* for velocities without gradients, too */
	struct gradient_replays *replays;
	int64_t blocks, kl_every;
	bool has_old; /* the old policy's velocity is not theta's own */
};

/* How many of the pairs have a reference, and which unless all do. */
static int pick_kl_rows(const struct trainer *t, int64_t every, struct gradient_batch *m,
			const struct pair *pair, int n)
{
	int64_t *row = mem_zero((size_t)n, sizeof *row);
	int rows = 0;

	for (int i = 0; i < n; i++) {
		struct rng r =
		    rng_make((uint64_t)t->x->run.seed, RNG_KL, (uint64_t)t->at.epoch, pair_id(t, &pair[i]));
		if (rng_below(&r, (uint32_t)every) == 0)
			row[rows++] = i;
	}
	if (rows > 0 && rows < n)
		m->row_K = at_to(at_from(row, DIMS(rows), AT_I64), AT_I64, t->pipeline.device);
	free(row);
	return rows;
}

static struct gradient_batch gather(const struct trainer *t, const struct samples *s, const struct pair *pair,
				    int n)
{
	struct gradient_batch m = { 0 };
	enum at_device dev = t->pipeline.device;
	struct at_dims chw = at_shape(s->x0_NCHW);
	int64_t *row = mem_zero((size_t)n, sizeof *row), *sample = mem_zero((size_t)n, sizeof *sample);
	int64_t *id = mem_zero((size_t)n, sizeof *id);
	float *f = mem_zero((size_t)(3 * n), sizeof *f);

	for (int i = 0; i < n; i++) {
		row[i] = pair[i].sample - s->first;
		sample[i] = pair[i].sample;
		id[i] = (int64_t)pair_id(t, &pair[i]);
		f[i] = (float)t->rollout.schedule.sigma[pair[i].level];
		f[n + i] = (float)t->rollout.schedule.t[pair[i].level];
		f[2 * n + i] = (float)s->r[pair[i].sample];
	}
	for (int k = 0; k + 1 < chw.n; k++)
		chw.d[k] = chw.d[k + 1];
	chw.n--;
	at_t eps = sampler_noise(&t->pipeline, (uint64_t)t->x->run.seed, RNG_DIFFUSE, (uint64_t)t->at.epoch,
				 id, n, chw);
	m.terms.x0_BCHW = at_index_select(s->x0_NCHW, 0, at_to(at_from(row, DIMS(n), AT_I64), AT_I64, dev));
	m.cond = samples_cond(t, s, sample, n);
	m.terms.t_B = at_to(at_from(f, DIMS(n), AT_F32), AT_F32, dev);
	m.timestep_B = at_to(at_from(f + n, DIMS(n), AT_F32), AT_F32, dev);
	m.terms.r_B = at_to(at_from(f + 2 * n, DIMS(n), AT_F32), AT_F32, dev);
	m.terms.xt_BCHW = nft_noised(m.terms.x0_BCHW, eps, m.terms.t_B);
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

static void add_sums(double *sum, const struct gradient_batch *m, const struct gradient *g, int n,
		     int kl_rows)
{
	double *v = mem_zero((size_t)(4 * n), sizeof *v), *plus = v + n, *minus = v + 2 * n, *r = v + 3 * n;

	at_copy_out(g->policy_B, v, AT_F64);
	at_copy_out(g->positive_B, plus, AT_F64);
	at_copy_out(g->negative_B, minus, AT_F64);
	at_copy_out(m->terms.r_B, r, AT_F64);
	for (int i = 0; i < n; i++) {
		double d = minus[i] - plus[i];
		sum[SUM_POLICY] += v[i];
		sum[SUM_D] += d;
		sum[SUM_R] += r[i];
		sum[SUM_DD] += d * d;
		sum[SUM_RR] += r[i] * r[i];
		sum[SUM_RD] += r[i] * d;
	}
	sum[SUM_N] += n;
	sum[SUM_DEVIATION] += at_item(g->deviation);
	sum[SUM_KL] += at_item(g->kl);
	sum[SUM_KL_N] += kl_rows;
	free(v);
}

/* Adds one micro-batch's gradient, each pair weighing 1 / total of the step. */
static void accumulate(struct trainer *t, const struct work *w, const struct samples *s,
		       const struct pair *pair, int n, int64_t total, double *sum)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	const struct nft_conf *c = &t->x->nft;
	struct gradient_task task = { &t->policies.theta, w->sampler, c->beta, w->blocks };
	struct gradient_batch m = gather(t, s, pair, n);
	int kl_rows = c->kl_beta > 0 ? pick_kl_rows(t, w->kl_every, &m, pair, n) : 0;

	if (w->has_old) {
		struct pass old = policies_old_pass(&t->policies);
		m.terms.v_old_BCHW =
		    sampler_still_velocity(w->sampler, &old, m.terms.xt_BCHW, m.timestep_B, &m.cond);
	}
	if (kl_rows)
		m.v_ref_KCHW = reference(w, &m);
	m.weight_policy = t->x->advantage.clip / c->beta / (double)total;
	m.weight_kl = c->kl_beta * (double)w->kl_every / (double)total;

	struct gradient g = gradient_of(&task, w->replays, &m);
	at_add_(t->grad_P, g.grad_P);
	add_sums(sum, &m, &g, n, kl_rows);
	at_end(sc);
}

void update_try(struct trainer *t, const struct samples *s, int n, int64_t blocks)
{
	struct pair *pair = mem_zero((size_t)n, sizeof *pair);
	struct sampler plain = t->rollout;
	struct work w = { .sampler = &plain, .blocks = blocks, .kl_every = 1, .has_old = true };
	double sum[SUMS] = { 0 };

	for (int i = 0; i < n; i++)
		pair[i] = (struct pair) { .sample = i % s->count, .level = i % plain.schedule.steps };
	plain.replays = NULL;
	accumulate(t, &w, s, pair, n, n, sum);
	free(pair);
}

static void fill_stats(struct update_stats *u, const struct trainer *t, const double *sum)
{
	double n = sum[SUM_N], var_d = sum[SUM_DD] / n - pow(sum[SUM_D] / n, 2);
	double var_r = sum[SUM_RR] / n - pow(sum[SUM_R] / n, 2);
	double cov = sum[SUM_RD] / n - sum[SUM_R] / n * sum[SUM_D] / n;

	u->policy_loss = sum[SUM_POLICY] / n * t->x->advantage.clip / t->x->nft.beta;
	u->kl = sum[SUM_KL_N] > 0 ? sum[SUM_KL] / sum[SUM_KL_N] : 0;
	u->old_deviation = sum[SUM_DEVIATION] / n;
	u->correlation = var_d > 0 && var_r > 0 ? cov / sqrt(var_d * var_r) : 0;
}

void update_step(struct trainer *t, const struct samples *s, int64_t part, int64_t parts,
		 struct update_stats *u)
{
	double start = clock_now(), sum[SUMS] = { 0 };
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t total, micro = t->batches.micro;
	struct work w = { &t->rollout, t->gradients, t->batches.blocks, t->x->nft.kl_every,
			  !t->policies.old_is_theta };
	int n;
	struct pair *pair = list_pairs(t, s, part, parts, &n, &total);

	*u = (struct update_stats) { 0 };
	at_zero_(t->grad_P);
	for (int at = 0; at < n; at += (int)micro)
		accumulate(t, &w, s, pair + at, n - at < micro ? n - at : (int)micro, total, sum);
	t->dist->reduce_seconds = 0;
	dist_sum_tensor(t->dist, t->grad_P);
	dist_sum_f64(t->dist, sum, SUMS);
	u->reduce_seconds = t->dist->reduce_seconds;

	/* The summed gradient has the same bits on every rank, so all take the same branch. */
	u->grad_norm = optimizer_clip(t->grad_P, t->x->train.max_grad_norm);
	u->lr = optimizer_rate(&t->x->optimizer, t->at.stage_step + 1, t->x->train.max_steps);
	u->skipped = total == 0 || !isfinite(u->grad_norm) || !isfinite(sum[SUM_POLICY]);
	if (!u->skipped) {
		optimizer_update(&t->optimizer, t->policies.theta.flat, t->grad_P, u->lr);
		t->at.step++;
		t->at.stage_step++;
		policies_after_step(&t->policies, t->at.step);
	}
	fill_stats(u, t, sum);
	free(pair);
	at_end(sc);
	u->seconds = clock_now() - start;
}
