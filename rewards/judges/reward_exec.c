/*
 * reward_exec.c -- a judge in any language: a child process that reads batches from its standard input and
 * writes scores to its standard output, kept alive between batches.
 *
 * A frame is its length (4 bytes, little-endian) and so many bytes.  To the child: one frame of JSON
 * (reply.h; each item also has "width" and "height"), then for each item one frame of its pixels, 8-bit RGB,
 * rows from the top.  From the child: one frame of JSON, {"scores": [...]}.  What it writes to standard error
 * is seen as it is.  A child that dies, hangs or writes nonsense is killed and started again, after a pause
 * that doubles; one that says it cannot score, a batch or an image, goes on.
 */
#include "base/log.h"
#include "base/machine/child.h"
#include "base/mem.h"
#include "rewards/judges/reply.h"
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_REPLY (1 << 26)
#define PAUSE      0.25 /* s before a batch's second try */
#define MOST_PAUSE 10.0

struct exec_conf {
	struct conf_list command;
	int64_t batch, retries;
	double timeout;
	struct conf_list sub_scores;
	bool group;
};

static const struct field fields[] = {
	FIELD(struct exec_conf, command, .init = NULL, .min = 1, .max = 1000,
	      .doc = "the program and its arguments; a name without a slash is searched in $PATH"),
	FIELD(struct exec_conf, batch, .init = "16", .min = 1, .max = 4096, .unit = "images",
	      .doc = "images per request"),
	FIELD(struct exec_conf, timeout, .init = "60", .min = 1e-3, .max = 1e6, .unit = "s",
	      .doc = "time limit of a batch, after which the child is killed; the first batch may take ten "
		     "times as long"),
	FIELD(struct exec_conf, retries, .init = "2", .min = 0, .max = 1000,
	      .doc =
		  "how often the child is started again for a batch before its images are unavailable, with "
		  "a pause that doubles each time"),
	FIELD(struct exec_conf, sub_scores, .init = "", .max = REWARD_SUBS, .doc = REPLY_SUBS_DOC),
	FIELD(struct exec_conf, group, .init = "false", .doc = REPLY_GROUP_DOC "; `batch` is then ignored"),
	FIELD_END
};

struct child {
	const struct exec_conf *conf;
	char what[96]; /* the command, cut: how messages call it, as several may run */
	pid_t pid;     /* 0: none */
	int in, out;   /* to it, from it */
	bool warm;     /* it has answered */
	_Atomic int64_t failures;
	struct child *next; /* of all */
};

/* ---- The process --------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list and of pids */
static struct child *children;

/* The program ends while a call that was given up is still inside: nobody else would end its child.  The lock
 * stays taken, so that none is started any more. */
static void kill_all(void)
{
	pthread_mutex_lock(&lock);
	for (struct child *c = children; c; c = c->next)
		if (c->pid)
			kill(-c->pid, SIGKILL);
}

static void enlist(struct child *c)
{
	static bool begun;

	pthread_mutex_lock(&lock);
	if (!begun)
		at_quick_exit(kill_all);
	begun = true;
	c->next = children;
	children = c;
	pthread_mutex_unlock(&lock);
}

static void delist(struct child *c)
{
	struct child **at = &children;

	pthread_mutex_lock(&lock);
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	pthread_mutex_unlock(&lock);
}

static void stop(struct child *c)
{
	if (!c->pid)
		return;
	close(c->in);
	close(c->out);
	pthread_mutex_lock(&lock);
	kill(-c->pid, SIGKILL); /* with whatever it has started */
	waitpid(c->pid, NULL, 0);
	c->pid = 0;
	pthread_mutex_unlock(&lock);
}

static int start(struct child *c, struct err *e)
{
	pthread_mutex_lock(&lock);
	int ret = child_start(&c->pid, &c->in, &c->out, c->conf->command.v, c->conf->command.n, e);
	pthread_mutex_unlock(&lock);
	c->warm = false;
	return ret;
}

/* Waits until fd is ready for `events`; -1 when the time is up. */
static int wait_for(int fd, short events, double end, struct err *e)
{
	for (;;) {
		double left = end - clock_now();
		struct pollfd p = { .fd = fd, .events = events };

		if (left <= 0)
			return err_set(e, "the reward's process did not answer in time");
		int n = poll(&p, 1, (int)fmin(left * 1000 + 1, 1e6));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return err_set(e, "poll: %s", strerror(errno));
	}
}

static int send_all(struct child *c, const void *data, size_t n, double end, struct err *e)
{
	const char *p = data;

	while (n) {
		ssize_t k = child_write(c->in, p, n);

		if (k > 0) {
			p += k;
			n -= (size_t)k;
		} else if (k < 0 && errno == EAGAIN) {
			if (wait_for(c->in, POLLOUT, end, e))
				return -1;
		} else if (errno != EINTR) {
			return err_set(e, "the reward's process has ended: %s", strerror(errno));
		}
	}
	return 0;
}

