/*
 * reward_openai.c -- a vision model as a judge, behind any server that speaks OpenAI's chat completions
 * (vLLM, SGLang, llama.cpp): a request an image, many in flight, the score read from the text of the answer.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/file.h"
#include "base/http/http.h"
#include "base/image.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "rewards/judges/reply.h"
#include <ctype.h>
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct openai_conf {
	char *url, *model, *key_env, *template, *template_file, *pattern, *image;
	int64_t in_flight, retries, max_tokens, max_completion_tokens, jpeg_quality;
	double timeout, deadline, scale, low, high, temperature;
};

/* UnifiedReward was trained to judge a caption and its image on these two counts and to end this way, but
 * with words of its own (docs/extending.md says where they are): its published scores are not to be had with
 * these. */
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
	    struct openai_conf, template_file, .init = "",
	    .doc =
		"file with the question, used in place of `template`: {prompt} as there, the rest as it is"),
	FIELD(
	    struct openai_conf, pattern, .init = "(?i)final score[\\W_]*?:[\\W_]*?([-+]?[0-9.]+)",
	    .doc =
		"regular expression that finds the score in the answer: the number that begins where its "
		"first "
		"group does, in its last match. The number is read whole, with its exponent, or not at all"),
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
	FIELD(struct openai_conf, max_tokens, .init = "512", .min = 0, .max = 1e6,
	      .doc = "longest answer, in tokens; 0: not sent"),
	FIELD(struct openai_conf, max_completion_tokens, .init = "0", .min = 0, .max = 1e6,
	      .doc = "the same by its newer name, which OpenAI's reasoning models ask for, thinking "
		     "included; 0: not "
		     "sent"),
	FIELD(struct openai_conf, temperature, .init = "0", .min = -1, .max = 2,
	      .doc = "randomness of the answer; below 0: not sent, for models that refuse it"),
	FIELD(struct openai_conf, in_flight, .init = "32", .min = 1, .max = 1024, .unit = "requests",
	      .doc = "concurrent requests of each rank"),
	FIELD(struct openai_conf, timeout, .init = "120", .min = 1e-3, .max = 1e6, .unit = "s",
	      .doc = "time limit of a request"),
	FIELD(struct openai_conf, retries, .init = "3", .min = 0, .max = 1000,
	      .doc =
		  "retries of a failed request, with a pause that doubles each time; a refused connection is "
		  "tried until the deadline"),
	FIELD(struct openai_conf, deadline, .init = "600", .min = 1e-3, .max = 1e6, .unit = "s",
	      .doc = "time limit of all requests of a batch of samples, retries included; what has no score "
		     "then is unavailable"),
	FIELD_END
};

struct openai_judge {
	const struct openai_conf *conf;
	struct http_client *client;
	pcre2_code *pattern;
	char *question; /* of a file; NULL: the template */
};

static void close_openai(void *state)
{
	struct openai_judge *j = state;

	if (!j)
		return;
	http_client_close(j->client);
	pcre2_code_free(j->pattern);
	free(j->question);
	free(j);
}

/* The file's text, without the line's end that an editor puts behind the last. */
static int read_question(char **out, const char *path, struct err *e)
{
	size_t n;

	if (file_read(out, &n, path, e))
		return err_in(e, "template_file");
	if (strlen(*out) != n || !strstr(*out, "{prompt}")) {
		int ret = err_set(e, "template_file %s has %s", path,
				  strlen(*out) != n ? "a zero byte"
						    : "no {prompt}: the model would not know what "
						      "the image should show");
		free(*out);
		*out = NULL;
		return ret;
	}
	if (n && (*out)[n - 1] == '\n')
		(*out)[n - 1] = '\0';
	return 0;
}

static int compile(pcre2_code **out, const char *pattern, struct err *e)
{
	uint32_t groups = 0;
	PCRE2_SIZE at;
	int code;

	*out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
	if (!*out)
		return err_set(e, "pattern '%s' is not a regular expression", pattern);
	pcre2_pattern_info(*out, PCRE2_INFO_CAPTURECOUNT, &groups);
	return groups ? 0 : err_set(e, "pattern '%s' has no group for the score", pattern);
}

