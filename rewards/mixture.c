#include "rewards/mixture.h"
#include "base/log.h"
#include "base/mem.h"
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Pictures of one mixture_submit; the last task that is done with them frees them. */
struct batch {
	uint8_t *pixels;
	struct reward_item *item;
	int tasks;
};

/* One reward on a run of a batch's items. */
struct task {
	struct task *next;
	struct batch *batch;
	int reward, offset, n, first; /* first: sample of the set that `offset` of the batch is */
};

struct mixture {
	struct mixture_entry *entry;
	bool *busy; /* a reward that is not thread-safe is at work */
	int entries;
	pthread_t *thread;
	int threads;
	pthread_mutex_t lock;
	pthread_cond_t work, idle; /* something to start; everything done */
	struct task *head, **tail;
	int open_tasks; /* queued or running */
	bool closing;
	struct mixture_scores *scores;
	int64_t why_at; /* sample * rewards + reward of the reason kept: the first, whoever came first */
};

/* ---- scoring ---- */

/* The first queued task whose reward may start now, taken out of the queue. */
static struct task *take(struct mixture *m)
{
	for (struct task **at = &m->head; *at; at = &(*at)->next) {
		struct task *t = *at;
		bool alone = !(m->entry[t->reward].type->flags & REWARD_THREAD_SAFE);
		if (alone && m->busy[t->reward])
			continue;
		*at = t->next;
		if (m->tail == &t->next)
			m->tail = at;
		m->busy[t->reward] = alone;
		return t;
	}
	return NULL;
}

static void note_reason(struct mixture *m, int sample, int reward, const char *why)
{
	int64_t at = (int64_t)sample * m->entries + reward;

	if (at >= m->why_at)
		return;
	m->why_at = at;
	snprintf(m->scores->why, sizeof m->scores->why, "%.80s: %.160s", m->entry[reward].name, why);
}

static void store(struct mixture *m, const struct task *t, const struct reward_score *score,
		  const struct err *e)
{
	struct mixture_scores *s = m->scores;

	for (int i = 0; i < t->n; i++) {
		int at = t->reward * s->n + t->first + i;
		if (e)
			note_reason(m, t->first + i, t->reward, e->msg);
		else if (!score[i].ok)
			note_reason(m, t->first + i, t->reward,
				    score[i].why[0] ? score[i].why : "unavailable");
		else if (!isfinite(score[i].value))
			note_reason(m, t->first + i, t->reward, "the score is not a finite number");
		else
			s->value[at] = score[i].value;
		if (!isnan(s->value[at]))
			memcpy(s->sub + (size_t)at * REWARD_SUBS, score[i].sub, sizeof score[i].sub);
	}
}

static void run(struct mixture *m, struct task *t)
{
	const struct mixture_entry *k = &m->entry[t->reward];
	struct reward_score *score = mem_zero((size_t)t->n, sizeof *score);
	struct err e = { "failed without a message" };

	for (int i = 0; i < t->n; i++) {
		score[i].value = NAN;
		for (int j = 0; j < REWARD_SUBS; j++)
			score[i].sub[j] = NAN;
	}
	int ret = k->type->score(k->state, t->batch->item + t->offset, t->n, score, &e);
	for (int i = 0; i < t->n; i++)
		score[i].why[sizeof score[i].why - 1] = '\0';

	pthread_mutex_lock(&m->lock);
	store(m, t, score, ret ? &e : NULL);
	pthread_mutex_unlock(&m->lock);
	free(score);
}

/* With the lock held. */
static void drop(struct mixture *m, struct task *t)
{
	struct batch *b = t->batch;

	if (!--b->tasks) {
		free(b->pixels);
		free(b->item);
		free(b);
	}
	free(t);
	if (!--m->open_tasks)
		pthread_cond_broadcast(&m->idle);
}

