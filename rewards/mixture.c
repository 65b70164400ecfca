#include "rewards/mixture.h"
#include "base/log.h"
#include "base/mem.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Pictures that were handed over together; the last task that is done with them frees them. */
struct batch {
	int *sample; /* the samples of the set that they are */
	uint8_t *pixels;
	char *text; /* prompts and metadata */
	struct reward_item *item;
	int tasks;
};

/* One reward on a run of a batch's items: in the queue, and then in the list of those that run. */
struct task {
	struct task *next;
	struct batch *batch;
	struct mixture_scores *set; /* NULL: given up; nobody waits for it */
	struct reward_score *score;
	bool check;                   /* ask the reward about the prompts first */
	int reward, offset, n;
	double since; /* queued; once it runs, begun */
};

/* What an entry is doing. */
struct activity {
	int inside; /* calls that run, those given up counted */
	int stuck;  /* those given up */
	double stuck_since;
	int64_t given_up; /* ever */
};

struct mixture {
	struct mixture_entry *entry;
	struct activity *activity;
	int entries;
	int threads, alive, stuck; /* workers: shared ones, there are, of these in calls given up */
	pthread_mutex_t lock;
	pthread_cond_t work, idle; /* something to start; something is done */
	struct task *head, **tail, *running;
	bool closing, orphan;            /* orphan: closed, and the last stuck worker frees it */
	const struct mixture_back *back; /* NULL: the threads here score */
	void *back_ctx;
};

/* A thread that scores: entry `only`, or where that is SHARED all that have no thread of their own. */
struct worker {
	struct mixture *mixture;
	int only;
};
#define SHARED -1

static atomic_int left_behind;

int mixture_left_behind(void)
{
	return atomic_load(&left_behind);
}

/* ---- scores ---- */

static void note_reason(struct mixture *m, struct mixture_scores *s, int sample, int reward, const char *why)
{
	int64_t at = (int64_t)sample * m->entries + reward;

	if (s->reason)
		snprintf(s->reason[reward * s->n + sample], sizeof *s->reason, "%.159s", why);
	if (at >= s->why_at)
		return;
	s->why_at = at;
	snprintf(s->why, sizeof s->why, "%.80s: %.160s", m->entry[reward].name, why);
}

static void store(struct mixture *m, const struct task *t, const struct err *e)
{
	struct mixture_scores *s = t->set;
	const struct reward_score *score = t->score;

	for (int i = 0; i < t->n; i++) {
		int sample = t->batch->sample[t->offset + i], at = t->reward * s->n + sample;
		if (e)
			note_reason(m, s, sample, t->reward, e->msg);
		else if (!score[i].ok)
			note_reason(m, s, sample, t->reward, score[i].why[0] ? score[i].why : "unavailable");
		else if (!isfinite(score[i].value))
			note_reason(m, s, sample, t->reward, "the score is not a finite number");
		else
			s->value[at] = score[i].value;
		if (!isnan(s->value[at]))
			memcpy(s->sub + (size_t)at * REWARD_SUBS, score[i].sub, sizeof score[i].sub);
	}
}

/* The set has one task less to wait for. */
static void settle(struct mixture *m, struct task *t, const struct err *e)
{
	store(m, t, e);
	if (!--t->set->open_tasks)
		pthread_cond_broadcast(&m->idle);
	t->set = NULL;
}

static void task_free(struct task *t)
{
	struct batch *b = t->batch;

	if (!--b->tasks) {
		free(b->sample);
		free(b->pixels);
		free(b->text);
		free(b->item);
		free(b);
	}
	free(t->score);
	free(t);
}

/* ---- the queue; all with the lock held ---- */

static struct task *unlink_task(struct mixture *m, struct task **at)
{
	struct task *t = *at;

	*at = t->next;
	if (m->tail == &t->next)
		m->tail = at;
	t->next = NULL;
	return t;
}

/* Which workers score entry k. */
static int worker_of(const struct mixture *m, int k)
{
	return m->entry[k].type->flags & REWARD_WAITS ? k : SHARED;
}

