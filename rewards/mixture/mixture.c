#include "aten/transfer.h"
#include "base/alive.h"
#include "base/log.h"
#include "base/mem.h"
#include "rewards/mixture/mixture_queue.h"
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A thread that scores: entry `only`, or where that is SHARED all that have no thread of their own. */
struct worker {
	struct mixture *mixture;
	int only;
};
static atomic_int left_behind;
static _Atomic(int (*)(void (*)(void *), void *, struct err *)) caller; /* of mixture_call_by */

int mixture_left_behind(void)
{
	return atomic_load(&left_behind);
}

/* ---- the threads ---- */

/* Can the reward score this prompt?  If not, the score says why. */
static bool ask(const struct mixture_entry *k, const struct reward_item *item, struct reward_score *score)
{
	struct err why;

	if (!k->type->check || !k->type->check(k->state, item->prompt, item->meta, &why))
		return true;
	reward_fail(score, 1, why.msg);
	return false;
}

static int call(const struct mixture_entry *k, struct task *t, struct err *e)
{
	const struct reward_item *item = t->batch->item + t->offset;
	int ret = 0;

	at_stream_own();
	reward_fail(t->score, t->n, "");
	for (int i = 0; i < t->n; i++)
		t->score[i].ok = !t->check || ask(k, &item[i], &t->score[i]);
	/* runs of those that can be scored */
	for (int i = 0, end; i < t->n && !ret; i = end) {
		for (end = i; end < t->n && t->score[end].ok; end++)
			t->score[end].ok = false;
		if (end > i)
			ret = k->type->score(k->state, item + i, end - i, t->score + i, e);
		else
			end++;
	}
	at_stream_wait(); /* the reward's next call may be another thread's */
	for (int i = 0; i < t->n; i++)
		t->score[i].why[sizeof t->score[i].why - 1] = '\0';
	return ret;
}

struct caught_call {
	const struct mixture_entry *entry;
	struct task *task;
	struct err *e;
	int ret;
};

static void call_within(void *ctx)
{
	struct caught_call *c = ctx;

	c->ret = call(c->entry, c->task, c->e);
}

/* In a process that must not end for it, an operation that fails costs the scores and no more. */
static int call_safely(const struct mixture_entry *k, struct task *t, struct err *e)
{
	struct caught_call c = { k, t, e, -1 };

	int (*by)(void (*)(void *), void *, struct err *) = atomic_load(&caller);
	if (!by)
		return call(k, t, e);
	return by(call_within, &c, e) ? -1 : c.ret;
}

void mixture_call_by(int (*by)(void (*f)(void *ctx), void *ctx, struct err *e))
{
	atomic_store(&caller, by);
}

/* A call has returned.  False when it had been given up: another worker has this one's place. */
static bool finish(struct mixture *m, struct task *t, const struct err *e)
{
	struct activity *a = &m->activity[t->reward];
	struct task **at = &m->running;
	bool in_time = t->set;

	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	a->inside--;
	if (in_time) {
		queue_settle(m, t, e);
		queue_count(m, t, clock_now());
	}
	a->stuck -= !in_time;
	m->stuck -= !in_time;
	queue_free(t);
	pthread_cond_broadcast(&m->work);
	return in_time;
}

static void mixture_free(struct mixture *m)
{
	for (int k = 0; k < m->entries; k++)
		mixture_entry_close(&m->entry[k]);
	pthread_cond_destroy(&m->idle);
	pthread_cond_destroy(&m->work);
	pthread_mutex_destroy(&m->lock);
	free(m->entry);
	free(m->activity);
	free(m->weight);
	free(m);
}