static int open_openai(void **state, const void *conf, struct err *e)
{
	const struct openai_conf *c = conf;
	struct openai_judge *j;

	if (!*c->template_file && !strstr(c->template, "{prompt}"))
		return err_set(
		    e, "template has no {prompt}: the model would not know what the image should show");
	if (!(c->low < c->high))
		return err_set(e, "low %g is not below high %g", c->low, c->high);
	j = mem_zero(1, sizeof *j);
	j->conf = c;
	struct http_options o = { .in_flight = (int)c->in_flight,
				  .retries = (int)c->retries,
				  .timeout = c->timeout,
				  .deadline = c->deadline,
				  .pause = 0.5,
				  .limit = 1 << 22 };
	if (compile(&j->pattern, c->pattern, e) ||
	    (*c->template_file && read_question(&j->question, c->template_file, e)) ||
	    http_client_open(&j->client, c->url, c->key_env, &o, e)) {
		close_openai(j);
		return -1;
	}
	*state = j;
	return 0;
}

/* The question with the prompt and, where they are written as \n, with new lines. */
static void ask(struct text *out, const char *template, bool lines, const char *prompt)
{
	for (const char *s = template; *s; s++) {
		if (text_starts(s, "{prompt}")) {
			text_add(out, prompt);
			s += strlen("{prompt}") - 1;
		} else if (lines && text_starts(s, "\\n")) {
			text_add(out, "\n");
			s++;
		} else {
			text_add_bytes(out, s, 1);
		}
	}
}

static char *make_body(const struct openai_judge *j, const struct reward_item *item, struct err *e)
{
	const struct openai_conf *c = j->conf;
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
	ask(&question, j->question ? j->question : c->template, !j->question, item->prompt);
	json_t *o = json_pack("{s:s, s:[{s:s, s:[{s:s, s:{s:s}}, {s:s, s:s}]}]}", "model", c->model,
			      "messages", "role", "user", "content", "type", "image_url", "image_url", "url",
			      url.s, "type", "text", "text", question.s);
	if (c->temperature >= 0)
		json_object_set_new(o, "temperature", json_number(c->temperature));
	if (c->max_tokens)
		json_object_set_new(o, "max_tokens", json_integer(c->max_tokens));
	if (c->max_completion_tokens)
		json_object_set_new(o, "max_completion_tokens", json_integer(c->max_completion_tokens));
	char *body = o ? json_line(o) : NULL;
	if (!body)
		err_set(e, "the question or the prompt is not UTF-8");
	json_decref(o);
	text_free(&url);
	text_free(&question);
	return body;
}

/* What a choice's message says: its content is a text, or a list of parts, of which some are text; or there
 * is none, but perhaps a refusal.  OpenAI's schema has all of them.  text_free. */
static struct text message_text(const json_t *message, const char **refusal)
{
	const json_t *content = json_object_get(message, "content"), *part;
	struct text t = { 0 };
	size_t i;

	*refusal = json_string_value(json_object_get(message, "refusal"));
	if (json_is_string(content))
		text_add(&t, json_string_value(content));
	json_array_foreach(content, i, part)
	{
		const json_t *text = json_object_get(part, "text");

		/* some servers write the text as {"value": ...}, as OpenAI's assistants do */
		text = json_is_object(text) ? json_object_get(text, "value") : text;
		if (json_is_string(part))
			text = part;
		if (json_is_string(text))
			text_add(&t, json_string_value(text));
		if (!*refusal)
			*refusal = json_string_value(json_object_get(part, "refusal"));
	}
	return t;
}

static bool continues(const char *s)
{
	return isalnum((unsigned char)*s) ||
	       ((*s == '.' || *s == ',' || *s == '-') && isdigit((unsigned char)s[1]));
}

/* The number that begins at s, whole; false when there is none, or it is part of something longer: a half
 * number would be another score.  *end is behind it. */
