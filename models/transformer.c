#include "models/transformer.h"
#include "models/family.h"
#include "base/file.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>

const struct transformer_type *transformer_find(const char *class_name, const char *where, struct err *e)
{
	struct text known = { 0 };

	for (int i = 0; families[i]; i++) {
		if (!strcmp(families[i]->transformer->class_name, class_name))
			return families[i]->transformer;
		text_printf(&known, "%s%s", i ? ", " : "", families[i]->transformer->class_name);
	}
	err_set(e, "%s: transformer is of class '%s', which is unknown: there is %s", where, class_name,
		known.s);
	text_free(&known);
	return NULL;
}

const struct transformer_type *transformer_of(const char *dir, struct err *e)
{
	char *path = file_join(dir, "config.json");
	json_t *o = json_read(path, e);
	const char *name = NULL;
	const struct transformer_type *type = NULL;

	if (o && !json_get_str(&name, o, "_class_name", families[0]->transformer->class_name, path, e))
		type = transformer_find(name, path, e);
	json_decref(o);
	free(path);
	return type;
}

static int take(struct transformer *t, const struct transformer_type *type, void *m)
{
	t->type = type;
	t->m = m;
	t->net = type->net(m);
	t->facts = type->facts(m);
	return 0;
}

int transformer_open(struct transformer *t, const struct transformer_type *type, const char *dir,
		     enum at_dtype dt, enum at_device dev, struct err *e)
{
	void *m = NULL;

	*t = (struct transformer) { 0 };
	return type->open(&m, dir, dt, dev, e) ? -1 : take(t, type, m);
}

int transformer_describe(struct transformer *t, const struct transformer_type *type, const char *dir,
			 struct err *e)
{
	void *m = NULL;

	*t = (struct transformer) { 0 };
	return type->describe(&m, dir, e) ? -1 : take(t, type, m);
}

int transformer_make(struct transformer *t, const struct transformer_type *type, const json_t *config,
		     const char *what, uint64_t seed, struct err *e)
{
	void *m = NULL;

	*t = (struct transformer) { 0 };
	return type->make(&m, config, what, seed, e) ? -1 : take(t, type, m);
}

void transformer_close(struct transformer *t)
{
	if (t->type)
		t->type->close(t->m);
	*t = (struct transformer) { 0 };
}

int transformer_check_side(const struct transformer *t, int64_t side, const char *what, struct err *e)
{
	const struct transformer_facts *f = &t->facts;

	if (side < 1 || side % f->multiple || side > f->most_side)
		return err_set(e, "%s %lld: must be a multiple of %lld, at most %lld", what, (long long)side,
			       (long long)f->multiple, (long long)f->most_side);
	return 0;
}
