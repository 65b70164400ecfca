#include "models/text/bpe/added_tokens.h"
#include "base/mem.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

const struct added_token *added_tokens_find(const struct added_tokens *t, const char *name)
{
	for (int i = 0; i < t->n; i++)
		if (!strcmp(t->token[i].name, name))
			return &t->token[i];
	return NULL;
}

int added_tokens_add(struct added_tokens *t, const char *name, int64_t id, bool normal, const char *path,
		     struct err *e)
{
	const struct added_token *old = added_tokens_find(t, name);

	if (!*name || id < 0 || id > INT32_MAX)
		return err_set(e, "%s: the added token '%.60s' needs a name and an id", path, name);
	if (old)
		return old->id == id ? 0
				     : err_set(e, "%s: the added token '%.60s' has two ids, %lld and %lld",
					       path, name, (long long)old->id, (long long)id);
	MEM_PUSH(t->token, t->n, t->cap) = (struct added_token) { mem_str(name), strlen(name), id, normal };
	return 0;
}

static int add_object(struct added_tokens *t, const json_t *o, int64_t id, const char *path, struct err *e)
{
	static const char *const flags[] = { "lstrip", "rstrip", "single_word" };
	const char *name = NULL;
	bool special, normal;

	if (json_get_str(&name, o, "content", "", path, e) ||
	    json_get_bool(&special, o, "special", false, path, e) ||
	    json_get_bool(&normal, o, "normalized", !special, path, e))
		return -1;
	for (int i = 0; i < 3; i++)
		if (json_is_true(json_object_get(o, flags[i])))
			return err_set(e, "%s: the added token '%.60s' is `%s`, which is not supported", path,
				       name, flags[i]);
	return added_tokens_add(t, name, id, normal, path, e);
}

int added_tokens_list(struct added_tokens *t, const json_t *list, const char *path, struct err *e)
{
	const json_t *x;
	size_t i;

	json_array_foreach(list, i, x)
	{
		int64_t id;
		if (json_get_int(&id, x, "id", -1, path, e) || add_object(t, x, id, path, e))
			return -1;
	}
	return 0;
}

int added_tokens_decoder(struct added_tokens *t, const json_t *config, const char *path, struct err *e)
{
	const char *key;
	json_t *o;
	int ret = 0;

	json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, o)
	{
		char *end;
		int64_t id = strtoll(key, &end, 10);
		if (!ret)
			ret = add_object(t, o, *end || end == key ? -1 : id, path, e);
	}
	return ret;
}

int added_tokens_file(struct added_tokens *t, const char *path, struct err *e)
{
	json_t *o = json_read(path, e), *v;
	const char *name;
	int ret = o ? 0 : -1;

	json_object_foreach(o, name, v)
	{
		if (!ret && !added_tokens_find(t, name))
			ret = added_tokens_add(t, name, json_is_integer(v) ? json_integer_value(v) : -1,
					       false, path, e);
	}
	json_decref(o);
	return ret;
}

size_t added_tokens_first(const struct added_tokens *t, bool normal, const char *s, size_t n,
			  const struct added_token **which)
{
	size_t first = n;

	*which = NULL;
	for (int i = 0; i < t->n; i++) {
		const struct added_token *a = &t->token[i];
		const char *at = a->normal == normal ? memmem(s, n, a->name, a->size) : NULL;
		size_t place = at ? (size_t)(at - s) : n;
		if (at && (place < first || !*which || (place == first && a->size > (*which)->size))) {
			first = place;
			*which = a;
		}
	}
	return first;
}

void added_tokens_release(struct added_tokens *t)
{
	for (int i = 0; i < t->n; i++)
		free(t->token[i].name);
	free(t->token);
	*t = (struct added_tokens) { 0 };
}
