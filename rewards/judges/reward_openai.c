/*
 * reward_openai.c -- a vision model as a judge, behind any server that speaks OpenAI's chat completions
 * (vLLM, SGLang, llama.cpp): a request an image, many in flight, the score read from the text of the answer.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/http/http.h"
#include "base/image.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "rewards/judges/reply.h"
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct openai_conf {
	char *url, *model, *key_env, *template, *pattern, *image;
	int64_t in_flight, retries, max_tokens, jpeg_quality;
	double timeout, deadline, scale, low, high;
};

/* UnifiedReward was trained to judge a caption and its image on these two counts and to end this way. */
#define TEMPLATE                                                                                             \
	"You see an image that was generated from a caption. Judge it on two criteria: alignment, how well " \
	"objects, attributes, relations and composition agree with the caption; and quality, how clear, "    \
	"natural and pleasing the image is. Give a score from 1 (worst) to 5 (best), with decimals where "   \
	"they help.\\nCaption: {prompt}\\nEnd with a line of its own:\\nFinal Score: X"

static const char *const image_kinds[] = { "png", "jpeg", NULL };

static const struct field fields[] = {
	FIELD(struct openai_conf, url, .init = "http://127.0.0.1:8000/v1/chat/completions",
	      .doc = "the server's address for chat completions"),
	FIELD(struct openai_conf, model, .init = "UnifiedReward-7b-v1.5",
	      .doc = "name of the model on that server"),
	FIELD(struct openai_conf, key_env, .init = "",
	      .doc = "environment variable that holds the API key; empty: no key is sent"),
	FIELD(struct openai_conf, template, .init = TEMPLATE,
	      .doc = "the question; {prompt} stands for the image's prompt and \\n for a new line"),
	FIELD(
	    struct openai_conf, pattern, .init = "Final Score:\\s*([-+]?[0-9]*\\.?[0-9]+)",
	    .doc =
		"regular expression that finds the score in the answer: its first group, in its last match"),
	FIELD(struct openai_conf, image, .was = "picture", .init = "png", .choices = image_kinds,
	      .doc = "format in which images are sent; jpeg is much smaller, but lossy"),
	FIELD(struct openai_conf, jpeg_quality, .init = "95", .min = 1, .max = 100,
	      .doc = "JPEG quality with `image: jpeg`"),
	FIELD(struct openai_conf, scale, .init = "0.2", .min = -1e9, .max = 1e9,
	      .doc = "factor from the answer's score to the reward"),
	FIELD(struct openai_conf, low, .init = "1", .min = -1e9, .max = 1e9,
	      .doc = "lowest valid score; an image with a lower one has no score"),
	FIELD(struct openai_conf, high, .init = "5", .min = -1e9, .max = 1e9,
	      .doc = "highest valid score; an image with a higher one has no score"),
	FIELD(struct openai_conf, max_tokens, .init = "512", .min = 1, .max = 1e6,
	      .doc = "longest answer, in tokens"),
	FIELD(struct openai_conf, in_flight, .init = "32", .min = 1, .max = 1024, .unit = "requests",
	      .doc = "concurrent requests of each rank"),
	FIELD(struct openai_conf, timeout, .init = "120", .min = 1e-3, .max = 1e6, .unit = "s",
	      .doc = "time limit of a request"),
	FIELD(struct openai_conf, retries, .init = "3", .min = 0, .max = 1000,
	      .doc = "retries of a failed request, with a pause that doubles each time"),
	FIELD(struct openai_conf, deadline, .init = "600", .min = 1e-3, .max = 1e6, .unit = "s",
	      .doc = "time limit of all requests of a batch of samples, retries included; what has no score "
		     "then is unavailable"),
	FIELD_END
};

struct openai_judge {
	const struct openai_conf *conf;
	struct http_client *client;
	pcre2_code *pattern;
};

static void close_openai(void *state)
{
	struct openai_judge *j = state;

	if (!j)
		return;
	http_client_close(j->client);
	pcre2_code_free(j->pattern);
	free(j);
}