static bool whole_number(double *v, const char *text, const char *s, const char **end)
{
	const char *digits = s + (*s == '-' || *s == '+');
	bool inside =
	    s > text && (isalnum((unsigned char)s[-1]) ||
			 ((s[-1] == '.' || s[-1] == ',') && s - 1 > text && isdigit((unsigned char)s[-2])));
	char *stop;

	*v = strtod(s, &stop);
	*end = stop;
	if (stop > s && stop[-1] == '.') /* the sentence's */
		*end = stop - 1;
	return !inside && stop > s && isfinite(*v) && (isdigit((unsigned char)*digits) || *digits == '.') &&
	       digits[1] != 'x' && digits[1] != 'X' && !continues(stop);
}

/* Of a group, what is behind its number may be no more than what ends a sentence or marks text. */
static bool only_marks(const char *from, const char *to)
{
	while (from < to && strchr(" \t\n\r.*_`", *from))
		from++;
	return from >= to;
}

/* The number in the last match: a judge that thinks aloud may name a score before its last word.  `cut`: the
 * text was cut off, and so may be a number at its end. */
static bool find_score(double *score, const struct openai_judge *j, const char *text, bool cut)
{
	pcre2_match_data *match = pcre2_match_data_create_from_pattern(j->pattern, NULL);
	size_t n = strlen(text), at = 0;
	bool found = false;

	int groups;

	while (at <= n && (groups = pcre2_match(j->pattern, (PCRE2_SPTR)text, n, at, 0, match, NULL)) > 0) {
		const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
		bool empty = range[1] <= at;

		if (groups > 1 && range[2] != PCRE2_UNSET) { /* the group may take no part in a match */
			const char *end = NULL, *group = text + range[2];

			group += strspn(group, " \t\n\r");
			found = group < text + range[3] && whole_number(score, text, group, &end) &&
				only_marks(end, text + range[3]) && !(cut && !*end);
		}
		at = empty ? at + 1 : range[1];
		while (empty && at < n && (text[at] & 0xc0) == 0x80) /* within a character */
			at++;
	}
	pcre2_match_data_free(match);
	return found;
}

/* The score, or in e why the answer has none. */
static int read_answer(double *score, const struct openai_judge *j, const json_t *o, struct err *e)
{
	const struct openai_conf *c = j->conf;
	const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
	const json_t *message = json_object_get(choice, "message");
	const char *finish = json_string_value(json_object_get(choice, "finish_reason")), *refusal;
	bool cut = finish && !strcmp(finish, "length");
	int ret = 0;

	if (!json_is_object(message))
		return err_set(e, "the server's answer has no choices[0].message");
	struct text t = message_text(message, &refusal);
	if (!t.n && refusal)
		ret = err_set(e, "the model refuses: %.100s", refusal);
	else if (!t.n)
		ret = err_set(e, "the answer has no text (finish_reason %.40s)%s",
			      finish ? finish : "is not given", cut ? ": raise max_tokens" : "");
	else if (!find_score(score, j, t.s, cut) || *score < c->low || *score > c->high)
		ret = err_set(e, "the answer has no score from %g to %g%s: %.90s", c->low, c->high,
			      cut ? " (cut off: raise max_tokens)" : "", t.s);
	text_free(&t);
	return ret;
}

static void read_one(const struct openai_judge *j, const struct http_post *post, struct reward_score *out)
{
	struct err e;
	double score = NAN;

	if (!post->ok) {
		reward_fail(out, 1, post->why);
		return;
	}
	json_t *o = json_parse(post->reply, post->reply_size, "the server's answer", &e);
	if (!o || read_answer(&score, j, o, &e))
		reward_fail(out, 1, e.msg);
	else
		reward_put(out, 1, &(double) { score * j->conf->scale }, "the answer's");
	json_decref(o);
}

static int score(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	struct openai_judge *j = state;
	struct http_post *post = mem_zero((size_t)n, sizeof *post);
	int ret = 0;

	for (int i = 0; i < n && !ret; i++) {
		char *body = make_body(j, &item[i], e);

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
	.check = reply_check,
	.score = score,
	.close = close_openai,
};
