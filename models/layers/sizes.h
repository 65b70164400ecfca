/* sizes.h -- the whole numbers of a config.json: a table of a struct's members, read, checked and written. */
#ifndef SIZES_H
#define SIZES_H
#include "base/json.h"
#include <stddef.h>

struct size_field {
	const char *key; /* NULL ends a table */
	size_t offset;   /* of an int64_t */
	int64_t absent;  /* where the file says nothing, or null */
	int64_t least, most;
};
#define SIZE_FIELD(type, member, default_, min, max)                                                         \
	{                                                                                                    \
		.key = #member, .offset = offsetof(type, member), .absent = (default_), .least = (min),      \
		.most = (max)                                                                                \
	}

/* `what` names the file in errors. */
int sizes_read(void *conf, const struct size_field *table, const json_t *o, const char *what, struct err *e);
/* A list of n whole numbers from 1 to `most`; where the file says nothing, or null, *out stays as it is. */
int sizes_read_list(int64_t *out, int n, const json_t *o, const char *key, int64_t most, const char *what,
		    struct err *e);
void sizes_write(const void *conf, const struct size_field *table, json_t *o);

#endif
