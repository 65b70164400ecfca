#include "data/clauses.h"
#include "base/text.h"

const char *const relation_names[RELATIONS + 1] = { "left of", "right of", "above", "below", NULL };

int clauses_unknown(const char *what, const char *name, const char *const *names, struct err *e)
{
	const char *near = text_nearest(name, names);

	if (near)
		return err_set(e, "unknown %s '%s' (did you mean '%s'?)", what, name, near);
	struct text all = { 0 };
	for (int i = 0; names[i]; i++)
		text_printf(&all, "%s%s", i ? ", " : "", names[i]);
	err_set(e, "unknown %s '%s' (known: %s)", what, name, all.s);
	text_free(&all);
	return -1;
}

static int read_position(struct clause *c, const json_t *position, int index, struct err *e)
{
	const char *relation = json_string_value(json_array_get(position, 0));
	const json_t *target = json_array_get(position, 1);

	if (!relation || !json_is_integer(target) || json_array_size(position) != 2)
		return err_set(e, "position: wanted [\"left of\", index of an earlier clause]");
	if (json_integer_value(target) < 0 || json_integer_value(target) >= index)
		return err_set(e, "position: %lld is not the index of an earlier clause",
			       (long long)json_integer_value(target));
	c->relation = text_index(relation, relation_names);
	c->target = (int)json_integer_value(target);
	return c->relation < 0 ? clauses_unknown("relation", relation, relation_names, e) : 0;
}

static int read_clause(struct clause *c, const json_t *o, int index, struct err *e)
{
	static const char *const keys[] = { "class", "count", "color", "position", NULL };
	const char *key;
	const json_t *value, *position = json_object_get(o, "position");
	int64_t count;

	*c = (struct clause) { .relation = -1 };
	if (!json_is_object(o))
		return err_set(e, "not an object");
	json_object_foreach((json_t *)(uintptr_t)o, key, value)
	{
		if (text_index(key, keys) < 0)
			return clauses_unknown("key", key, keys, e);
	}
	if (json_get_str(&c->class_name, o, "class", NULL, "clause", e) ||
	    json_get_int(&count, o, "count", 1, "clause", e) ||
	    json_get_str(&c->color, o, "color", NULL, "clause", e))
		return -1;
	if (!c->class_name)
		return err_set(e, "no \"class\"");
	if (count < 1 || count > 1000)
		return err_set(e, "count = %lld: wanted 1 to 1000", (long long)count);
	c->count = (int)count;
	return position ? read_position(c, position, index, e) : 0;
}

int clauses_read(struct clause *c, int most, int *n, const json_t *meta, const char *section, struct err *e)
{
	const json_t *list = json_object_get(meta, section), *o;
	size_t i;

	*n = 0;
	if (list && !json_is_array(list))
		return err_set(e, "%s: not an array", section);
	if (json_array_size(list) > (size_t)most)
		return err_set(e, "%s: %zu clauses, at most %d can be read", section, json_array_size(list),
			       most);
	json_array_foreach(list, i, o)
	{
		if (read_clause(&c[(*n)++], o, (int)i, e))
			return err_in(e, "%s[%zu]", section, i);
	}
	return 0;
}
