#include "rewards/mixture/mixture_queue.h"
#include "base/log.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- scores ---- */

/* Of a score, and why there is none. */
static void note(struct mixture_scores *s, int sample, int reward, const char *why)
{
	if (s->reason)
		snprintf(s->reason[reward * s->n + sample], sizeof *s->reason, "%.159s", why);
}

static void note_reason(struct mixture *m, struct mixture_scores *s, int sample, int reward, const char *why)
{
	int64_t at = (int64_t)sample * m->entries + reward;

	note(s, sample, reward, why);
	if (at >= s->why_at || mixture_weight(m, reward, s->set[sample]) == 0) /* which costs no sample */
		return;
	s->why_at = at;
	snprintf(s->why, sizeof s->why, "%.80s: %.160s", m->entry[reward].name, why);
}

static void store(struct mixture *m, const struct task *t, const struct err *e)
{
	struct mixture_scores *s = t->set;
	const struct reward_score *score = t->score;
	char why[REWARD_WHY];

	for (int i = 0; i < t->n; i++) {
		int sample = t->batch->sample[t->offset + i], at = t->reward * s->n + sample;
		if (e)
			note_reason(m, s, sample, t->reward, e->msg);
		else if (!score[i].ok)
			note_reason(m, s, sample, t->reward, score[i].why[0] ? score[i].why : "unavailable");
		else if (!reward_sane(score[i].value, "the", why))
			note_reason(m, s, sample, t->reward, why);
		else
			s->value[at] = score[i].value;
		if (isnan(s->value[at]))
			continue;
		note(s, sample, t->reward, score[i].why);
		memcpy(s->sub + (size_t)at * REWARD_SUBS, score[i].sub, sizeof score[i].sub);
	}
}

void queue_settle(struct mixture *m, struct task *t, const struct err *e)
{
	store(m, t, e);
	if (!--t->set->open_tasks)
		pthread_cond_broadcast(&m->idle);
	t->set = NULL;
}

void batch_release(struct batch *b)
{
	if (--b->tasks)
		return;
	free(b->sample);
	free(b->pixels);
	free(b->text);
	free(b->item);
	free(b);
}

void queue_free(struct task *t)
{
	batch_release(t->batch);
	free(t->score);
	free(t);
}

/* ---- the queue ---- */

struct task *queue_unlink(struct mixture *m, struct task **at)
{
	struct task *t = *at;

	*at = t->next;
	if (m->tail == &t->next)
		m->tail = at;
	t->next = NULL;
	return t;
}

int queue_worker(const struct mixture *m, int k)
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

struct task *queue_take(struct mixture *m, int only)
{
	for (struct task **at = &m->head; *at; at = &(*at)->next) {
		struct activity *a = &m->activity[(*at)->reward];
		if (queue_worker(m, (*at)->reward) != only || a->inside >= room(m, (*at)->reward))
			continue;
		struct task *t = queue_unlink(m, at);
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

static void warn_given_up(struct mixture *m, int k)
{
	struct activity *a = &m->activity[k];

	/* the first, and then ever more rarely: a judge that always hangs must not fill the log */
	a->given_up++;
	if (!(a->given_up & (a->given_up - 1)))
		log_warn(
		    "reward %s: gave up on a batch that took longer than the deadline of %g s (%lld so far)",
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

void queue_count(struct mixture *m, const struct task *t, double now)
{
	struct activity *a = &m->activity[t->reward];
	double took = now - t->since;

	a->calls++;
	a->seconds += took;
	a->longest = fmax(a->longest, took);
}

/* A call that runs goes on for nobody; another worker takes its worker's place. */
static void give_up(struct mixture *m, struct task *t, const struct err *e, double now)
{
	struct activity *a = &m->activity[t->reward];

	queue_settle(m, t, e);
	queue_count(m, t, now);
	a->stuck++;
	a->stuck_since = now;
	m->stuck++;
	mixture_start_worker(m, queue_worker(m, t->reward));
}

double queue_expire(struct mixture *m)
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
		struct task *t = queue_unlink(m, at);
		err_set(&e, "an earlier batch has long passed its deadline of %g s without a score",
			m->entry[t->reward].deadline);
		queue_settle(m, t, &e);
		queue_free(t);
	}
	return next;
}

void queue_wait(struct mixture *m, double next)
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

struct batch *batch_copy(const int *sample, const struct reward_item *item, int n)
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

void queue_add(struct mixture *m, struct mixture_scores *s, struct batch *b, int k, int first, int n)
{
	int parts = pieces(m, k, n);
	bool watched = false;

	for (int i = first; i < first + n; i++)
		watched |= mixture_weight(m, k, b->item[i].set) == 0;
	for (int i = 0; i < parts; i++) {
		struct task *t = mem_alloc(sizeof *t);
		int from = first + n * i / parts, to = first + n * (i + 1) / parts;

		*t = (struct task) { .batch = b,
				     .set = s,
				     .score = mem_zero((size_t)(to - from), sizeof *t->score),
				     .reward = k,
				     .offset = from,
				     .n = to - from,
				     .check = s->check || watched,
				     .since = clock_now() };
		*m->tail = t;
		m->tail = &t->next;
		b->tasks++;
		s->open_tasks++;
	}
}

void queue_drop(struct mixture *m, struct mixture_scores *s)
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
		struct task *t = queue_unlink(m, at);
		queue_settle(m, t, &e);
		queue_free(t);
	}
}