/* Calls of entry k at a time. */
static int room(const struct mixture *m, int k)
{
	unsigned flags = m->entry[k].type->flags;

	return flags & REWARD_THREAD_SAFE && !(flags & REWARD_WAITS) ? m->threads : 1;
}

/* All its room is taken by calls that were given up. */
static bool blocked(const struct mixture *m, int k)
{
	return m->activity[k].stuck >= room(m, k);
}

/* The first queued task of these workers whose reward may start now, taken out of the queue. */
static struct task *take(struct mixture *m, int only)
{
	for (struct task **at = &m->head; *at; at = &(*at)->next) {
		struct activity *a = &m->activity[(*at)->reward];
		if (worker_of(m, (*at)->reward) != only || a->inside >= room(m, (*at)->reward))
			continue;
		struct task *t = unlink_task(m, at);
		a->inside++;
		t->since = clock_now();
		t->next = m->running;
		m->running = t;
		if (m->entry[t->reward].deadline > 0)
			pthread_cond_broadcast(&m->idle); /* whoever waits there has a deadline to watch */
		return t;
	}
	return NULL;
}

static void start_worker(struct mixture *m, int only);

static void warn_given_up(struct mixture *m, int k)
{
	struct activity *a = &m->activity[k];

	/* the first, and then ever more rarely: a judge that always hangs must not fill the log */
	a->given_up++;
	if (!(a->given_up & (a->given_up - 1)))
		log_warn(
		    "reward %s: a batch took more than its deadline of %g s and was given up (%lld so far)",
		    m->entry[k].name, m->entry[k].deadline, (long long)a->given_up);
}

/* When the reward's time for a task is over; a queued one's runs only while its reward is blocked. */
static double end_of(const struct mixture *m, const struct task *t, bool runs)
{
	double deadline = m->entry[t->reward].deadline, since = t->since;

	if (!(deadline > 0) || (!runs && !blocked(m, t->reward)))
		return INFINITY;
	return (runs ? since : fmax(since, m->activity[t->reward].stuck_since)) + deadline;
}

/* A call that runs goes on for nobody; another worker takes its worker's place. */
static void give_up(struct mixture *m, struct task *t, const struct err *e, double now)
{
	struct activity *a = &m->activity[t->reward];

	settle(m, t, e);
	a->stuck++;
	a->stuck_since = now;
	m->stuck++;
	start_worker(m, worker_of(m, t->reward));
}

/* Gives up what is over its deadline; returns when the next will be. */
static double expire(struct mixture *m)
{
	double now = clock_now(), next = INFINITY;
	struct err e;

	for (struct task *t = m->running; t; t = t->next) {
		double end = t->set ? end_of(m, t, true) : INFINITY;

		next = end > now ? fmin(next, end) : next;
		if (end > now)
			continue;
		err_set(&e, "no score within its deadline of %g s", m->entry[t->reward].deadline);
		give_up(m, t, &e, now);
		warn_given_up(m, t->reward);
	}
	for (struct task **at = &m->head; *at;) {
		double end = end_of(m, *at, false);

		next = end > now ? fmin(next, end) : next;
		if (end > now) {
			at = &(*at)->next;
			continue;
		}
		struct task *t = unlink_task(m, at);
		err_set(&e, "an earlier batch is long past its deadline of %g s and still not scored",
			m->entry[t->reward].deadline);
		settle(m, t, &e);
		task_free(t);
	}
	return next;
}

/* Until something is done or the next deadline, as expire told it. */
static void wait_idle(struct mixture *m, double next)
{
	double left = next - clock_now();
	struct timespec until;

	if (!isfinite(left)) {
		pthread_cond_wait(&m->idle, &m->lock);
		return;
	}
	left = fmin(fmax(left, 0), 1e6) + 1e-3;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)left;
	until.tv_nsec += (long)((left - floor(left)) * 1e9);
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_cond_timedwait(&m->idle, &m->lock, &until);
}

/* ---- the threads ---- */

