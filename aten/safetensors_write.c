/* safetensors_write.c -- the other half of safetensors.h: tensors into a file, or into memory. */
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>

static const char *st_dtype_name(enum at_dtype dt)
{
	static const char *const names[] = {
		[AT_F32] = "F32", [AT_F64] = "F64", [AT_F16] = "F16", [AT_BF16] = "BF16",
		[AT_I64] = "I64", [AT_I32] = "I32", [AT_U8] = "U8",   [AT_BOOL] = "BOOL"
	};

	return names[dt];
}

/* ---- Writing ---------------------------------------------------------------------------------------- */

static int item_order(const void *a, const void *b)
{
	const struct st_item *x = *(const struct st_item *const *)a, *y = *(const struct st_item *const *)b;
	size_t sx = at_dtype_size(at_dtype_of(x->t)), sy = at_dtype_size(at_dtype_of(y->t));
	/* Widest dtype first keeps every tensor aligned. */
	return sx != sy ? (sx > sy ? -1 : 1) : strcmp(x->name, y->name);
}

/* A string that JSON cannot hold (it is not UTF-8) must not vanish from the file without a word. */
static int set_string(json_t *o, const char *key, const char *value, struct err *e)
{
	json_t *v = json_string(value);

	if (!v)
		return err_set(e, "metadata '%s' is not text in UTF-8", key);
	if (json_object_set_new(o, key, v))
		return err_set(e, "a metadata key is not text in UTF-8");
	return 0;
}

static int add_item(json_t *root, const struct st_item *item, size_t *at, struct err *e)
{
	enum at_dtype dt = at_dtype_of(item->t);
	struct at_dims s = at_shape(item->t);
	size_t end = *at + (size_t)at_numel(item->t) * at_dtype_size(dt);
	json_t *shape = json_array(), *x;

	for (int k = 0; k < s.n; k++)
		json_array_append_new(shape, json_integer(s.d[k]));
	x = json_pack("{s:s, s:o, s:[I, I]}", "dtype", st_dtype_name(dt), "shape", shape, "data_offsets",
		      (json_int_t)*at, (json_int_t)end);
	*at = end;
	if (json_object_get(root, item->name) || !strcmp(item->name, "__metadata__")) {
		json_decref(x);
		return strcmp(item->name, "__metadata__")
			   ? err_set(e, "there cannot be two tensors '%s'", item->name)
			   : err_set(e, "a tensor cannot be named __metadata__");
	}
	if (json_object_set_new(root, item->name, x))
		return err_set(e, "the name of a tensor is not text in UTF-8");
	return 0;
}

/* The header's JSON; free() it. NULL when the items do not make a file. */
static char *make_header(const struct st_item **order, int n, const struct st_meta_item *meta, int n_meta,
			 struct err *e)
{
	json_t *root = json_object(), *m = json_object();
	char *text = NULL;
	size_t at = 0;
	int ret = 0;

	for (int i = 0; i < n_meta && !ret; i++)
		ret = set_string(m, meta[i].key, meta[i].value, e);
	if (n_meta)
		json_object_set(root, "__metadata__", m);
	for (int i = 0; i < n && !ret; i++)
		ret = add_item(root, order[i], &at, e);
	if (!ret)
		text = json_dumps(root, JSON_COMPACT);
	if (text && strlen(text) > ST_HEADER_MAX) {
		err_set(e, "the header would have %zu bytes; at most %u are read back", strlen(text),
			ST_HEADER_MAX);
		free(text);
		text = NULL;
	}
	json_decref(m);
	json_decref(root);
	return text;
}

/* Hands the file's bytes to put() piece by piece; an error is about the items, put() keeps its own. */
static int emit(int (*put)(void *ctx, const void *p, size_t n), void *ctx, const struct st_item *items, int n,
		const struct st_meta_item *meta, int n_meta, struct err *e)
{
	const struct st_item **order = mem_zero((size_t)n + 1, sizeof *order);
	uint8_t length[8];
	int stop;

	for (int i = 0; i < n; i++)
		order[i] = &items[i];
	qsort(order, (size_t)n, sizeof *order, item_order);
	char *header = make_header(order, n, meta, n_meta, e);
	if (!header) {
		free(order);
		return -1;
	}
	size_t size = strlen(header), padded = (size + 7) / 8 * 8;
	for (int i = 0; i < 8; i++)
		length[i] = (uint8_t)(padded >> (8 * i));
	stop = put(ctx, length, 8) || put(ctx, header, size) || put(ctx, "        ", padded - size);
	for (int i = 0; i < n && !stop; i++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		at_t t = at_contiguous(at_to(at_detach(order[i]->t), at_dtype_of(order[i]->t), AT_CPU));
		if (at_numel(t))
			stop = put(ctx, at_data(t), (size_t)at_numel(t) * at_dtype_size(at_dtype_of(t)));
		at_end(s);
	}
	free(header);
	free(order);
	return 0;
}

static int put_file(void *ctx, const void *p, size_t n)
{
	return fwrite(p, 1, n, ctx) != n;
}

static int put_text(void *ctx, const void *p, size_t n)
{
	text_add_bytes(ctx, p, n);
	return 0;
}

int st_write(const char *path, const struct st_item *items, int n, const struct st_meta_item *meta,
	     int n_meta, struct err *e)
{
	struct file_writer w;

	if (file_begin(&w, path, e))
		return -1;
	if (emit(put_file, w.f, items, n, meta, n_meta, e)) {
		file_drop(&w);
		return err_in(e, "%s", path);
	}
	return file_commit(&w, e); /* a short write shows in the stream's error flag */
}

int st_write_bytes(char **data, size_t *size, const struct st_item *items, int n,
		   const struct st_meta_item *meta, int n_meta, struct err *e)
{
	struct text t = { 0 };

	if (emit(put_text, &t, items, n, meta, n_meta, e)) {
		text_free(&t);
		return -1;
	}
	*data = t.s;
	*size = t.n;
	return 0;
}
