/*
 * reward_http.c -- a judge behind HTTP: each batch is one POST of JSON (reply.h), images as PNG in base64.
 *
 * {"version": 1, "items": [{"prompt": "...", "meta": {...}, "image": "iVBORw0..."}]} -> {"scores": [0.5]}
 */
#include "base/http/http.h"
#include "base/image.h"
#include "base/mem.h"
#include "base/text.h"
#include "rewards/judges/reply.h"
#include <stdlib.h>
#include <string.h>

struct http_conf {
	char *url, *token_env;
	int64_t batch, in_flight, retries;
	double timeout, deadline;
	struct conf_list sub_scores;
	bool group;
};

static const struct field fields[] = {
	FIELD(struct http_conf, url, .init = NULL, .doc = "address that batches are posted to"),
	FIELD(struct http_conf, token_env, .init = "",
	      .doc = "environment variable that holds a bearer token; empty: no token"),
	FIELD(struct http_conf, batch, .init = "8", .min = 1, .max = 4096, .unit = "images",
	      .doc = "images per request"),
	FIELD(struct http_conf, in_flight, .init = "4", .min = 1, .max = 1024, .unit = "requests",
	      .doc = "concurrent requests of each rank"),
	FIELD(struct http_conf, timeout, .init = "60", .min = 1e-3, .max = 1e6, .unit = "s",
	      .doc = "time limit of a request"),
	FIELD(struct http_conf, retries, .init = "3", .min = 0, .max = 1000,
	      .doc =
		  "retries of a failed request, with a pause that doubles each time; a refused connection is "
		  "tried until the deadline"),
	FIELD(struct http_conf, deadline, .init = "300", .min = 1e-3, .max = 1e6, .unit = "s",
	      .doc = "time limit of all requests of a batch of samples, retries included; what has no score "
		     "then is unavailable"),
	FIELD(struct http_conf, sub_scores, .init = "", .max = REWARD_SUBS, .doc = REPLY_SUBS_DOC),
	FIELD(struct http_conf, group, .init = "false", .doc = REPLY_GROUP_DOC "; `batch` is then ignored"),
	FIELD_END
};

struct http_judge {
	const struct http_conf *conf;
	struct http_client *client;
};

static void close_http(void *state)
{
	struct http_judge *j = state;

	if (!j)
		return;
	http_client_close(j->client);
	free(j);
}

static int open_http(void **state, const void *conf, struct err *e)
{
	const struct http_conf *c = conf;
	struct http_judge *j;

	j = mem_zero(1, sizeof *j);
	j->conf = c;
	struct http_options o = { .in_flight = (int)c->in_flight,
				  .retries = (int)c->retries,
				  .timeout = c->timeout,
				  .deadline = c->deadline,
				  .pause = 0.5,
				  .limit = 1 << 26 };
	if (http_client_open(&j->client, c->url, c->token_env, &o, e)) {
		close_http(j);
		return -1;
	}
	*state = j;
	return 0;
}

/* The body of a request; NULL when an image cannot be written. */
static char *make_body(const struct http_judge *j, const struct reward_item *item, int n, struct err *e)
{
	json_t *o = reply_request(item, n, j->conf->group), *list = json_object_get(o, "items");
	char *body = NULL;
	int ret = 0;

	for (int i = 0; i < n && !ret; i++) {
		json_t *x = json_array_get(list, (size_t)i);
		struct text image = { 0 };
		uint8_t *png;
		size_t size;

		ret = image_png(&png, &size, item[i].w, item[i].h, item[i].rgb, e);
		if (!ret) {
			text_base64(&image, png, size);
			json_object_set_new(x, "image", json_string(image.s));
			free(png);
		}
		text_free(&image);
	}
	if (!ret)
		body = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return body;
}

static int score(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	struct http_judge *j = state;
	int each = j->conf->group ? n : (int)j->conf->batch, posts = (n + each - 1) / each, ret = 0;
	struct http_post *post = mem_zero((size_t)posts, sizeof *post);

	for (int i = 0; i < posts && !ret; i++) {
		int k = n - i * each < each ? n - i * each : each;
		char *body = make_body(j, item + i * each, k, e);

		ret = body ? 0 : -1;
		post[i] = (struct http_post) { .body = body, .size = body ? strlen(body) : 0 };
	}
	if (!ret)
		http_post_all(j->client, post, posts);
	for (int i = 0; i < posts; i++) {
		int k = n - i * each < each ? n - i * each : each;
		struct err why;

		if (!ret && post[i].ok)
			reply_scores(out + i * each, k, &j->conf->sub_scores, post[i].reply,
				     post[i].reply_size, &why);
		else if (!ret)
			reward_fail(out + i * each, k, post[i].why);
		free((char *)(uintptr_t)post[i].body);
		http_post_free(&post[i]);
	}
	free(post);
	return ret;
}

const struct reward_type reward_http = {
	.abi = REWARD_ABI,
	.name = "http",
	.doc = "A reward of your own behind HTTP",
	.flags = REWARD_WAITS,
	.fields = fields,
	.conf_size = sizeof(struct http_conf),
	.open = open_http,
	.check = reply_check,
	.score = score,
	.close = close_http,
};