/* Can the reward score this prompt?  If not, the score says why. */
static bool ask(const struct mixture_entry *k, const struct reward_item *item, struct reward_score *score)
{
	struct err why;

	if (!k->type->check || !k->type->check(k->state, item->prompt, item->meta, &why))
		return true;
	snprintf(score->why, sizeof score->why, "%.159s", why.msg);
	return false;
}

static int call(const struct mixture_entry *k, struct task *t, struct err *e)
{
	const struct reward_item *item = t->batch->item + t->offset;
	int ret = 0;

	for (int i = 0; i < t->n; i++) {
		t->score[i].value = NAN;
		for (int j = 0; j < REWARD_SUBS; j++)
			t->score[i].sub[j] = NAN;
		t->score[i].ok = !t->check || ask(k, &item[i], &t->score[i]);
	}
	/* runs of those that can be scored */
	for (int i = 0, end; i < t->n && !ret; i = end) {
		for (end = i; end < t->n && t->score[end].ok; end++)
			t->score[end].ok = false;
		if (end > i)
			ret = k->type->score(k->state, item + i, end - i, t->score + i, e);
		else
			end++;
	}
	for (int i = 0; i < t->n; i++)
		t->score[i].why[sizeof t->score[i].why - 1] = '\0';
	return ret;
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
	if (in_time)
		settle(m, t, e);
	a->stuck -= !in_time;
	m->stuck -= !in_time;
	task_free(t);
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
	free(m);
}

