/*
 * update.c -- one optimizer step: the pairs of its part of the epoch through the algorithm's loss.
 *
 * Shapes: B pairs of a micro-batch, C channels, H height, W width of the latents, P adapter parameters, N
 * numbers that are told of a pair.
 */
#include "aten/normals.h"
#include "aten/transfer.h"
#include "base/alive.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "algorithms/gradient.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

int trainer_levels(const struct trainer *t)
{
	return algorithm_levels(&t->rollout.schedule, t->x->train.timestep_fraction);
}

/* Sums over the pairs of a step, for the log: of policy loss, the algorithm's notes, kl, (v - v_old)^2, n, n
 * with kl. */
enum {
	SUM_POLICY,
	SUM_NOTES,
	SUM_KL = SUM_NOTES + ALGORITHM_NOTES,
	SUM_DEVIATION,
	SUM_N,
	SUM_KL_N,
	SUM_FORWARDS,
	SUMS
};

/* What those are sums of, where it was made until the step's end: to fetch it after each micro-batch would
 * make the GPU wait for the CPU as often.  M micro-batches of a step of L pairs. */
struct tally {
	at_t told_NL, deviation_M, kl_M; /* float64; views of `all` */
	at_t all;
	int pairs, micros; /* that are in it */
	int64_t with_kl;
};

/* A step's pairs: of the work all ranks know the size, each its own. */
struct work_list {
	struct pair *v;
	int n;
	int64_t total; /* of all ranks, those of weight 0 included */
};

/* 1000 t of each of a sample's levels, where it is this rank's. */
static const float *given_t(const struct samples *s, int64_t id)
{
	return (const float *)at_data(s->given_t_NT) + (id - s->first) * s->given;
}

/* Adds the levels that an archive has of a sample. */
static void add_given(struct work_list *l, const struct samples *s, int64_t id, bool mine)
{
	l->total += s->given;
	for (int k = 0; k < s->given && mine; k++)
		l->v[l->n++] = (struct pair) {
			.sample = id,
			.level = k,
			.noise = id,
			.weight = 1,
			.sigma = (double)given_t(s, id)[k] / 1000,
		};
}