static void *worker(void *arg)
{
	struct mixture *m = ((struct worker *)arg)->mixture;
	int only = ((struct worker *)arg)->only;
	bool needed = true;

	free(arg);
	pthread_mutex_lock(&m->lock);
	while (needed && !m->closing) {
		struct task *t = queue_take(m, only);
		if (!t) {
			pthread_cond_wait(&m->work, &m->lock);
			continue;
		}
		struct err e = { "failed without a message" };
		pthread_mutex_unlock(&m->lock);
		int ret = call_safely(&m->entry[t->reward], t, &e);
		pthread_mutex_lock(&m->lock);
		needed = finish(m, t, ret ? &e : NULL);
	}
	bool orphan = m->orphan, last = !--m->alive;
	pthread_cond_broadcast(&m->idle);
	pthread_mutex_unlock(&m->lock); /* whoever closes may free m now, unless it left that to the last */
	if (orphan && last)
		mixture_free(m);
	if (orphan)
		atomic_fetch_sub(&left_behind, 1);
	return NULL;
}

void mixture_start_worker(struct mixture *m, int only)
{
	struct worker *w = mem_alloc(sizeof *w);
	pthread_attr_t detached;
	pthread_t thread;

	*w = (struct worker) { m, only };
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	m->alive++;
	if (pthread_create(&thread, &detached, worker, w))
		die("cannot start a thread for the rewards (of %d)", m->alive);
	pthread_attr_destroy(&detached);
}

static struct mixture *make(const struct mixture_entry *entry, int n)
{
	struct mixture *m = mem_zero(1, sizeof *m);
	pthread_condattr_t monotonic;

	m->entry = memcpy(mem_alloc((size_t)n * sizeof *entry), entry, (size_t)n * sizeof *entry);
	m->entries = n;
	for (int k = 0; k < n; k++) {
		if (!m->entry[k].name)
			m->entry[k].name = mem_str(m->entry[k].type->name);
		m->entry[k].group |= (m->entry[k].type->flags & REWARD_GROUP) != 0;
		m->entry[k].loaded |= !m->entry[k].type->load;
	}
	m->activity = mem_zero((size_t)n, sizeof *m->activity);
	m->tail = &m->head;
	pthread_mutex_init(&m->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&m->work, NULL);
	pthread_cond_init(&m->idle, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return m;
}

struct mixture *mixture_new(const struct mixture_entry *entry, int n, int threads)
{
	struct mixture *m = make(entry, n);

