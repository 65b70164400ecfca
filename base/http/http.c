#include "base/http/http.h"
#include "base/alive.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include <curl/curl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MOST_PAUSE 10.0 /* s; for a server that was not there the pauses would double beyond its start */
#define MOST_HOPS  5

struct http_client {
	char *url, *shown; /* for messages */
	bool secret, said; /* with a token or password; that it redirects, or is waited for */
	struct http_options o;
	CURLM *multi;
	struct curl_slist *headers;
};

/* One post on its way. */
struct job {
	struct http_client *client;
	struct http_post *post;
	CURL *easy;  /* NULL: waiting for its turn, or done */
	double next; /* when it may be tried (clock_now) */
	size_t cap;
	bool done, too_large;
	int hops;
	char *moved; /* where a redirection has sent it; NULL: the client's url */
};

/* A part of an address, curl_free; NULL when there is none. */
static char *part_of(const char *url, CURLUPart part)
{
	CURLU *u = curl_url();
	char *out = NULL;

	if (!curl_url_set(u, CURLUPART_URL, url, 0) && curl_url_get(u, part, &out, CURLU_DEFAULT_PORT))
		out = NULL;
	curl_url_cleanup(u);
	return out;
}

/* localhost, 127.0.0.0/8, ::1: a proxy's is another machine. */
static bool is_here(const char *url)
{
	char *host = part_of(url, CURLUPART_HOST);
	size_t n = host ? strlen(host) : 0;
	unsigned b[4];
	char rest;
	bool here =
	    host &&
	    (!strcasecmp(host, "localhost") || !strcmp(host, "[::1]") ||
	     (n > 10 && !strcasecmp(host + n - 10, ".localhost")) ||
	     (sscanf(host, "%3u.%3u.%3u.%3u%c", &b[0], &b[1], &b[2], &b[3], &rest) == 4 && b[0] == 127));

	curl_free(host);
	return here;
}

static bool same_server(const char *a, const char *b)
{
	static const CURLUPart parts[] = { CURLUPART_SCHEME, CURLUPART_HOST, CURLUPART_PORT };
	bool same = true;

	for (int i = 0; i < 3; i++) {
		char *x = part_of(a, parts[i]), *y = part_of(b, parts[i]);
		same = same && x && y && !strcasecmp(x, y);
		curl_free(x);
		curl_free(y);
	}
	return same;
}

/* The address without name and password, and what is asked. */
static char *shown(const char *url)
{
	static const CURLUPart secret[] = { CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_QUERY,
					    CURLUPART_FRAGMENT };
	CURLU *u = curl_url();
	char *text = NULL, *out;

	if (!curl_url_set(u, CURLUPART_URL, url, 0)) {
		for (int i = 0; i < 4; i++)
			curl_url_set(u, secret[i], NULL, 0);
		curl_url_get(u, CURLUPART_URL, &text, 0);
	}
	out = mem_str(text ? text : "the url");
	curl_free(text);
	curl_url_cleanup(u);
	return out;
}

bool http_is_token(const char *token)
{
	const char *s = token;

	while (*s > ' ' && *s < 0x7f)
		s++;
	return !*s && s > token;
}

int http_client_open(struct http_client **out, const char *url, const char *token_env,
		     const struct http_options *o, struct err *e)
{
	static bool begun;
	const char *token = *token_env ? getenv(token_env) : NULL;
	struct http_client *c;

	if (!text_starts(url, "http://") && !text_starts(url, "https://"))
		return err_set(e, "url '%s' must begin with http:// or https://", url);
	if (*token_env && !token)
		return err_set(e, "the environment variable %s, which should hold the token, is not set",
			       token_env);
	if (token && !http_is_token(token))
		return err_set(
		    e,
		    "the token in the environment variable %s is empty or has white space or control "
		    "characters in it, perhaps a line's end",
		    token_env);
	c = mem_zero(1, sizeof *c);
	if (!begun)
		curl_global_init(CURL_GLOBAL_DEFAULT);
	begun = true;
	c->url = mem_str(url);
	c->shown = shown(url);
	c->secret = token || strchr(url, '@');
	c->o = *o;
	c->multi = curl_multi_init();
	c->headers = curl_slist_append(NULL, "Content-Type: application/json");
	/* without it libcurl waits a second for "100 Continue" before it sends a large body */
	c->headers = curl_slist_append(c->headers, "Expect:");
	if (token) {
		char *line = mem_printf("Authorization: Bearer %s", token);
		c->headers = curl_slist_append(c->headers, line);
		free(line);
	}
	*out = c;
	return 0;
}