/* Adds the pairs of a sample, where it has a score; a step without noise has no law, and is none. */
static void add_pairs(struct work_list *l, const struct trainer *t, const struct round *r,
		      const struct samples *s, int64_t id, struct pair *room)
{
	const struct algorithm_type *type = t->x->algorithm;
	bool mine = id >= s->first && id < s->first + s->count;

	if (isnan(s->r[id]))
		return;
	if (s->given) {
		add_given(l, s, id, mine);
		return;
	}
	int n = type->pairs ? type->pairs(t->x->algorithm_conf, r, id, room) : pairs_at_random(r, id, room);
	if (n < 0 || n > r->levels)
		at_panic("%s: %d pairs of a sample, at most %d", type->name, n, r->levels);
	for (int k = 0; k < n; k++) {
		if (room[k].level < 0 || room[k].level >= r->schedule->steps)
			at_panic("%s: a pair at level %d of %d", type->name, room[k].level,
				 r->schedule->steps);
		if (room[k].sigma < 0 || room[k].sigma > 1 || (r->law && room[k].sigma > 0))
			at_panic("%s: a pair at sigma %g", type->name, room[k].sigma);
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
	int64_t most = s->given > r.levels ? s->given : r.levels;
	struct work_list l = { .v = mem_zero((size_t)(s->count * most + 1), sizeof *l.v) };

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

/* What the CPU knows of a micro-batch, which goes to the device in one copy: rows of x0 and of the
 * conditioning, names of the streams of noise, numbers of each pair, laws, rows with a reference, sums of
 * groups; NULL: there are none. */
enum { TABLE_ROW, TABLE_COND, TABLE_NAME, TABLE_NUMBER, TABLE_LAW, TABLE_KL, TABLE_GROUP, TABLES };
enum { LEVEL, TIMESTEP, R, ADVANTAGE, WEIGHT, NUMBERS }; /* rows of TABLE_NUMBER */

static void *make_table(at_t *slot, enum at_dtype dt, struct at_dims shape)
{
	*slot = at_empty(shape, dt, AT_CPU);
	return at_data(*slot);
}

/* How many of the pairs have a reference, and a table of them unless all do. */
static int pick_kl_rows(const struct trainer *t, const struct demands *asked, at_t table[TABLES],
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
		table[TABLE_KL] = at_from(row, DIMS(rows), AT_I64);
	free(row);
	return rows;
}

/* The stream of a pair's noise: of x_t, or where states are kept of the solver's step. */
static struct rng noise_of(const struct trainer *t, const struct samples *s, const struct pair *pair)
{
	uint64_t seed = (uint64_t)t->x->run.seed, epoch = (uint64_t)t->at.epoch;

	return s->state_NCHW ? rng_make_step(seed, RNG_SOLVER, epoch,
					     (uint64_t)(s->drawn ? s->drawn[pair->sample] : pair->sample),
					     (uint64_t)pair->level)
			     : rng_make(seed, RNG_DIFFUSE, epoch, at_level(t, pair->noise, pair));
}

static double level_of(const struct trainer *t, const struct pair *pair)
{
	return pair->sigma > 0 ? pair->sigma : t->rollout.schedule.sigma[pair->level];
}

/* What the transformer is told of that level. */
static double timestep_of(const struct trainer *t, double sigma)
{
	return strcmp(t->x->train.timesteps, "float") ? schedule_t(&t->rollout.schedule, sigma)
						      : 1000 * sigma;
}

static void fill_tables(const struct trainer *t, const struct samples *s, const struct pair *pair, int n,
			at_t table[TABLES])
{
	int64_t *row = make_table(&table[TABLE_ROW], AT_I64, DIMS(n)),
		*cond = make_table(&table[TABLE_COND], AT_I64, DIMS(n)),
		*name = make_table(&table[TABLE_NAME], AT_I64, DIMS(n, 2));
	float *f = make_table(&table[TABLE_NUMBER], AT_F32, DIMS(NUMBERS, n));

	for (int i = 0; i < n; i++) {
		struct rng noise = noise_of(t, s, &pair[i]);
		double r = s->r[pair[i].sample], t_at = level_of(t, &pair[i]);

		row[i] = pair[i].sample - s->first;
		cond[i] = s->group[pair[i].sample] - s->first_group;
		rng_name(&noise, name + 2 * i);
		f[LEVEL * n + i] = (float)t_at;
		f[TIMESTEP * n + i] = (float)timestep_of(t, t_at);
		f[R * n + i] = (float)r;
		f[ADVANTAGE * n + i] = (float)((2 * r - 1) * t->x->advantage.clip);
		f[WEIGHT * n + i] = (float)pair[i].weight;
	}
	if (s->state_NCHW) {
		enum { X, V, STD, DT, LAW };
		float *law = make_table(&table[TABLE_LAW], AT_F32, DIMS(n, LAW));

		for (int i = 0; i < n; i++) {
			struct transition of = sampler_law(&t->rollout, pair[i].level);
			law[LAW * i + X] = (float)of.x;
			law[LAW * i + V] = (float)of.v;
			law[LAW * i + STD] = (float)of.std;
			law[LAW * i + DT] = (float)of.dt;
		}
	}
}

/* x before each pair's step (0) or after it (1). */
static at_t states(const struct samples *s, const struct pair *pair, int n, int after)
{
	at_t *x = mem_zero((size_t)n, sizeof *x), all;

	for (int i = 0; i < n; i++) {
		int step = pair[i].level + after;
		at_t from = step < s->steps ? s->state_NCHW[step] : s->x0_NCHW;

		x[i] = at_narrow(from, 0, pair[i].sample - s->first, 1);
	}
	all = at_cat(n, x, 0);
	free(x);
	return all;
}

/* eps of an archive. */
static at_t given_noise(const struct trainer *t, const struct samples *s, const struct pair *pair, int n)
{
	at_t *z = mem_zero((size_t)n, sizeof *z), all;

	for (int i = 0; i < n; i++)
		z[i] = at_narrow(at_select(s->given_noise_NTCHW, 0, pair[i].sample - s->first), 0,
				 pair[i].level, 1);
	all = at_cat(n, z, 0);
	free(z);
	at_send_all(1, &all, &all, t->pipeline.device);
	return all;
}

static struct gradient_batch gather(const struct trainer *t, const struct work *w, const struct samples *s,
				    const struct pair *pair, int n, int *kl_rows)
{
	at_t table[TABLES] = { 0 }, number[NUMBERS];
	struct at_dims noise = at_shape(s->x0_NCHW);

	fill_tables(t, s, pair, n, table);
	*kl_rows = pick_kl_rows(t, &w->asked, table, pair, n);
	if (w->group) {
		double *sum = make_table(&table[TABLE_GROUP], AT_F64, DIMS(n));

		for (int i = 0; i < n; i++)
			sum[i] = w->group[at_level(t, s->group[pair[i].sample], &pair[i])];
	}
	at_send_all(TABLES, table, table, t->pipeline.device);
	for (int k = 0; k < NUMBERS; k++)
		number[k] = at_select(table[TABLE_NUMBER], 0, k);
	noise.d[0] = n;

	struct gradient_batch m = { .terms = { .x0_BCHW = at_index_select(s->x0_NCHW, 0, table[TABLE_ROW]),
					       .t_B = number[LEVEL],
					       .r_B = number[R],
					       .advantage_B = number[ADVANTAGE],
					       .weight_B = number[WEIGHT],
					       .law_B4 = table[TABLE_LAW],
					       .group_B = table[TABLE_GROUP] },
				    .cond = cond_rows(&s->cond, table[TABLE_COND]),
				    .timestep_B = number[TIMESTEP],
				    .row_K = table[TABLE_KL] };
	at_t z_BCHW = s->given_noise_NTCHW ? given_noise(t, s, pair, n)
					   : at_normals((uint64_t)t->x->run.seed, table[TABLE_NAME], noise);
	if (s->state_NCHW) {
		m.terms.z_BCHW = z_BCHW;
		m.terms.xt_BCHW = states(s, pair, n, 0);
		if (w->asked.needs & NEEDS_NEXT)
			m.terms.next_BCHW = states(s, pair, n, 1);
	} else {
		m.terms.eps_BCHW = z_BCHW;
		m.terms.xt_BCHW = terms_noised(m.terms.x0_BCHW, z_BCHW, m.terms.t_B);
	}
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

/* For L pairs in M micro-batches. */
static struct tally tally_new(const struct trainer *t, int64_t L, int64_t M)
{
	int64_t N = 1;

	while (t->x->algorithm->notes && t->x->algorithm->notes[N - 1])
		N++;
	struct tally k = { .all = at_zeros(DIMS(N * L + 2 * M), AT_F64, t->pipeline.device) };
	k.told_NL = at_view(at_narrow(k.all, 0, 0, N * L), DIMS(N, L));
	k.deviation_M = at_narrow(k.all, 0, N * L, M);
	k.kl_M = at_narrow(k.all, 0, N * L + M, M);
	return k;
}

static void tally_add(struct tally *k, const struct gradient *g, int n, int kl_rows)
{
	at_copy_(at_narrow(k->told_NL, 1, k->pairs, n), g->told_NB);
	at_copy_(at_narrow(k->deviation_M, 0, k->micros, 1), g->deviation);
	at_copy_(at_narrow(k->kl_M, 0, k->micros, 1), g->kl);
	k->pairs += n;
	k->micros++;
	k->with_kl += kl_rows;
}

/* In the order in which they came. */
static void tally_sums(const struct tally *k, double sum[SUMS])
{
	int64_t N = at_size(k->told_NL, 0), L = at_size(k->told_NL, 1), M = at_size(k->kl_M, 0);
	double *all = mem_zero((size_t)at_numel(k->all), sizeof *all);

	at_copy_out(k->all, all, AT_F64);
	for (int64_t i = 0; i < N; i++)
		for (int64_t j = 0; j < L; j++)
			sum[SUM_POLICY + i] += all[i * L + j];
	for (int64_t i = 0; i < M; i++) {
		sum[SUM_DEVIATION] += all[N * L + i];
		sum[SUM_KL] += all[N * L + M + i];
	}
	sum[SUM_N] = k->pairs;
	sum[SUM_KL_N] = (double)k->with_kl;
	free(all);
}

/* A micro-batch with all that the algorithm asks for beside v. */
static struct gradient_batch prepare(const struct trainer *t, const struct work *w, const struct samples *s,
				     const struct pair *pair, int n, int *kl_rows)
{
	struct gradient_batch m = gather(t, w, s, pair, n, kl_rows);

	if (w->has_old) {
		struct pass old = policies_old_pass(&t->policies);
		m.terms.v_old_BCHW =
		    sampler_still_velocity(w->sampler, &old, m.terms.xt_BCHW, m.timestep_B, &m.cond);
	}
	if (*kl_rows)
		m.v_ref_KCHW = reference(w, &m);
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
		       const struct pair *pair, int n, int64_t total, struct tally *tally)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	const struct demands *d = &w->asked;
	struct gradient_task task = task_of(t, w);
	int kl_rows;

	alive_mark("update");
	struct gradient_batch m = prepare(t, w, s, pair, n, &kl_rows);

	m.weight_policy = d->times / d->over / (double)total;
	m.weight_kl = d->kl * (double)d->kl_every / (double)total;

	struct gradient g = gradient_of(&task, w->replays, &m);
	at_add_(t->grad_P, g.grad_P);
	tally_add(tally, &g, n, kl_rows);
	at_end(sc);
}

static struct work work_of(const struct trainer *t, const struct sampler *sampler, int64_t blocks)
{
	struct demands d = t->x->algorithm->demands(t->x->algorithm_conf, &t->x->advantage);

	if (t->alarm.kl > 0)
		d.kl *= t->alarm.kl;
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

	for (int64_t at = 0; sum && at < l->n && !stop_asked(); at += micro) {
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
	struct transition *law = trainer_laws(t);
	struct work w = work_of(t, &plain, blocks);
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct tally tally = tally_new(t, n, 1);
	int64_t sums;
	int level = 0;

	for (int i = 0; i < n; i++, level++) {
		while (law && !(law[level % s->steps].std > 0))
			level++; /* some step takes noise: trainer.c saw to it */
		pair[i] = (struct pair) { .sample = i % s->count,
					  .level = level % plain.schedule.steps,
					  .noise = i % s->count,
					  .weight = 1 };
	}
	plain.replays = NULL;
	w.asked.kl_every = 1;
	w.group = group_sums(t, s, &sums);
	accumulate(t, &w, s, pair, n, n, &tally);
	at_end(sc);
	free(w.group);
	free(law);
	free(pair);
}

/* What a pass over n pairs without gradient takes beside theta's own velocity. */
static double beside(const struct work *w, double n, double with_kl)
{
	return (w->has_old ? n : 0) + with_kl;
}

/* Forwards of an image that this rank made for a step. */
static double forwards_of(const struct work *w, const struct tally *tally)
{
	double n = tally->pairs, with_kl = (double)tally->with_kl;
	double once = n * (1 + FORWARDS_OF_BACKWARD) + beside(w, n, with_kl);

	return sampler_passes(w->sampler) * (once + (w->group ? n + beside(w, n, with_kl) : 0));
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
	u->forwards = sum[SUM_FORWARDS];
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
	struct tally tally = tally_new(t, l.n, (l.n + micro - 1) / micro);

	w.replays = t->gradients;
	w.has_old = w.has_old && !t->policies.old_is_theta;
	*u = (struct update_stats) { 0 };
	at_zero_(t->grad_P);
	sum_groups(t, &w, s, &l);
	for (int at = 0; at < l.n && !stop_asked(); at += (int)micro)
		accumulate(t, &w, s, l.v + at, l.n - at < micro ? l.n - at : (int)micro, l.total, &tally);
	at_stream_wait();
	u->own_seconds = clock_now() - start;
	if ((u->stopped = dist_stops(t->dist)))
		goto out;
	tally_sums(&tally, sum);
	sum[SUM_FORWARDS] = forwards_of(&w, &tally);
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
out:
	free(w.group);
	free(l.v);
	at_end(sc);
	u->seconds = clock_now() - start;
}