	m->threads = threads < 1 ? 1 : threads;
	pthread_mutex_lock(&m->lock);
	for (int i = 0; i < m->threads; i++)
		mixture_start_worker(m, SHARED);
	for (int k = 0; k < n; k++)
		if (queue_worker(m, k) == k)
			mixture_start_worker(m, k);
	pthread_mutex_unlock(&m->lock);
	return m;
}

struct mixture *mixture_new_over(const struct mixture_entry *entry, int n,
				 const struct mixture_backend *backend, void *ctx)
{
	struct mixture *m = make(entry, n);

	m->backend = backend;
	m->backend_ctx = ctx;
	return m;
}

void mixture_close(struct mixture *m)
{
	if (!m)
		return;
	if (m->backend)
		m->backend->close(m->backend_ctx);
	pthread_mutex_lock(&m->lock);
	m->closing = true;
	pthread_cond_broadcast(&m->work);
	while (m->head)
		queue_free(queue_unlink(m, &m->head));
	for (double next; next = queue_expire(m), m->alive > m->stuck;)
		queue_wait(m, next);
	int stuck = m->stuck;
	m->orphan = stuck > 0;
	atomic_fetch_add(&left_behind, stuck);
	pthread_mutex_unlock(&m->lock);
	if (!stuck)
		mixture_free(m);
}

/* ---- handing over ---- */

void mixture_begin(struct mixture *m, struct mixture_scores *s)
{
	(void)m;
	for (int i = 0; i < s->rewards * s->n; i++)
		s->value[i] = NAN;
	for (int i = 0; i < s->rewards * s->n * REWARD_SUBS; i++)
		s->sub[i] = NAN;
	s->why[0] = '\0';
	s->why_at = INT64_MAX;
	s->open_tasks = 0;
}

static bool asked(const struct mixture_entry *k, const struct mixture_scores *s, bool group)
{
	return k->group == group && (!k->held_out || s->held_out);
}

/* Those of the batch's items that entry k scores, in runs that follow one another. */
static void queue_runs(struct mixture *m, struct mixture_scores *s, struct batch *b, int k, int n)
{
	for (int i = 0, end; i < n; i = end + 1) {
		for (end = i; end < n && !isnan(mixture_weight(m, k, b->item[end].set));)
			end++;
		if (end > i)
			queue_add(m, s, b, k, i, end - i);
	}
}

/* To the rewards that get groups, or to the others. */
static void hand_over(struct mixture *m, struct mixture_scores *s, const int *sample,
		      const struct reward_item *item, int n, bool group)
{
	bool wanted = false;

	for (int i = 0; i < n; i++)
		s->set[sample[i]] = item[i].set;
	for (int k = 0; k < m->entries; k++)
		wanted |= asked(&m->entry[k], s, group);
	if (n < 1 || !wanted)
		return;
	if (m->backend) {
		m->backend->submit(m->backend_ctx, s, sample, item, n, group);
		return;
	}
	struct batch *b = batch_copy(sample, item, n);

	pthread_mutex_lock(&m->lock);
	b->tasks++; /* ours: it may be that no reward scores any of them */
	for (int k = 0; k < m->entries; k++)
		if (asked(&m->entry[k], s, group))
			queue_runs(m, s, b, k, n);
	batch_release(b);
	queue_expire(m);
	pthread_cond_broadcast(&m->work);
	pthread_mutex_unlock(&m->lock);
}

void mixture_submit(struct mixture *m, struct mixture_scores *s, int first, const struct reward_item *item,
		    int n)
{
	int *sample = mem_zero((size_t)n, sizeof *sample);

	for (int i = 0; i < n; i++)
		sample[i] = first + i;
	hand_over(m, s, sample, item, n, false);
	free(sample);
}

void mixture_submit_group(struct mixture *m, struct mixture_scores *s, const int *sample,
			  const struct reward_item *item, int n)
{
	hand_over(m, s, sample, item, n, true);
}

void mixture_submit_groups(struct mixture *m, struct mixture_scores *s, const struct reward_item *item, int n)
{
	struct reward_item *group = mem_zero((size_t)n, sizeof *group);
	int *sample = mem_zero((size_t)n, sizeof *sample);
	bool *seen = mem_zero((size_t)n, sizeof *seen);

	for (int i = 0; i < n; i++) {
		int k = 0;

		for (int j = i; j < n; j++) {
			if (seen[j] || strcmp(item[i].prompt, item[j].prompt) ||
			    strcmp(item[i].meta, item[j].meta))
				continue;
			seen[j] = true;
			group[k] = item[j];
			sample[k++] = j;
		}
		mixture_submit_group(m, s, sample, group, k);
	}
	free(group);
	free(sample);
	free(seen);
}

bool mixture_done(struct mixture *m, struct mixture_scores *s)
{
	if (m->backend)
		return m->backend->done(m->backend_ctx, s);
	pthread_mutex_lock(&m->lock);
	queue_expire(m);
	bool done = !s->open_tasks;
	pthread_mutex_unlock(&m->lock);
	return done;
}

#define LOOK   0.2 /* s between two looks for scores that have come */
#define MOMENT 1.0 /* s for what runs when its scores are not wanted any more */

/* Others may wait for us as long as scores come, or those who score give signs of life. */
static void say_waits(const struct mixture_scores *s, int *open, double *last, const char *what)
{
	if (s->open_tasks != *open || alive_last(NULL) > *last) {
		alive_mark(what);
		*last = alive_last(NULL);
	}
	*open = s->open_tasks;
}

static bool never(void)
{
	return false;
}

double mixture_wait(struct mixture *m, struct mixture_scores *s)
{
	return mixture_wait_unless(m, s, never);
}

double mixture_wait_unless(struct mixture *m, struct mixture_scores *s, bool (*ends)(void))
{
	double start = clock_now(), last = 0, end = INFINITY;
	int open = -1;

	while (m->backend && !m->backend->done(m->backend_ctx, s)) {
		say_waits(s, &open, &last, "waiting for reward ranks");
		clock_sleep(200e-6);
	}
	pthread_mutex_lock(&m->lock);
	for (double next; next = queue_expire(m), s->open_tasks;) {
		say_waits(s, &open, &last, "waiting for rewards");
		end = isinf(end) && ends() ? clock_now() + MOMENT : end;
		if (clock_now() >= end)
			queue_drop(m, s);
		else
			queue_wait(m, fmin(next, clock_now() + LOOK));
	}
	pthread_mutex_unlock(&m->lock);
	return clock_now() - start;
}

void mixture_wait_until(struct mixture *m, struct mixture_scores *s, double end)
{
	pthread_mutex_lock(&m->lock);
	for (double next; next = queue_expire(m), s->open_tasks && clock_now() < end;)
		queue_wait(m, fmin(next, end));
	if (s->open_tasks)
		queue_drop(m, s);
	pthread_mutex_unlock(&m->lock);
}

int mixture_count(const struct mixture *m)
{
	return m->entries;
}

const struct mixture_entry *mixture_at(const struct mixture *m, int k)
{
	return &m->entry[k];
}

void mixture_take_over(struct mixture *m, struct mixture *from)
{
	if (!from || m->backend || from->backend)
		return;
	pthread_mutex_lock(&from->lock);
	for (int k = 0; k < m->entries; k++)
		for (int i = 0; i < from->entries && !m->entry[k].loaded; i++) {
			struct mixture_entry *own = &m->entry[k], *other = &from->entry[i];

			if (!other->loaded || from->activity[i].inside || !mixture_entries_alike(own, other))
				continue;
			struct mixture_entry old = *own;
			own->conf = other->conf;
			own->state = other->state;
			other->conf = old.conf;
			other->state = old.state;
			own->loaded = true;
			other->loaded = false;
		}
	pthread_mutex_unlock(&from->lock);
}

int mixture_load(struct mixture *m, struct err *e)
{
	if (m->backend)
		return m->backend->load(m->backend_ctx, e);
	for (int k = 0; k < m->entries; k++) {
		struct mixture_entry *entry = &m->entry[k];

		if (entry->loaded)
			continue;
		if (entry->type->load(entry->state, e))
			return err_in(e, "reward %s", entry->name);
		entry->loaded = true;
	}
	return 0;
}

void mixture_set_group(struct mixture *m, int k, bool group)
{
	m->entry[k].group = group;
}

void mixture_pace(struct mixture *m, int k, struct mixture_pace *p)
{
	const struct reward_type *type = m->entry[k].type;

	*p = (struct mixture_pace) { 0 };
	if (m->backend)
		return;
	pthread_mutex_lock(&m->lock);
	struct activity *a = &m->activity[k];
	p->calls = a->calls;
	p->seconds = a->seconds;
	p->longest = a->longest;
	p->given_up = a->given_up;
	a->calls = 0;
	a->seconds = a->longest = 0;
	pthread_mutex_unlock(&m->lock);
	p->restarts = type->restarts ? type->restarts(m->entry[k].state) : 0;
}

int mixture_check_all(struct mixture *m, const struct reward_item *item, int n, int *bad, struct err *e)
{
	if (m->backend)
		return m->backend->check(m->backend_ctx, item, n, bad, e);
	for (int i = 0; i < n; i++)
		for (int k = 0; k < m->entries; k++) {
			const struct mixture_entry *entry = &m->entry[k];

			double weight = mixture_weight(m, k, item[i].set);

			if (!entry->type->check || isnan(weight) || weight == 0 ||
			    !entry->type->check(entry->state, item[i].prompt, item[i].meta, e))
				continue;
			*bad = i;
			return err_in(e, "reward %s cannot score '%.100s'", entry->name, item[i].prompt);
		}
	return 0;
}

int mixture_check(struct mixture *m, const char *prompt, const char *meta, struct err *e)
{
	const struct reward_item item = { .prompt = prompt, .meta = meta };
	int bad;

	return mixture_check_all(m, &item, 1, &bad, e);
}
