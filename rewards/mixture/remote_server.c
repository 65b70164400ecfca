/* remote_server.c -- the end of remote.h that has the rewards: a mixture, and sets of scores for many. */
#include "base/mem.h"
#include "rewards/mixture/remote.h"
#include "rewards/mixture/remote_message.h"
#include <stdlib.h>

/* A batch or group that is being scored, for whom. */
struct job {
	struct job *next;
	struct mixture_scores scores;
	int to, id;
};
struct remote_server {
	struct remote_link link;
	struct remote_sets sets;
	struct mixture *mixture;
	struct job *jobs;
};

static void reply(struct remote_server *s, int to, struct text *t)
{
	s->link.send(s->link.ctx, to, t->s, t->n);
	text_free(t);
}

/* Scores that are there go back; returns how many batches that was. */
static int answer(struct remote_server *s)
{
	int n = 0;

	for (struct job **at = &s->jobs, *j; (j = *at);) {
		if (!mixture_done(s->mixture, &j->scores)) {
			at = &j->next;
			continue;
		}
		struct text t = remote_message(REMOTE_SCORED, j->id, j->scores.n);
		remote_put_scores(&t, &j->scores);
		reply(s, j->to, &t);
		*at = j->next;
		mixture_scores_free(&j->scores);
		free(j);
		n++;
	}
	return n;
}

/* Waits for what nobody asks for any more. */
static void finish_jobs(struct remote_server *s)
{
	for (struct job *j = s->jobs; j; j = j->next)
		mixture_wait(s->mixture, &j->scores);
	while (s->jobs) {
		struct job *j = s->jobs;
		s->jobs = j->next;
		mixture_scores_free(&j->scores);
		free(j);
	}
}

/* What the set before had loaded and this one has, too, stays. */
static void open_rewards(struct remote_server *s, int from, int set)
{
	struct mixture *before = s->mixture;
	struct err e = { "" };
	struct text t;

	finish_jobs(s);
	s->mixture = NULL;
	int ret = s->sets.open(s->sets.ctx, &s->mixture, set, &e);
	if (!ret)
		mixture_take_over(s->mixture, before);
	mixture_close(before);
	if (ret) {
		s->mixture = NULL;
		t = remote_failure(REMOTE_OPENED, set, 0, &e);
	} else {
		t = remote_message(REMOTE_OPENED, set, mixture_count(s->mixture));
		for (int k = 0; k < mixture_count(s->mixture); k++)
			text_add_bytes(&t, mixture_at(s->mixture, k)->group ? "\1" : "\0", 1);
	}
	reply(s, from, &t);
}

static void load_rewards(struct remote_server *s, int from)
{
	struct err e = { "" };
	struct text t = mixture_load(s->mixture, &e) ? remote_failure(REMOTE_LOADED, 0, 0, &e)
						     : remote_message(REMOTE_LOADED, 0, 0);

	reply(s, from, &t);
}

static void check_prompts(struct remote_server *s, int from, const char *data, size_t size, int n)
{
	struct reward_item *item = remote_get_items(data, size, n);
	struct err e = { "" };
	int bad = 0;
	struct text t = mixture_check_all(s->mixture, item, n, &bad, &e)
			    ? remote_failure(REMOTE_CHECKED, 0, bad, &e)
			    : remote_message(REMOTE_CHECKED, 0, 0);

	free(item);
	reply(s, from, &t);
}

static void score(struct remote_server *s, int from, const struct remote_head *h, const char *data,
		  size_t size)
{
	struct reward_item *item = remote_get_items(data, size, h->n);
	struct job *j = mem_zero(1, sizeof *j);
	int *sample = mem_zero((size_t)h->n, sizeof *sample);

	for (int i = 0; i < h->n; i++)
		sample[i] = i;
	*j = (struct job) { .next = s->jobs, .to = from, .id = h->id };
	mixture_scores_init(&j->scores, h->n, mixture_count(s->mixture));
	j->scores.held_out = h->held_out;
	mixture_begin(s->mixture, &j->scores);
	if (h->kind == REMOTE_SCORE_GROUP)
		mixture_submit_group(s->mixture, &j->scores, sample, item, h->n);
	else
		mixture_submit(s->mixture, &j->scores, 0, item, h->n);
	s->jobs = j;
	free(sample);
	free(item);
}

struct remote_server *remote_server_new(const struct remote_link *link, const struct remote_sets *sets)
{
	struct remote_server *s = mem_zero(1, sizeof *s);

	s->link = *link;
	s->sets = *sets;
	return s;
}

bool remote_server_step(struct remote_server *s, bool *idle)
{
	bool stay = true;
	size_t size;
	char *data;
	int from;

	*idle = !answer(s);
	if (!s->link.receive(s->link.ctx, &from, &data, &size))
		return true;
	*idle = false;
	struct remote_head h = remote_read_head(data, size);
	switch (h.kind) {
	case REMOTE_OPEN:
		open_rewards(s, from, h.id);
		break;
	case REMOTE_CHECK:
		check_prompts(s, from, data, size, h.n);
		break;
	case REMOTE_LOAD:
		load_rewards(s, from);
		break;
	case REMOTE_SCORE:
	case REMOTE_SCORE_GROUP:
		score(s, from, &h, data, size);
		break;
	default:
		stay = false;
		break;
	}
	free(data);
	return stay;
}

bool remote_server_scores(const struct remote_server *s)
{
	return s->jobs;
}

void remote_server_free(struct remote_server *s)
{
	finish_jobs(s);
	mixture_close(s->mixture);
	free(s);
}