static void *worker(void *arg)
{
	struct mixture *m = ((struct worker *)arg)->mixture;
	int only = ((struct worker *)arg)->only;
	bool mine = true;

	free(arg);
	pthread_mutex_lock(&m->lock);
	while (mine && !m->closing) {
		struct task *t = take(m, only);
		if (!t) {
			pthread_cond_wait(&m->work, &m->lock);
			continue;
		}
		struct err e = { "failed without a message" };
		pthread_mutex_unlock(&m->lock);
		int ret = call(&m->entry[t->reward], t, &e);
		pthread_mutex_lock(&m->lock);
		mine = finish(m, t, ret ? &e : NULL);
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

static void start_worker(struct mixture *m, int only)
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
		start_worker(m, SHARED);
	for (int k = 0; k < n; k++)
		if (worker_of(m, k) == k)
			start_worker(m, k);
	pthread_mutex_unlock(&m->lock);
	return m;
}

struct mixture *mixture_new_over(const struct mixture_entry *entry, int n, const struct mixture_back *back,
				 void *ctx)
{
	struct mixture *m = make(entry, n);

	m->back = back;
	m->back_ctx = ctx;
	return m;
}

void mixture_close(struct mixture *m)
{
	if (!m)
		return;
	if (m->back)
		m->back->close(m->back_ctx);
	pthread_mutex_lock(&m->lock);
	m->closing = true;
	pthread_cond_broadcast(&m->work);
	while (m->head)
		task_free(unlink_task(m, &m->head));
	for (double next; next = expire(m), m->alive > m->stuck;)
		wait_idle(m, next);
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

/* With the texts: a call that was given up may read them when the prompts are gone. */
static struct batch *copy_items(const int *sample, const struct reward_item *item, int n)
{
	struct batch *b = mem_zero(1, sizeof *b);
	size_t size = 0, length = 0;

	for (int i = 0; i < n; i++) {
		size += (size_t)item[i].w * (size_t)item[i].h * 3;
		length += strlen(item[i].prompt) + strlen(item[i].meta) + 2;
	}
	b->sample = memcpy(mem_alloc((size_t)n * sizeof *sample), sample, (size_t)n * sizeof *sample);
	b->pixels = mem_alloc(size);
	b->text = mem_alloc(length);
	b->item = mem_alloc((size_t)n * sizeof *item);
	uint8_t *pixel = b->pixels;
	char *text = b->text;
	for (int i = 0; i < n; i++) {
		size_t one = (size_t)item[i].w * (size_t)item[i].h * 3;
		b->item[i] = item[i];
		b->item[i].rgb = memcpy(pixel, item[i].rgb, one);
		pixel += one;
		b->item[i].prompt = strcpy(text, item[i].prompt);
		text += strlen(text) + 1;
		b->item[i].meta = strcpy(text, item[i].meta);
		text += strlen(text) + 1;
	}
	return b;
}

/* A thread-safe reward's batch is shared out to all threads; another's stays whole, and so does a group. */
static int pieces(const struct mixture *m, int k, int n)
{
	int most = m->entry[k].group ? 1 : room(m, k);

	return n < most ? n : most;
}

static void enqueue(struct mixture *m, struct mixture_scores *s, struct batch *b, int k, int n)
{
	int parts = pieces(m, k, n);

	for (int i = 0; i < parts; i++) {
		struct task *t = mem_alloc(sizeof *t);
		int from = n * i / parts, to = n * (i + 1) / parts;

		*t = (struct task) { .batch = b,
				     .set = s,
				     .score = mem_zero((size_t)(to - from), sizeof *t->score),
				     .reward = k,
				     .offset = from,
				     .n = to - from,
				     .check = s->check,
				     .since = clock_now() };
		*m->tail = t;
		m->tail = &t->next;
		b->tasks++;
		s->open_tasks++;
	}
}

/* To the rewards that get groups, or to the others. */
static void hand_over(struct mixture *m, struct mixture_scores *s, const int *sample,
		      const struct reward_item *item, int n, bool group)
{
	bool wanted = false;

	for (int k = 0; k < m->entries; k++)
		wanted |= m->entry[k].group == group;
	if (n < 1 || !wanted)
		return;
	if (m->back) {
		m->back->submit(m->back_ctx, s, sample, item, n, group);
		return;
	}
	struct batch *b = copy_items(sample, item, n);

	pthread_mutex_lock(&m->lock);
	for (int k = 0; k < m->entries; k++)
		if (m->entry[k].group == group)
			enqueue(m, s, b, k, n);
	expire(m);
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

bool mixture_done(struct mixture *m, struct mixture_scores *s)
{
	if (m->back)
		return m->back->done(m->back_ctx, s);
	pthread_mutex_lock(&m->lock);
	expire(m);
	bool done = !s->open_tasks;
	pthread_mutex_unlock(&m->lock);
	return done;
}

double mixture_wait(struct mixture *m, struct mixture_scores *s)
{
	double start = clock_now();

	while (m->back && !m->back->done(m->back_ctx, s))
		nanosleep(&(struct timespec) { .tv_nsec = 200000 }, NULL);
	pthread_mutex_lock(&m->lock);
	for (double next; next = expire(m), s->open_tasks;)
		wait_idle(m, next);
	pthread_mutex_unlock(&m->lock);
	return clock_now() - start;
}

/* Nobody waits for the rest of a set. */
static void drop(struct mixture *m, struct mixture_scores *s)
{
	struct err e;

	err_set(&e, "not scored in time");
	for (struct task *t = m->running; t; t = t->next)
		if (t->set == s)
			give_up(m, t, &e, clock_now());
	for (struct task **at = &m->head; *at;) {
		if ((*at)->set != s) {
			at = &(*at)->next;
			continue;
		}
		struct task *t = unlink_task(m, at);
		settle(m, t, &e);
		task_free(t);
	}
}

void mixture_wait_until(struct mixture *m, struct mixture_scores *s, double end)
{
	pthread_mutex_lock(&m->lock);
	for (double next; next = expire(m), s->open_tasks && clock_now() < end;)
		wait_idle(m, fmin(next, end));
	if (s->open_tasks)
		drop(m, s);
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

void mixture_set_group(struct mixture *m, int k, bool group)
{
	m->entry[k].group = group;
}

int mixture_check_all(struct mixture *m, const struct reward_item *item, int n, int *bad, struct err *e)
{
	if (m->back)
		return m->back->check(m->back_ctx, item, n, bad, e);
	for (int i = 0; i < n; i++)
		for (int k = 0; k < m->entries; k++) {
			const struct mixture_entry *entry = &m->entry[k];

			if (!entry->type->check ||
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