static int receive(struct child *c, void *data, size_t n, double end, struct err *e)
{
	char *p = data;

	while (n) {
		ssize_t k = read(c->out, p, n);

		if (k > 0) {
			p += k;
			n -= (size_t)k;
		} else if (!k) {
			return err_set(e, "the reward's process ended without an answer");
		} else if (errno == EAGAIN) {
			if (wait_for(c->out, POLLIN, end, e))
				return -1;
		} else if (errno != EINTR) {
			return err_set(e, "cannot read from the reward's process: %s", strerror(errno));
		}
	}
	return 0;
}

static int send_frame(struct child *c, const void *data, size_t n, double end, struct err *e)
{
	uint8_t head[4] = { (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24) };

	return send_all(c, head, 4, end, e) || send_all(c, data, n, end, e) ? -1 : 0;
}

static int receive_frame(struct child *c, char **data, size_t *n, double end, struct err *e)
{
	uint8_t head[4];

	if (receive(c, head, 4, end, e))
		return -1;
	*n = (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
	if (*n > MOST_REPLY)
		return err_set(e,
			       "the answer of the reward's process would be %zu bytes long: it must send 4 "
			       "bytes of length, then JSON",
			       *n);
	*data = mem_alloc(*n + 1);
	(*data)[*n] = '\0';
	if (!receive(c, *data, *n, end, e))
		return 0;
	free(*data);
	return -1;
}

/* ---- The reward ---------------------------------------------------------------------------------- */

static int open_exec(void **state, const void *conf, struct err *e)
{
	struct child *c = mem_zero(1, sizeof *c);

	c->conf = conf;
	for (int i = 0, n = 0; i < c->conf->command.n && n < (int)sizeof c->what; i++)
		n += snprintf(c->what + n, sizeof c->what - (size_t)n, "%s%s", i ? " " : "",
			      c->conf->command.v[i]);
	if (child_find(c->conf->command.v[0], e)) {
		free(c);
		return -1;
	}
	enlist(c);
	*state = c;
	return 0;
}

static int load_exec(void *state, struct err *e)
{
	return start(state, e);
}

static void close_exec(void *state)
{
	if (!state)
		return;
	stop(state);
	delist(state);
	free(state);
}

static char *make_header(const struct child *c, const struct reward_item *item, int n)
{
	json_t *o = reply_request(item, n, c->conf->group), *list = json_object_get(o, "items");

	for (int i = 0; i < n; i++) {
		json_t *x = json_array_get(list, (size_t)i);

		json_object_set_new(x, "width", json_integer(item[i].w));
		json_object_set_new(x, "height", json_integer(item[i].h));
	}
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

/* One batch through the child that runs.  What breaks the protocol is an error; what the child says it cannot
 * score is unavailable. */
static int try_batch(struct child *c, const char *header, const struct reward_item *item, int n,
		     struct reward_score *out, struct err *e)
{
	double end = clock_now() + c->conf->timeout * (c->warm ? 1 : 10);
	char *reply = NULL;
	size_t size;

	if (send_frame(c, header, strlen(header), end, e))
		return -1;
	for (int i = 0; i < n; i++)
		if (send_frame(c, item[i].rgb, 3 * (size_t)item[i].w * (size_t)item[i].h, end, e))
			return -1;
	if (receive_frame(c, &reply, &size, end, e))
		return -1;
	int ret = reply_scores(out, n, &c->conf->sub_scores, reply, size, e);
	free(reply);
	c->warm = c->warm || !ret;
	return ret;
}

static void score_batch(struct child *c, const struct reward_item *item, int n, struct reward_score *out)
{
	char *header = make_header(c, item, n);
	struct err e = { "" };

	for (int64_t tries = 0; tries <= c->conf->retries; tries++) {
		if (tries)
			clock_sleep(fmin(PAUSE * pow(2, (double)(tries - 1)), MOST_PAUSE));
		if ((c->pid || !start(c, &e)) && !try_batch(c, header, item, n, out, &e)) {
			free(header);
			return;
		}
		/* the first, and then ever more rarely: a judge that never works must not fill the log */
		int64_t failures = ++c->failures;
		if ((failures & (failures - 1)) == 0)
			log_warn("reward exec ('%s'): %s; starting it again (%lld failures so far)", c->what,
				 e.msg, (long long)failures);
		stop(c);
	}
	free(header);
	reward_fail(out, n, e.msg);
}

static int score(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	struct child *c = state;
	int each = c->conf->group ? n : (int)c->conf->batch;

	(void)e;
	for (int at = 0; at < n; at += each)
		score_batch(c, item + at, n - at < each ? n - at : each, out + at);
	return 0;
}

static int64_t restarts(const void *state)
{
	return ((const struct child *)state)->failures;
}

const struct reward_type reward_exec = {
	.abi = REWARD_ABI,
	.name = "exec",
	.doc = "A reward of your own as a child process",
	.flags = REWARD_WAITS,
	.fields = fields,
	.conf_size = sizeof(struct exec_conf),
	.open = open_exec,
	.load = load_exec,
	.check = reply_check,
	.score = score,
	.close = close_exec,
	.restarts = restarts,
};