static int open_openai(void **state, const void *conf, struct err *e)
{
	const struct openai_conf *c = conf;
	struct openai_judge *j;
	uint32_t groups = 0;
	PCRE2_SIZE at;
	int code;

	if (!strstr(c->template, "{prompt}"))
		return err_set(
		    e, "template has no {prompt}: the model would not know what the image should show");
	if (!(c->low < c->high))
		return err_set(e, "low %g is not below high %g", c->low, c->high);
	pcre2_code *pattern =
	    pcre2_compile((PCRE2_SPTR)c->pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
	if (!pattern)
		return err_set(e, "pattern '%s' is not a regular expression", c->pattern);
	pcre2_pattern_info(pattern, PCRE2_INFO_CAPTURECOUNT, &groups);
	if (groups < 1) {
		pcre2_code_free(pattern);
		return err_set(e, "pattern '%s' has no group for the score", c->pattern);
	}
	j = mem_zero(1, sizeof *j);
	j->conf = c;
	j->pattern = pattern;
	struct http_options o = { .in_flight = (int)c->in_flight,
				  .retries = (int)c->retries,
				  .timeout = c->timeout,
				  .deadline = c->deadline,
				  .pause = 0.5,
				  .limit = 1 << 22 };
	if (http_client_open(&j->client, c->url, c->key_env, &o, e)) {
		close_openai(j);
		return -1;
	}
	*state = j;
	return 0;
}

/* The template with the prompt and with new lines. */
static void ask(struct text *out, const char *template, const char *prompt)
{
	for (const char *s = template; *s; s++) {
		if (text_starts(s, "{prompt}")) {
			text_add(out, prompt);
			s += strlen("{prompt}") - 1;
		} else if (text_starts(s, "\\n")) {
			text_add(out, "\n");
			s++;
		} else {
			text_add_bytes(out, s, 1);
		}
	}
}

static char *make_body(const struct openai_conf *c, const struct reward_item *item, struct err *e)
{
	struct text url = { 0 }, question = { 0 };
	bool jpeg = !strcmp(c->image, "jpeg");
	uint8_t *file;
	size_t size;

	if (jpeg ? image_jpeg(&file, &size, item->w, item->h, item->rgb, (int)c->jpeg_quality, e)
		 : image_png(&file, &size, item->w, item->h, item->rgb, e))
		return NULL;
	text_add(&url, "data:image/");
	text_add(&url, c->image);
	text_add(&url, ";base64,");
	text_base64(&url, file, size);
	free(file);
	ask(&question, c->template, item->prompt);
	json_t *o = json_pack("{s:s, s:i, s:I, s:[{s:s, s:[{s:s, s:{s:s}}, {s:s, s:s}]}]}", "model", c->model,
			      "temperature", 0, "max_tokens", (json_int_t)c->max_tokens, "messages", "role",
			      "user", "content", "type", "image_url", "image_url", "url", url.s, "type",
			      "text", "text", question.s);
	char *body = o ? json_dumps(o, JSON_COMPACT) : NULL;
	if (!body)
		err_set(e, "the prompt is not UTF-8");
	json_decref(o);
	text_free(&url);
	text_free(&question);
	return body;
}

/* choices[0].message.content of the reply; borrowed. */
static const char *content(const json_t *o)
{
	const json_t *first = json_array_get(json_object_get(o, "choices"), 0);

	return json_string_value(json_object_get(json_object_get(first, "message"), "content"));
}

/* The number in the last match: a judge that thinks aloud may name a score before its last word. */
static bool find_score(double *score, const struct openai_judge *j, const char *text)
{
	pcre2_match_data *match = pcre2_match_data_create_from_pattern(j->pattern, NULL);
	size_t n = strlen(text), at = 0;
	bool found = false;

	while (at <= n && pcre2_match(j->pattern, (PCRE2_SPTR)text, n, at, 0, match, NULL) > 1) {
		const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
		char *number = mem_printf("%.*s", (int)(range[3] - range[2]), text + range[2]), *end;

		*score = strtod(number, &end);
		found = end != number && !*end && isfinite(*score);
		free(number);
		at = range[1] > at ? range[1] : at + 1;
	}
	pcre2_match_data_free(match);
	return found;
}

static void read_one(const struct openai_judge *j, const struct http_post *post, struct reward_score *out)
{
	const struct openai_conf *c = j->conf;
	struct err e;
	double score;

	if (!post->ok) {
		reward_fail(out, 1, post->why);
		return;
	}
	json_t *o = json_parse(post->reply, post->reply_size, "the server's answer", &e);
	const char *text = content(o);

	if (!o || !text) {
		reward_fail(out, 1, o ? "the server's answer has no choices[0].message.content" : e.msg);
	} else if (!find_score(&score, j, text) || score < c->low || score > c->high) {
		err_set(&e, "the answer has no score from %g to %g: %.90s", c->low, c->high, text);
		reward_fail(out, 1, e.msg);
	} else {
		reward_put(out, 1, &(double) { score * c->scale }, "the answer's");
	}
	json_decref(o);
}

static int score(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	struct openai_judge *j = state;
	struct http_post *post = mem_zero((size_t)n, sizeof *post);
	int ret = 0;

	for (int i = 0; i < n && !ret; i++) {
		char *body = make_body(j->conf, &item[i], e);

		ret = body ? 0 : -1;
		post[i] = (struct http_post) { .body = body, .size = body ? strlen(body) : 0 };
	}
	if (!ret)
		http_post_all(j->client, post, n);
	for (int i = 0; i < n; i++) {
		if (!ret)
			read_one(j, &post[i], &out[i]);
		free((char *)(uintptr_t)post[i].body);
		http_post_free(&post[i]);
	}
	free(post);
	return ret;
}

const struct reward_type reward_openai = {
	.abi = REWARD_ABI,
	.name = "openai",
	.doc = "A vision-language model as a reward, behind a server with OpenAI's interface",
	.flags = REWARD_WAITS,
	.fields = fields,
	.conf_size = sizeof(struct openai_conf),
	.open = open_openai,
	.score = score,
	.close = close_openai,
};