void http_client_close(struct http_client *c)
{
	if (!c)
		return;
	curl_multi_cleanup(c->multi);
	curl_slist_free_all(c->headers);
	free(c->url);
	free(c->shown);
	free(c);
}

void http_post_free(struct http_post *post)
{
	free(post->reply);
	post->reply = NULL;
}

static size_t receive(char *data, size_t size, size_t n, void *ctx)
{
	struct job *j = ctx;
	struct http_post *p = j->post;
	size_t k = size * n;

	if (p->reply_size + k > j->client->o.limit) {
		j->too_large = true;
		return 0;
	}
	if (p->reply_size + k + 1 > j->cap) {
		j->cap = 2 * (p->reply_size + k + 1);
		p->reply = mem_grow(p->reply, j->cap, 1);
	}
	memcpy(p->reply + p->reply_size, data, k);
	p->reply_size += k;
	p->reply[p->reply_size] = '\0';
	return k;
}

static void start(struct job *j, double left)
{
	const struct http_client *c = j->client;
	double limit = fmin(c->o.timeout, left);
	const char *url = j->moved ? j->moved : c->url;

	if (!j->hops)
		j->post->tries++;
	j->post->reply_size = 0;
	j->too_large = false;
	j->easy = curl_easy_init();
	curl_easy_setopt(j->easy, CURLOPT_URL, url);
	if (is_here(url))
		curl_easy_setopt(j->easy, CURLOPT_PROXY, "");
	curl_easy_setopt(j->easy, CURLOPT_HTTPHEADER, c->headers);
	curl_easy_setopt(j->easy, CURLOPT_POSTFIELDS, j->post->body);
	curl_easy_setopt(j->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)j->post->size);
	curl_easy_setopt(j->easy, CURLOPT_WRITEFUNCTION, receive);
	curl_easy_setopt(j->easy, CURLOPT_WRITEDATA, j);
	curl_easy_setopt(j->easy, CURLOPT_PRIVATE, j);
	curl_easy_setopt(j->easy, CURLOPT_NOSIGNAL, 1L); /* time-outs without signals: there are threads */
	curl_easy_setopt(j->easy, CURLOPT_TIMEOUT_MS, (long)fmax(1, limit * 1000));
	curl_easy_setopt(j->easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_multi_add_handle(c->multi, j->easy);
}

/* Half to one and a half times a pause that doubles: ranks that failed together do not come back together. */
static double pause_before(const struct job *j)
{
	double now = clock_now(), jitter;
	uint64_t h = file_hash(&now, sizeof now, (uint64_t)(uintptr_t)j);

	jitter = 0.5 + (double)(h >> 11) / 9007199254740992.0;
	return j->client->o.pause * pow(2, j->post->tries - 1) * jitter;
}

