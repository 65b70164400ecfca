#include "rewards/judges/request.h"
#include "base/image.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MOST_VALUES 1000 /* JSON values an item: a byte of an array takes thirty in memory */

void request_release(struct request *r)
{
	for (int i = 0; i < r->n; i++) {
		free((uint8_t *)(uintptr_t)r->item[i].rgb);
		free((char *)(uintptr_t)r->item[i].meta);
	}
	free(r->item);
	json_decref(r->body);
	*r = (struct request) { 0 };
}

/* No more values than so many items can have any use for.  Every value but the first stands behind one of
 * "[{,:"; those within strings do not count. */
static int check_values(const char *body, size_t size, const struct request_limits *l, struct err *e)
{
	int64_t most = (int64_t)MOST_VALUES * (l->items + 1), n = 0;
	bool quoted = false;

	for (size_t i = 0; i < size && n <= most; i++)
		if (body[i] == '"')
			quoted = !quoted;
		else if (quoted)
			i += body[i] == '\\';
		else
			n += body[i] == '[' || body[i] == '{' || body[i] == ',' || body[i] == ':';
	return n <= most ? 0 : err_set(e, "the request has more than %lld JSON values", (long long)most);
}

static int check_envelope(const json_t *body, const struct request_limits *l, struct err *e)
{
	const json_t *version = json_object_get(body, "version"), *items = json_object_get(body, "items");

	if (!json_is_object(body))
		return err_set(e, "the request is not an object");
	if (!json_is_integer(version))
		return err_set(e, "version: is required, an integer");
	if (json_integer_value(version) != REQUEST_VERSION)
		return err_set(e, "version: %lld is not supported, only %d",
			       (long long)json_integer_value(version), REQUEST_VERSION);
	if (!json_is_array(items))
		return err_set(e, "items: is required, a list");
	if (json_array_size(items) > (size_t)l->items)
		return err_set(e, "items: %zu are too many, a request may have %d", json_array_size(items),
			       l->items);
	return 0;
}

/* Prompt and metadata. */
static int read_texts(struct reward_item *item, const json_t *o, struct err *e)
{
	const json_t *meta = json_object_get(o, "meta");

	if (!json_is_object(o))
		return err_set(e, "must be an object");
	item->prompt = json_string_value(json_object_get(o, "prompt"));
	if (!item->prompt)
		return err_set(e, "prompt: is required, a string");
	if (meta && !json_is_null(meta) && !json_is_object(meta))
		return err_set(e, "meta: must be an object");
	item->meta = json_is_object(meta) ? json_dumps(meta, JSON_COMPACT) : mem_str("{}");
	return 0;
}

/* The file in base64, into `file`, and its size in pixels, which still is only what its header says. */
static int read_file(struct text *file, struct reward_item *item, const json_t *o,
		     const struct request_limits *l, int64_t *pixels, struct err *e)
{
	const json_t *image = json_object_get(o, "image");

	if (!json_is_string(image))
		return err_set(e, "image: is required, a PNG or JPEG in base64");
	if (!text_unbase64(file, json_string_value(image), json_string_length(image)))
		return err_set(e, "image: not base64 (RFC 4648, padded, in one line)");
	if (image_size(&item->w, &item->h, file->s, file->n, "image", e))
		return -1;
	if (item->w > l->side || item->h > l->side)
		return err_set(e, "image: %d x %d pixels, a side may have %d", item->w, item->h, l->side);
	*pixels += (int64_t)item->w * item->h;
	if (*pixels > l->pixels)
		return err_set(e, "image: with it the images have more than %lld pixels",
			       (long long)l->pixels);
	return 0;
}

static int decode(struct reward_item *item, const struct text *file, struct err *e)
{
	struct image im;

	if (image_decode(&im, file->s, file->n, "image", e))
		return -1;
	item->w = im.w;
	item->h = im.h;
	item->rgb = im.rgb;
	return 0;
}

int request_parse(struct request *r, const char *body, size_t size, const struct request_limits *l,
		  struct err *e)
{
	struct text *file = NULL;
	int64_t pixels = 0;
	int ret = -1, i;

	*r = (struct request) { 0 };
	if (check_values(body, size, l, e) || !(r->body = json_parse(body, size, "the request", e)) ||
	    check_envelope(r->body, l, e))
		goto out;
	const json_t *items = json_object_get(r->body, "items");
	r->n = (int)json_array_size(items);
	r->item = mem_zero((size_t)r->n, sizeof *r->item);
	file = mem_zero((size_t)r->n, sizeof *file);
	ret = 0;
	for (i = 0; i < r->n && !ret; i++) {
		const json_t *o = json_array_get(items, (size_t)i);

		if (read_texts(&r->item[i], o, e) || read_file(&file[i], &r->item[i], o, l, &pixels, e))
			ret = err_in(e, "items[%d]", i);
	}
	for (i = 0; i < r->n && !ret; i++) {
		if (decode(&r->item[i], &file[i], e))
			ret = err_in(e, "items[%d]", i);
		text_free(&file[i]);
	}
out:
	for (i = 0; i < r->n && file; i++)
		text_free(&file[i]);
	free(file);
	if (ret)
		request_release(r);
	return ret;
}
