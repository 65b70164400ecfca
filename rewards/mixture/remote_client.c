/* remote_client.c -- the end of remote.h that has the images. */
#include "base/log.h"
#include "base/mem.h"
#include "rewards/mixture/remote.h"
#include "rewards/mixture/remote_message.h"
#include <stdlib.h>
#include <string.h>

/* A batch or group that is away. */
struct remote_batch {
	struct remote_batch *next;
	struct mixture_scores *set;
	int id, n;
	bool group;
	int *sample; /* n: which of the set's */
};
struct client {
	struct remote_link link;
	struct mixture *mixture;
	struct remote_batch *away;
	int next_id, turn;
	bool in_charge;
};

static void remote_batch_free(struct remote_batch *r)
{
	free(r->sample);
	free(r);
}

/* ---- scoring ---- */

static void submit(void *ctx, struct mixture_scores *s, const int *sample, const struct reward_item *item,
		   int n, bool group)
{
	struct client *c = ctx;
	struct remote_batch *r = mem_zero(1, sizeof *r);
	struct text t = remote_score_message(group, s->held_out, c->next_id, n);

	*r = (struct remote_batch) { .next = c->away, .set = s, .id = c->next_id++, .n = n, .group = group };
	r->sample = memcpy(mem_alloc((size_t)n * sizeof *sample), sample, (size_t)n * sizeof *sample);
	c->away = r;
	s->open_tasks++;
	remote_put_items(&t, item, n);
	c->link.send(c->link.ctx, c->turn, t.s, t.n);
	c->turn = (c->turn + 1) % c->link.servers;
	text_free(&t);
}

/* The answer's scores to where the set has them: those of the rewards that were asked. */
static void store(const struct client *c, const struct remote_batch *r, const struct mixture_scores *got)
{
	struct mixture_scores *s = r->set;

	for (int k = 0; k < s->rewards; k++)
		for (int i = 0; i < r->n && mixture_at(c->mixture, k)->group == r->group; i++) {
			int from = k * r->n + i, to = k * s->n + r->sample[i];

			s->value[to] = got->value[from];
			for (int j = 0; j < REWARD_SUBS; j++)
				s->sub[to * REWARD_SUBS + j] = got->sub[from * REWARD_SUBS + j];
		}
	if (got->why_at == INT64_MAX)
		return;
	int64_t at = (int64_t)r->sample[got->why_at / s->rewards] * s->rewards + got->why_at % s->rewards;
	if (at >= s->why_at)
		return;
	s->why_at = at;
	memcpy(s->why, got->why, sizeof s->why);
}

static void take_answer(struct client *c, const char *data, size_t size)
{
	struct remote_head h = remote_read_head(data, size);
	struct mixture_scores got;

	for (struct remote_batch **at = &c->away, *r; (r = *at); at = &r->next) {
		if (h.kind != REMOTE_SCORED || r->id != h.id)
			continue;
		mixture_scores_init(&got, r->n, r->set->rewards);
		remote_get_scores(data, size, &got);
		store(c, r, &got);
		mixture_scores_free(&got);
		r->set->open_tasks--;
		*at = r->next;
		remote_batch_free(r);
		return;
	}
}

static bool done(void *ctx, struct mixture_scores *s)
{
	struct client *c = ctx;
	size_t size;
	char *data;
	int from;

	while (c->link.receive(c->link.ctx, &from, &data, &size)) {
		take_answer(c, data, size);
		free(data);
	}
	return !s->open_tasks;
}

static void close_client(void *ctx)
{
	struct client *c = ctx;

	while (c->away) {
		struct remote_batch *r = c->away;
		c->away = r->next;
		remote_batch_free(r);
	}
	free(c);
}

/* ---- questions ---- */

/* The answer of this kind from this server: nothing else is under way. */
static struct remote_head ask(const struct remote_link *l, int server, struct text *question, char **data,
			      size_t *size)
{
	int from;

	l->send(l->ctx, server, question->s, question->n);
	text_free(question);
	while (!l->receive(l->ctx, &from, data, size))
		clock_sleep(200e-6);
	return remote_read_head(*data, *size);
}

static int check(void *ctx, const struct reward_item *item, int n, int *bad, struct err *e)
{
	struct client *c = ctx;
	struct text t = remote_message(REMOTE_CHECK, 0, n);
	size_t size;
	char *data;

	if (!c->in_charge) {
		text_free(&t);
		return 0;
	}
	remote_put_items(&t, item, n);
	struct remote_head h = ask(&c->link, 0, &t, &data, &size);
	if (h.bad)
		remote_read_error(data, size, e);
	*bad = h.n;
	free(data);
	return h.bad ? -1 : 0;
}

/* All servers at once: what takes the longest is done beside each other. */
static int load(void *ctx, struct err *e)
{
	struct client *c = ctx;
	const struct remote_link *l = &c->link;
	int ret = 0;

	for (int s = 0; s < l->servers && c->in_charge; s++) {
		struct text t = remote_message(REMOTE_LOAD, 0, 0);

		l->send(l->ctx, s, t.s, t.n);
		text_free(&t);
	}
	for (int s = 0, from; s < l->servers && c->in_charge; s++) {
		size_t size;
		char *data;

		while (!l->receive(l->ctx, &from, &data, &size))
			clock_sleep(200e-6);
		if (remote_read_head(data, size).bad && !ret) {
			remote_read_error(data, size, e);
			ret = err_in(e, "%s", l->name(l->ctx, from));
		}
		free(data);
	}
	return ret;
}

/* Every server opens the rewards; which of them get groups is the answer. */
static int open_rewards(struct client *c, int set, struct err *e)
{
	const struct remote_link *l = &c->link;

	for (int s = 0; s < l->servers; s++) {
		struct text t = remote_message(REMOTE_OPEN, set, 0);
		size_t size;
		char *data;
		struct remote_head h = ask(l, s, &t, &data, &size);

		if (h.bad)
			remote_read_error(data, size, e);
		for (int k = 0; k < h.n && !h.bad; k++)
			mixture_set_group(c->mixture, k, data[sizeof h + (size_t)k]);
		free(data);
		if (h.bad)
			return err_in(e, "%s", l->name(l->ctx, s));
	}
	return 0;
}

static const struct mixture_backend backend = {
	.submit = submit, .done = done, .check = check, .load = load, .close = close_client
};

int remote_open(struct mixture **m, const struct conf_node *root, const struct remote_link *link, int set,
		bool in_charge, int turn, struct err *e)
{
	struct client *c = mem_zero(1, sizeof *c);

	*c = (struct client) { .link = *link, .in_charge = in_charge, .turn = turn % link->servers };
	if (mixture_open_over(&c->mixture, root, &backend, c, e)) {
		free(c);
		return -1;
	}
	if (in_charge && open_rewards(c, set, e)) {
		mixture_close(c->mixture);
		return -1;
	}
	*m = c->mixture;
	return 0;
}

void remote_dismiss(const struct remote_link *link)
{
	for (int s = 0; s < link->servers; s++) {
		struct text t = remote_message(REMOTE_END, 0, 0);

		link->send(link->ctx, s, t.s, t.n);
		text_free(&t);
	}
}