static void say(struct job *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The last failure, in one line. */
static void say(struct job *j, const char *fmt, ...)
{
	struct http_post *p = j->post;
	va_list ap;
	int n;

	n = snprintf(p->why, sizeof p->why, "%.70s: ", j->client->shown);
	va_start(ap, fmt);
	vsnprintf(p->why + n, sizeof p->why - (size_t)n, fmt, ap);
	va_end(ap);
	for (char *s = p->why; *s; s++)
		if ((unsigned char)*s < ' ')
			*s = ' ';
}

/* 307 and 308: the same post to where they say.  False: it is not followed, and why says so. */
static bool follow(struct job *j, long status, const char *to)
{
	struct http_client *c = j->client;

	if (status != 307 && status != 308) {
		say(j, "status %ld: moved to %.60s: set `url` to that", status, to);
		return false;
	}
	if (j->hops++ >= MOST_HOPS) {
		say(j, "redirected more than %d times", MOST_HOPS);
		return false;
	}
	if (c->secret && !same_server(c->url, to)) {
		say(j, "status %ld: moved to %.40s, which must not get the token: set `url` to that", status,
		    to);
		return false;
	}
	if (!c->said)
		log_warn("%s: redirects every request to %s: set `url` to that", c->shown, to);
	c->said = true;
	free(j->moved);
	j->moved = mem_str(to);
	j->next = 0;
	return true;
}

/* What there is to say when there is no reply. */
static void say_failure(struct job *j, CURLcode code, long status)
{
	const struct http_post *p = j->post;

	if (j->too_large)
		say(j, "the reply is larger than %zu bytes", j->client->o.limit);
	else if (code == CURLE_OK)
		say(j, "status %ld: %.80s", status, p->reply ? p->reply : "");
	else
		say(j, "%s", curl_easy_strerror(code));
}

static void finish(struct job *j, CURLcode code, double end)
{
	struct http_client *c = j->client;
	struct http_post *p = j->post;
	bool absent = code == CURLE_COULDNT_CONNECT;
	curl_off_t after = 0;
	char *to = NULL;
	long status = 0;

	curl_easy_getinfo(j->easy, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(j->easy, CURLINFO_RETRY_AFTER, &after);
	curl_easy_getinfo(j->easy, CURLINFO_REDIRECT_URL, &to);
	if (code == CURLE_OK && status >= 300 && status < 400 && to) {
		j->done = !follow(j, status, to);
		curl_multi_remove_handle(c->multi, j->easy);
		curl_easy_cleanup(j->easy);
		j->easy = NULL;
		return;
	}
	curl_multi_remove_handle(c->multi, j->easy);
	curl_easy_cleanup(j->easy);
	j->easy = NULL;
	j->hops = 0;
	free(j->moved);
	j->moved = NULL;
	p->ok = code == CURLE_OK && status >= 200 && status < 300;
	j->done =
	    p->ok || j->too_large || (code == CURLE_OK && status != 408 && status != 429 && status < 500);
	if (p->ok) {
		if (!p->reply)
			p->reply = mem_str("");
		return;
	}
	say_failure(j, code, status);
	if (absent && !j->done && !c->said) {
		log_warn("%s; trying again for %g s (`deadline`)", p->why, c->o.deadline);
		c->said = true;
	}
	j->next = clock_now() + fmax(fmin(pause_before(j), MOST_PAUSE), (double)after);
	if ((p->tries > c->o.retries && !absent) || j->next >= end)
		j->done = true;
}

/* Fills the free places with posts whose turn has come; how many are on their way or still to come. */
static int fill(struct job *job, int n, struct http_client *c, double end)
{
	int busy = 0, left = 0;
	double now = clock_now();

	for (int i = 0; i < n; i++)
		busy += job[i].easy != NULL;
	for (int i = 0; i < n; i++) {
		if (job[i].done)
			continue;
		left++;
		if (now >= end && !job[i].easy) {
			job[i].done = true;
			if (!*job[i].post->why)
				say(&job[i], "the deadline has passed");
		} else if (!job[i].easy && busy < c->o.in_flight && job[i].next <= now) {
			start(&job[i], end - now);
			busy++;
		}
	}
	return left;
}

void http_post_all(struct http_client *c, struct http_post *post, int n)
{
	struct job *job = mem_zero((size_t)n, sizeof *job);
	double end = clock_now() + c->o.deadline;
	int running, queued;

	for (int i = 0; i < n; i++)
		job[i] = (struct job) { .client = c, .post = &post[i] };
	while (fill(job, n, c, end)) {
		bool finished = false; /* then there may be nothing to wait for, or a place to fill */

		curl_multi_perform(c->multi, &running);
		for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &queued));) {
			struct job *j;

			if (m->msg != CURLMSG_DONE)
				continue;
			CURLcode code = m->data.result; /* m is gone with its handle */
			curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&j);
			finish(j, code, end);
			alive_mark("asking over HTTP");
			finished = true;
		}
		if (!finished)
			curl_multi_poll(c->multi, NULL, 0, running ? 100 : 20, NULL);
	}
	for (int i = 0; i < n; i++)
		free(job[i].moved);
	free(job);
}
