/*
 * mixture_queue.h -- inside of a mixture: what waits to be scored and what is being scored.
 *
 * mixture_queue.c keeps the queue, mixture.c the threads that work it off.  Everything here is called with
 * the mixture's lock held.
 */
#ifndef MIXTURE_QUEUE_H
#define MIXTURE_QUEUE_H
#include "rewards/mixture/mixture.h"
#include <pthread.h>

/* Images that were handed over together; the last task that is done with them frees them. */
struct batch {
	int *sample; /* the samples of the set that they are */
	uint8_t *pixels;
	char *text; /* prompts and metadata */
	struct reward_item *item;
	int tasks; /* uses: those of tasks, and of who hands it over */
};

/* One reward on a run of a batch's items: in the queue, and then in the list of those that run. */
struct task {
	struct task *next;
	struct batch *batch;
	struct mixture_scores *set; /* NULL: given up; nobody waits for it */
	struct reward_score *score;
	bool check; /* ask the reward about the prompts first */
	int reward, offset, n;
	double since; /* queued; once it runs, begun */
};

/* What an entry is doing. */
struct activity {
	int inside; /* calls that run, those given up counted */
	int stuck;  /* those given up */
	double stuck_since;
	int64_t given_up; /* ever */
	/* Since mixture_pace was asked: calls that are over, those given up counted. */
	int64_t calls;
	double seconds, longest;
};

struct mixture {
	struct mixture_entry *entry;
	struct activity *activity;
	int entries;
	int threads, alive, stuck; /* workers: shared ones, there are, of these in calls given up */
	pthread_mutex_t lock;
	pthread_cond_t work, idle; /* something to start; something is done */
	struct task *head, **tail, *running;
	bool closing, orphan;                  /* orphan: closed, and the last stuck worker frees it */
	const struct mixture_backend *backend; /* NULL: the threads here score */
	void *backend_ctx;
	int sets;
	double *weight; /* sets * entries, as mixture_weight */
};

#define SHARED -1 /* the workers of all entries that have none of their own */

/* The same type with the same keys, but for those of the mixture; in mixture_conf.c. */
bool mixture_entries_alike(const struct mixture_entry *a, const struct mixture_entry *b);

/* The weights of `prompts.sets` for these entries, free(); NULL with *sets 0 where there are no sets.  In
 * mixture_sets.c. */
int mixture_sets_read(double **weight, int *sets, const struct conf_node *root,
		      const struct mixture_entry *entry, int n, struct err *e);

/* A worker's thread; in mixture.c. */
void mixture_start_worker(struct mixture *m, int only);

/* Which workers score entry k: its own (k), or SHARED. */
int queue_worker(const struct mixture *m, int k);
/* A copy of items, with the texts: a call that was given up may read them when the prompts are gone. */
struct batch *batch_copy(const int *sample, const struct reward_item *item, int n);
void batch_release(struct batch *b); /* one use less */
/* Items from .. from + n - 1 of a batch for entry k. */
void queue_add(struct mixture *m, struct mixture_scores *s, struct batch *b, int k, int from, int n);
/* The first queued task of these workers whose reward may start now, taken out of the queue; NULL: none. */
struct task *queue_take(struct mixture *m, int only);
struct task *queue_unlink(struct mixture *m, struct task **at);
/* The task's scores, or the reason e of their lack, are its set's; the set has one task less to wait for. */
void queue_settle(struct mixture *m, struct task *t, const struct err *e);
void queue_free(struct task *t);
/* A call is over, or nobody waits for it any more. */
void queue_count(struct mixture *m, const struct task *t, double now);
/* Gives up what is over its deadline; returns when the next will be. */
double queue_expire(struct mixture *m);
/* Sleeps until something is done or the next deadline, as queue_expire told it. */
void queue_wait(struct mixture *m, double next);
/* Nobody waits for the rest of a set. */
void queue_drop(struct mixture *m, struct mixture_scores *s);

#endif
