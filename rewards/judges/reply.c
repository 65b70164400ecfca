#include "rewards/judges/reply.h"
#include "base/alive.h"
#include <string.h>

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

static void one(struct reward_score *out, const json_t *v)
{
	const json_t *score = json_is_object(v) ? json_object_get(v, "score") : v;
	const char *why = json_string_value(json_object_get(v, "error"));

	if (why || !json_is_number(score))
		reward_fail(out, 1, why ? why : "the reward gave no score");
	else
		reward_put(out, 1, &(double) { json_number_value(score) }, "the reward's");
}

int reply_scores(struct reward_score *out, int n, const char *text, size_t size, struct err *e)
{
	json_t *o = json_parse(text, size, "the reward's answer", e);
	const json_t *list = json_object_get(o, "scores");
	const char *why = json_string_value(json_object_get(o, "error"));
	int ret = o ? 0 : -1;

	alive_mark("scoring");
	if (o && why)
		ret = err_set(e, "the reward says: %.120s", why);
	else if (o && !json_is_array(list))
		ret = err_set(e, "the reward's answer has no list 'scores'");
	else if (o && json_array_size(list) != (size_t)n)
		ret =
		    err_set(e, "the reward's answer has %zu scores for %d images", json_array_size(list), n);
	for (int i = 0; i < n && !ret; i++)
		one(&out[i], json_array_get(list, (size_t)i));
	if (ret)
		reward_fail(out, n, e->msg);
	json_decref(o);
	return ret;
}