static void *worker(void *arg)
{
	struct mixture *m = arg;

	pthread_mutex_lock(&m->lock);
	while (!m->closing) {
		struct task *t = take(m);
		if (!t) {
			pthread_cond_wait(&m->work, &m->lock);
			continue;
		}
		pthread_mutex_unlock(&m->lock);
		run(m, t);
		pthread_mutex_lock(&m->lock);
		if (m->busy[t->reward]) {
			m->busy[t->reward] = false;
			pthread_cond_broadcast(&m->work);
		}
		drop(m, t);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

void mixture_begin(struct mixture *m, struct mixture_scores *s)
{
	s->unavailable = 0;
	s->why[0] = '\0';
	for (int i = 0; i < s->n; i++)
		s->total[i] = NAN;
	for (int i = 0; i < s->rewards * s->n; i++)
		s->value[i] = NAN;
	for (int i = 0; i < s->rewards * s->n * REWARD_SUBS; i++)
		s->sub[i] = NAN;
	m->scores = s;
	m->why_at = INT64_MAX;
}

static struct batch *copy_items(const struct reward_item *item, int n)
{
	struct batch *b = mem_zero(1, sizeof *b);
	size_t size = 0, at = 0;

	for (int i = 0; i < n; i++)
		size += (size_t)item[i].w * (size_t)item[i].h * 3;
	b->pixels = mem_alloc(size);
	b->item = mem_alloc((size_t)n * sizeof *item);
	for (int i = 0; i < n; i++) {
		size_t one = (size_t)item[i].w * (size_t)item[i].h * 3;
		b->item[i] = item[i];
		b->item[i].rgb = memcpy(b->pixels + at, item[i].rgb, one);
		at += one;
	}
	return b;
}

/* A thread-safe reward's batch is shared out to all threads, another's stays whole. */
static int pieces(const struct mixture *m, int reward, int n)
{
	int most = m->entry[reward].type->flags & REWARD_THREAD_SAFE ? m->threads : 1;

	return n < most ? n : most;
}

void mixture_submit(struct mixture *m, int first, const struct reward_item *item, int n)
{
	if (n < 1)
		return;
	struct batch *b = copy_items(item, n);

	pthread_mutex_lock(&m->lock);
	for (int k = 0; k < m->entries; k++) {
		int parts = pieces(m, k, n);
		for (int i = 0; i < parts; i++) {
			struct task *t = mem_alloc(sizeof *t);
			int from = n * i / parts, to = n * (i + 1) / parts;
			*t = (struct task) { NULL, b, k, from, to - from, first + from };
			*m->tail = t;
			m->tail = &t->next;
			b->tasks++;
			m->open_tasks++;
		}
	}
	pthread_cond_broadcast(&m->work);
	pthread_mutex_unlock(&m->lock);
}

double mixture_wait(struct mixture *m)
{
	struct mixture_scores *s = m->scores;
	double start = clock_now();

	pthread_mutex_lock(&m->lock);
	while (m->open_tasks)
		pthread_cond_wait(&m->idle, &m->lock);
	pthread_mutex_unlock(&m->lock);
	for (int i = 0; i < s->n; i++) {
		double total = 0;
		for (int k = 0; k < s->rewards; k++)
			total += m->entry[k].weight * s->value[k * s->n + i];
		s->total[i] = total;
		s->unavailable += isnan(total) != 0;
	}
	return clock_now() - start;
}

void mixture_scores_init(struct mixture_scores *s, int n, int rewards)
{
	size_t cells = (size_t)n * (size_t)rewards;

	*s = (struct mixture_scores) { .n = n, .rewards = rewards };
	s->total = mem_zero((size_t)n, sizeof *s->total);
	s->value = mem_zero(cells, sizeof *s->value);
	s->sub = mem_zero(cells * REWARD_SUBS, sizeof *s->sub);
}

void mixture_scores_free(struct mixture_scores *s)
{
	free(s->total);
	free(s->value);
	free(s->sub);
	*s = (struct mixture_scores) { 0 };
}

struct mixture *mixture_new(const struct mixture_entry *entry, int n, int threads)
{
	struct mixture *m = mem_zero(1, sizeof *m);

	m->entry = memcpy(mem_alloc((size_t)n * sizeof *entry), entry, (size_t)n * sizeof *entry);
	m->entries = n;
	for (int k = 0; k < n; k++)
		if (!m->entry[k].name)
			m->entry[k].name = mem_str(m->entry[k].type->name);
	m->busy = mem_zero((size_t)n, sizeof *m->busy);
	m->tail = &m->head;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->work, NULL);
	pthread_cond_init(&m->idle, NULL);
	m->threads = threads < 1 ? 1 : threads;
	m->thread = mem_alloc((size_t)m->threads * sizeof *m->thread);
	for (int i = 0; i < m->threads; i++)
		if (pthread_create(&m->thread[i], NULL, worker, m))
			die("cannot start a thread for the rewards (of %d)", m->threads);
	return m;
}

void mixture_close(struct mixture *m)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->closing = true;
	pthread_cond_broadcast(&m->work);
	pthread_mutex_unlock(&m->lock);
	for (int i = 0; i < m->threads; i++)
		pthread_join(m->thread[i], NULL);
	for (struct task *t; (t = m->head);) {
		m->head = t->next;
		drop(m, t);
	}
	for (int k = 0; k < m->entries; k++)
		mixture_entry_close(&m->entry[k]);
	pthread_cond_destroy(&m->idle);
	pthread_cond_destroy(&m->work);
	pthread_mutex_destroy(&m->lock);
	free(m->entry);
	free(m->busy);
	free(m->thread);
	free(m);
}

int mixture_count(const struct mixture *m)
{
	return m->entries;
}

const struct mixture_entry *mixture_at(const struct mixture *m, int k)
{
	return &m->entry[k];
}
