/* cmd_serve.c -- contraflow serve-reward: rewards of a configuration behind HTTP, for the reward `http`. */
#include "base/http/http.h"
#include "base/http/http_server.h"
#include "base/log.h"
#include "base/mem.h"
#include "rewards/judges/scoring.h"
#include "commands/reward_options.h"
#include "dist/startup.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct serve_options {
	struct reward_options rewards;
	const char *host, *token_env;
	int64_t port, body, items, side, pixels, connections, per_address, requests;
	double idle, deadline;
	bool quiet;
};
struct service {
	struct mixture *mixture;
	struct request_limits limits;
};

/* ---- What is answered ---- */

static void answer_score(void *ctx, const struct http_request *r, struct http_answer *a)
{
	struct service *s = ctx;
	struct request q;
	struct err e;

	if (request_parse(&q, r->body, r->size, &s->limits, &e)) {
		*a = (struct http_answer) { HTTP_BAD_REQUEST, http_server_error(e.msg) };
		return;
	}
	*a = (struct http_answer) { HTTP_OK, scoring_answer(s->mixture, &q, r->end) };
	request_release(&q);
}

static void answer_health(void *ctx, const struct http_request *r, struct http_answer *a)
{
	(void)ctx, (void)r;
	*a = (struct http_answer) { HTTP_OK, mem_str("{\"status\":\"ok\"}") };
}

static const struct http_route routes[] = {
	{ .method = "POST", .path = "/score", .answer = answer_score },
	{ .method = "GET", .path = "/health", .open = true, .answer = answer_health },
	{ .method = NULL },
};

/* ---- The server's life ---- */

static int stop_pipe[2];

static void on_signal(int number)
{
	int code = errno;

	(void)number;
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	(void)!write(stop_pipe[1], "", 1);
	errno = code;
}

/* A second signal, of either kind, ends the program at once. */
static int catch_signals(struct err *e)
{
	struct sigaction a = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	if (pipe2(stop_pipe, O_CLOEXEC))
		return err_set(e, "serve-reward: cannot make a pipe");
	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
	return 0;
}

static int serve(struct mixture *m, const struct serve_options *o, struct err *e)
{
	struct service service = { .mixture = m,
				   .limits = { (int)o->items, (int)o->side, o->pixels * 1000000 } };
	struct http_server_options h = { .host = o->host,
					 .port = (int)o->port,
					 .token = o->token_env ? getenv(o->token_env) : NULL,
					 .route = routes,
					 .ctx = &service,
					 .body = (size_t)o->body << 20,
					 .connections = (int)o->connections,
					 .per_address = (int)o->per_address,
					 .requests = (int)o->requests,
					 .idle = o->idle,
					 .deadline = o->deadline };
	struct http_server *s;

	if (catch_signals(e) || http_server_open(&s, &h, e))
		return -1;
	for (int k = 0; k < mixture_count(m); k++)
		log_info("serving %s, weight %g", mixture_at(m, k)->name, mixture_at(m, k)->weight);
	printf("listening on %s/score\n", http_server_url(s)); /* scripts read this line */
	fflush(stdout);
	http_server_run(s, stop_pipe[0]);
	log_info("shutting down: finishing the open requests, accepting no new ones");
	http_server_close(s);
	return 0;
}

static int check(const struct serve_options *o, int n, struct err *e)
{
	const struct {
		const char *name;
		int64_t value, least, most;
	} range[] = {
		{ "port", o->port, 0, 65535 },
		{ "max-body", o->body, 1, 4096 },
		{ "max-items", o->items, 1, 65536 },
		{ "max-side", o->side, 1, 65535 },
		{ "max-pixels", o->pixels, 1, 4096 },
		{ "connections", o->connections, 1, 10000 },
		{ "per-address", o->per_address, 1, 10000 },
		{ "requests", o->requests, 1, 10000 },
	};
	const char *token = o->token_env ? getenv(o->token_env) : NULL;

	if (!n && !o->rewards.reward)
		return err_set(
		    e, "serve-reward: name a configuration or a reward; usage: contraflow serve-reward %s",
		    cmd_serve.usage);
	for (size_t i = 0; i < sizeof range / sizeof *range; i++)
		if (range[i].value < range[i].least || range[i].value > range[i].most)
			return err_set(e, "serve-reward: --%s %lld: must be in [%lld, %lld]", range[i].name,
				       (long long)range[i].value, (long long)range[i].least,
				       (long long)range[i].most);
	if (!(o->idle >= 1 && o->idle <= 1e6) || !(o->deadline > 0 && o->deadline <= 1e6))
		return err_set(e, "serve-reward: --idle and --deadline are seconds, at most a million");
	if (o->token_env && (!token || !*token))
		return err_set(
		    e, "serve-reward: the environment variable %s, which should hold the token, is not set",
		    o->token_env);
	if (token && !http_is_token(token))
		return err_set(
		    e,
		    "serve-reward: the token in the environment variable %s has white space or control "
		    "characters in it, perhaps a line's end: no client could send it",
		    o->token_env);
	return 0;
}

static int run(int argc, char **argv, struct err *e)
{
	struct serve_options o = { .host = "127.0.0.1",
				   .port = 8765,
				   .body = 64,
				   .items = 256,
				   .side = 8192,
				   .pixels = 64,
				   .connections = 256,
				   .per_address = 128,
				   .requests = 32,
				   .idle = 60,
				   .deadline = 300 };
	const struct option_spec spec[] = {
		REWARD_OPTIONS(o.rewards),
		{ "host", 's', &o.host, "ADDRESS",
		  "address to listen on (default 127.0.0.1: this machine only)" },
		{ "port", 'i', &o.port, "N", "port; 0: any free one (default 8765)" },
		{ "token-env", 's', &o.token_env, "NAME",
		  "environment variable with the token that clients must send" },
		{ "max-body", 'i', &o.body, "MIB", "largest request (default 64)" },
		{ "max-items", 'i', &o.items, "N", "most images in a request (default 256)" },
		{ "max-side", 'i', &o.side, "PIXELS", "longest side of an image (default 8192)" },
		{ "max-pixels", 'i', &o.pixels, "MPIXEL",
		  "most pixels in all images of a request (default 64)" },
		{ "connections", 'i', &o.connections, "N", "most connections at a time (default 256)" },
		{ "per-address", 'i', &o.per_address, "N",
		  "most connections at a time from one address; more are answered with 503 (default 128)" },
		{ "requests", 'i', &o.requests, "N",
		  "most requests at a time; more are answered with 503 (default 32)" },
		{ "idle", 'r', &o.idle, "S",
		  "close a connection that is silent for this many seconds (default 60)" },
		{ "deadline", 'r', &o.deadline, "S",
		  "seconds to receive and score a request, after which its images are errors (default 300)" },
		{ "quiet", 'f', &o.quiet, NULL, "print only warnings and the line with the address" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct mixture *m = NULL;
	struct dist d;
	int n, ret = options_parse(&cmd_serve, spec, argc, argv, &o.rewards.config, 1, &n, e);

	if (ret)
		return ret;
	log_quiet(o.quiet);
	ret = check(&o, n, e);
	if (!ret)
		ret = startup_open(&d, STARTUP_ALONE, e);
	if (!ret)
		ret = reward_options_open(&m, &o.rewards, &d, "serve-reward", e);
	if (!ret)
		ret = serve(m, &o, e);
	mixture_close(m);
	return ret;
}

const struct command cmd_serve = {
	"serve-reward", "[CONFIG] [--reward NAME] [--set KEY=VALUE ...] [--port N]",
	"serve rewards over HTTP, to the reward `http` of other runs and to other programs", run
};
