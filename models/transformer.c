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

int transformer_lay_out(struct transformer *t, const struct transformer_type *type, const json_t *config,
			const char *what, struct err *e)
{
	*t = (struct transformer) { 0 };
	if (type->lay_out(&t->m, config, what, e)) {
		*t = (struct transformer) { 0 };
		return -1;
	}
	t->type = type;
	t->net = type->net(t->m);
	t->facts = type->facts(t->m);
	return 0;
}

int transformer_describe(struct transformer *t, const struct transformer_type *type, const char *dir,
			 struct err *e)
{
	char *path = file_join(dir, "config.json");
	json_t *o = json_read(path, e);
	int ret = o ? transformer_lay_out(t, type, o, path, e) : -1;

	if (!o)
		*t = (struct transformer) { 0 };
	json_decref(o);
	free(path);
	return ret;
}

int transformer_open(struct transformer *t, const struct transformer_type *type, const char *dir,
		     enum at_dtype dt, enum at_device dev, struct err *e)
{
	if (transformer_describe(t, type, dir, e))
		return -1;
	if (nn_load_dir(t->net, dir, NN_DIFFUSERS, NULL, dt, dev, e)) {
		transformer_close(t);
		return -1;
	}
	return 0;
}

int transformer_make(struct transformer *t, const struct transformer_type *type, const json_t *config,
		     const char *what, uint64_t seed, struct err *e)
{
	if (transformer_lay_out(t, type, config, what, e))
		return -1;
	nn_init(t->net, seed);
	if (type->start)
		type->start(t->m);
	return 0;
}

static int write_config(const struct transformer *t, const char *path, struct err *e)
{
	json_t *o = t->type->config(t->m);
	int ret;

	json_object_set_new(o, "_class_name", json_string(t->type->class_name));
	ret = json_write(path, o, e);
	json_decref(o);
	return ret;
}

int transformer_save(const struct transformer *t, const struct lora_merged *merged, const char *dir,
		     enum at_dtype dt, struct err *e)
{
	char *config = file_join(dir, "config.json"), *weights = file_join(dir, NN_WEIGHTS);
	int ret = file_mkdirs(dir, e) || write_config(t, config, e) || nn_save(t->net, merged, weights, dt, e)
		      ? -1
		      : 0;

	free(config);
	free(weights);
	return ret;
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
