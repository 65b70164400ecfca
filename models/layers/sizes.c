#include "models/layers/sizes.h"
#include <string.h>

int sizes_read(void *conf, const struct size_field *table, const json_t *o, const char *what, struct err *e)
{
	for (const struct size_field *f = table; f->key; f++) {
		int64_t v = f->absent;

		if (!json_is_null(json_object_get(o, f->key)) &&
		    json_get_int(&v, o, f->key, f->absent, what, e))
			return -1;
		if (v < f->least || v > f->most)
			return err_set(e, "%s: %s = %lld: must be %lld to %lld", what, f->key, (long long)v,
				       (long long)f->least, (long long)f->most);
		memcpy((char *)conf + f->offset, &v, sizeof v);
	}
	return 0;
}

int sizes_read_list(int64_t *out, int n, const json_t *o, const char *key, int64_t most, const char *what,
		    struct err *e)
{
	const json_t *list = json_object_get(o, key), *x;
	size_t i;

	if (!list || json_is_null(list))
		return 0;
	if (json_array_size(list) != (size_t)n)
		return err_set(e, "%s: %s must be a list of %d numbers", what, key, n);
	json_array_foreach(list, i, x)
	{
		out[i] = json_is_integer(x) ? json_integer_value(x) : 0;
		if (out[i] < 1 || out[i] > most)
			return err_set(e, "%s: %s[%zu] must be a whole number from 1 to %lld", what, key, i,
				       (long long)most);
	}
	return 0;
}

void sizes_write(const void *conf, const struct size_field *table, json_t *o)
{
	for (const struct size_field *f = table; f->key; f++) {
		int64_t v;

		memcpy(&v, (const char *)conf + f->offset, sizeof v);
		json_object_set_new(o, f->key, json_integer(v));
	}
}
