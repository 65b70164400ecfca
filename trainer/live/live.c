#include "trainer/live/live.h"
#include "base/http/http_server.h"
#include "base/json.h"
#include "base/log.h"
#include "base/machine/child.h"
#include "base/mem.h"
#include "base/version.h"
#include "trainer/live/exposition.h"
#include "trainer/live/tracker.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct live {
	const struct experiment *x;
	/* Prometheus'. */
	struct exposition *exposition;
	struct http_server *server;
	pthread_t thread;
	int stop[2];
	/* The program's. */
	struct tracker *tracker; /* NULL until it is started */
};

/* ---- The server -------------------------------------------------------------------------------- */

static void answer(void *ctx, const struct http_request *r, struct http_answer *a)
{
	struct text t = { 0 };

	(void)r;
	exposition_text(ctx, &t);
	*a = (struct http_answer) { HTTP_OK, t.s };
}

static const struct http_route routes[] = {
	{ .method = "GET", .path = "/metrics", .type = EXPOSITION_TYPE, .answer = answer },
	{ .method = NULL },
};

static void *serve(void *arg)
{
	struct live *l = arg;

	http_server_run(l->server, l->stop[0]);
	return NULL;
}

/* Few connections, for a short time: the run needs nothing from who asks. */
static int open_server(struct live *l, struct err *e)
{
	const struct log_conf *c = &l->x->log;
	const struct http_server_options o = { .host = c->metrics_host,
					       .port = (int)c->metrics_port,
					       .anyone = true,
					       .route = routes,
					       .ctx = l->exposition,
					       .body = 1024,
					       .connections = 16,
					       .requests = 1,
					       .idle = 30,
					       .deadline = 10 };

	if (http_server_open(&l->server, &o, e))
		return err_in(e, "log.metrics_port");
	if (pipe2(l->stop, O_CLOEXEC))
		return err_set(e, "log.metrics_port: cannot make a pipe: %s", strerror(errno));
	int code = pthread_create(&l->thread, NULL, serve, l);
	if (code)
		die("cannot start a thread: %s", strerror(code));
	printf("metrics at %s/metrics\n", http_server_url(l->server)); /* scripts read this line */
	fflush(stdout);
	log_note("metrics at %s/metrics", http_server_url(l->server));
	return 0;
}

static int start_server(struct live *l, struct err *e)
{
	sigset_t all, old;

	l->exposition = exposition_new(l->x->run.name);
	sigfillset(&all); /* the run's signals are the other threads' */
	pthread_sigmask(SIG_BLOCK, &all, &old);
	int ret = open_server(l, e);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

static void close_server(struct live *l)
{
	if (l->stop[1]) {
		(void)!write(l->stop[1], "", 1);
		pthread_join(l->thread, NULL);
		close(l->stop[0]);
		close(l->stop[1]);
	}
	http_server_close(l->server);
	exposition_free(l->exposition);
}

/* ---- The program ------------------------------------------------------------------------------- */

/* Owns the object. */
static void tell(struct live *l, json_t *line)
{
	char *text = json_dumps(line, JSON_COMPACT);

	if (text)
		tracker_tell(l->tracker, text, strlen(text));
	free(text);
	json_decref(line);
}

/* A path that means the same wherever the program works. */
static json_t *absolute(const char *path)
{
	char *real = realpath(path, NULL);
	json_t *j = json_words(real ? real : path);

	free(real);
	return j;
}

static void put_value(void *ctx, const char *key, const char *value)
{
	json_object_set_new(ctx, key, json_words(value));
}

static json_t *settings_of(const struct experiment *x)
{
	struct conf_node *tree = conf_empty();
	json_t *j = json_object();

	experiment_store(x, tree);
	conf_each(tree, put_value, j);
	conf_node_free(tree);
	return j;
}

int live_begin(struct live *l, const char *dir, bool resumed, int64_t step, struct err *e)
{
	const struct log_conf *c = l ? &l->x->log : NULL;

	if (!l || !c->exec.n)
		return 0;
	if (tracker_start(&l->tracker, &c->exec, c->exec_timeout, e))
		return err_in(e, "log.exec");
	tell(l, json_pack("{s:s, s:o, s:o, s:s, s:b, s:I, s:o}", "type", "run", "name",
			  json_words(l->x->run.name), "dir", absolute(dir), "version", version(), "resumed",
			  resumed, "step", (json_int_t)step, "config", settings_of(l->x)));
	return 0;
}

void live_image(struct live *l, int64_t step, const char *image, const char *words)
{
	if (l && l->tracker)
		tell(l, json_pack("{s:s, s:I, s:o, s:o}", "type", "image", "step", (json_int_t)step, "path",
				  absolute(image), "words", absolute(words)));
}

void live_back(struct live *l, int64_t step)
{
	if (l && l->tracker)
		tell(l, json_pack("{s:s, s:I}", "type", "back", "step", (json_int_t)step));
}

/* ---- Both -------------------------------------------------------------------------------------- */

int live_open(struct live **out, const struct experiment *x, struct err *e)
{
	const struct log_conf *c = &x->log;
	struct live *l;

	*out = NULL;
	if (c->metrics_port < 0 && !c->exec.n)
		return 0;
	l = mem_zero(1, sizeof *l);
	l->x = x;
	int ret = c->exec.n && child_find(c->exec.v[0], e) ? err_in(e, "log.exec") : 0;
	if (!ret && c->metrics_port >= 0)
		ret = start_server(l, e);
	if (ret) {
		live_close(l, "failed", "");
		return -1;
	}
	*out = l;
	return 0;
}

void live_row(void *live, const char *json, size_t n)
{
	static const char head[] = "{\"type\":\"metrics\",\"row\":";
	struct live *l = live;
	struct text t = { 0 };

	if (l->exposition)
		exposition_row(l->exposition, json, n);
	if (!l->tracker)
		return;
	text_add(&t, head);
	text_add_bytes(&t, json, n);
	text_add(&t, "}");
	tracker_tell(l->tracker, t.s, t.n);
	text_free(&t);
}

void live_close(struct live *l, const char *how, const char *why)
{
	if (!l)
		return;
	if (l->tracker)
		tell(l, json_pack("{s:s, s:s, s:o}", "type", "end", "how", how, "why", json_words(why)));
	tracker_close(l->tracker, l->x->log.exec_wait);
	close_server(l);
	free(l);
}
