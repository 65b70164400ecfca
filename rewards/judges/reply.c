#include "rewards/judges/reply.h"
#include "base/alive.h"
#include "models/text/unicode.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

int reply_check(void *state, const char *prompt, const char *meta, struct err *e)
{
	(void)state, (void)meta;
	return unicode_check(prompt, strlen(prompt), e);
}

static json_t *request_item(const struct reward_item *item)
{
	struct err ignored;
	json_t *o = json_object(), *meta = json_parse(item->meta, strlen(item->meta), "metadata", &ignored);

	json_object_set_new(o, "prompt", json_string(item->prompt));
	json_object_set_new(o, "meta", meta ? meta : json_object());
	return o;
}

json_t *reply_request(const struct reward_item *item, int n, bool group)
{
	json_t *o = json_object(), *list = json_array();

	json_object_set_new(o, "version", json_integer(1));
	if (group)
		json_object_set_new(o, "group", json_true());
	json_object_set_new(o, "items", list);
	for (int i = 0; i < n; i++)
		json_array_append_new(list, request_item(&item[i]));
	return o;
}

/* A member of an entry, or of the rewards that serve-reward tells of. */
static const json_t *member(const json_t *entry, const char *name)
{
	const json_t *x = json_object_get(entry, name), *of;
	const char *key;

	json_object_foreach(json_object_get(entry, "rewards"), key, of)
	{
		if (!x || json_is_null(x))
			x = json_object_get(of, name);
	}
	return x;
}

static double number(const json_t *v)
{
	return json_is_boolean(v) ? json_is_true(v) : json_is_number(v) ? json_number_value(v) : NAN;
}

static void one(struct reward_score *out, const json_t *v, const struct conf_list *subs)
{
	const json_t *score = json_is_object(v) ? json_object_get(v, "score") : v;
	const char *why = json_string_value(json_object_get(v, "error"));
	const char *note = json_string_value(member(v, "why"));

	if (why || !json_is_number(score)) {
		reward_fail(out, 1, why ? why : "the reward gave no score");
		return;
	}
	reward_put(out, 1, &(double) { json_number_value(score) }, "the reward's");
	for (int k = 0; k < subs->n && k < REWARD_SUBS; k++)
		out->sub[k] = number(member(v, subs->v[k]));
	if (out->ok && note)
		snprintf(out->why, sizeof out->why, "%s", note);
}

/* The list of an answer, n long. */
static int check_answer(const json_t *list, int n, struct err *e)
{
	if (!json_is_array(list))
		return err_set(e, "the reward's answer has no list 'scores'");
	if (json_array_size(list) != (size_t)n)
		return err_set(e, "the reward's answer has %zu scores for %d images", json_array_size(list),
			       n);
	return 0;
}

int reply_scores(struct reward_score *out, int n, const struct conf_list *subs, const char *text, size_t size,
		 struct err *e)
{
	json_t *o = json_parse_answer(text, size, "the reward's answer", e);
	const json_t *list = json_object_get(o, "scores");
	const char *why = json_string_value(json_object_get(o, "error"));
	int ret = 0;

	alive_mark("scoring");
	if (why) {
		struct err said;

		err_set(&said, "the reward says: %.120s", why);
		reward_fail(out, n, said.msg);
	} else if (!o || check_answer(list, n, e)) {
		ret = -1;
		reward_fail(out, n, e->msg);
	} else {
		for (int i = 0; i < n; i++)
			one(&out[i], json_array_get(list, (size_t)i), subs);
	}
	json_decref(o);
	return ret;
}
