/* report_images.c -- the grids of a run, small enough for a page. */
#include "base/file.h"
#include "base/image.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/image/resize.h"
#include "commands/report/report.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_GRIDS = 48, FEWEST_GRIDS = 6, MOST_IMAGES = 4096, COLUMNS = 8, QUALITY = 82 };
/* Bytes of an image at a size at which it can still be judged. */
#define IMAGE_BYTES 4000

struct grids {
	int64_t *step;
	int n, cap;
};

static int by_step(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void find(struct grids *g, const char *dir)
{
	DIR *d = opendir(dir);

	for (struct dirent *x; d && (x = readdir(d));) {
		long long step;
		int end = 0;

		if (sscanf(x->d_name, "step-%lld.png%n", &step, &end) == 1 && end && !x->d_name[end])
			MEM_PUSH(g->step, g->n, g->cap) = step;
	}
	if (d)
		closedir(d);
	if (g->n)
		qsort(g->step, (size_t)g->n, sizeof *g->step, by_step);
}

/* At most `most`, evenly spread, the first and the last among them. */
static void thin(struct grids *g, int most)
{
	if (g->n <= most)
		return;
	for (int i = 0; i < most; i++)
		g->step[i] = g->step[(int64_t)i * (g->n - 1) / (most - 1)];
	g->n = most;
}

static char *path_of(const char *dir, int64_t step, const char *ending)
{
	return mem_printf("%s/step-%06lld.%s", dir, (long long)step, ending);
}

/* ---- One grid ------------------------------------------------------------------------------------- */

/* The images of a grid, each by itself, w x h. */
struct tiles {
	uint8_t **rgb;
	int n, w, h;
	json_t *said; /* what the file beside the grid tells, or NULL */
};

static void tiles_free(struct tiles *t)
{
	for (int i = 0; i < t->n; i++)
		free(t->rgb[i]);
	free(t->rgb);
	json_decref(t->said);
	*t = (struct tiles) { 0 };
}

static int number(const json_t *j, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(j, key));

	return v >= 0 && v <= 65536 ? (int)v : 0;
}

/* Every zoom-th pixel of what begins at (x, y): the image as it was before it was enlarged. */
static uint8_t *cut_out(const struct image *grid, int x, int y, int w, int h, int zoom)
{
	uint8_t *one = mem_zero((size_t)w * (size_t)h, 3);

	for (int row = 0; row < h; row++)
		for (int at = 0; at < w; at++)
			memcpy(one + 3 * ((size_t)row * (size_t)w + (size_t)at),
			       grid->rgb +
				   3 * ((size_t)(y + row * zoom) * (size_t)grid->w + (size_t)(x + at * zoom)),
			       3);
	return one;
}

static int cut(struct tiles *t, const struct image *grid, const char *path, struct err *e)
{
	const json_t *images = json_object_get(t->said, "images");
	int zoom = number(t->said, "zoom"), n = (int)json_array_size(images);

	zoom = zoom ? zoom : 1;
	t->w = number(t->said, "width") / zoom;
	t->h = number(t->said, "height") / zoom;
	if (!t->w || !t->h || n < 1 || n > MOST_IMAGES)
		return err_set(e, "%s: the file beside it does not say where its images are", path);
	t->rgb = mem_zero((size_t)n, sizeof *t->rgb);
	for (; t->n < n; t->n++) {
		const json_t *one = json_array_get(images, (size_t)t->n);
		int x = number(one, "x"), y = number(one, "y");

		if (x + t->w * zoom > grid->w || y + t->h * zoom > grid->h)
			return err_set(e, "%s: image %d would be outside of it", path, t->n + 1);
		t->rgb[t->n] = cut_out(grid, x, y, t->w, t->h, zoom);
	}
	return 0;
}

/* A grid with no file beside it, of an earlier version, is one image. */
static int read_grid(struct tiles *t, const char *dir, int64_t step, struct err *e)
{
	char *image = path_of(dir, step, "png"), *words = path_of(dir, step, "json");
	struct image grid = { 0 };
	int ret = image_read(&grid, image, e);

	*t = (struct tiles) { 0 };
	if (!ret && !file_exists(words)) {
		*t = (struct tiles) { .rgb = mem_zero(1, sizeof *t->rgb), .n = 1, .w = grid.w, .h = grid.h };
		t->rgb[0] = grid.rgb;
		grid.rgb = NULL;
	} else if (!ret) {
		t->said = json_read(words, e);
		ret = t->said ? cut(t, &grid, image, e) : -1;
	}
	if (ret)
		tiles_free(t);
	image_free(&grid);
	free(image);
	free(words);
	return ret;
}

/* ---- Small enough ---------------------------------------------------------------------------------- */

struct encoded {
	uint8_t *data;
	size_t n;
	int w, h; /* of an image */
	const char *type;
};

static struct image join(uint8_t *const *rgb, int n, int w, int h)
{
	return image_grid((const uint8_t *const *)rgb, n, w, h, COLUMNS, 0, 1);
}

/* With images no larger than `most` on either side. */
static struct image shrink(const struct tiles *t, int most, struct encoded *size)
{
	double scale = (double)most / (t->w > t->h ? t->w : t->h);
	uint8_t **small = mem_zero((size_t)t->n, sizeof *small);

	scale = scale < 1 ? scale : 1;
	size->w = (int)(t->w * scale + 0.5);
	size->h = (int)(t->h * scale + 0.5);
	size->w += size->w == 0;
	size->h += size->h == 0;
	for (int i = 0; i < t->n; i++)
		small[i] = resize_bicubic(t->rgb[i], t->w, t->h, size->w, size->h);
	struct image all = join(small, t->n, size->w, size->h);
	for (int i = 0; i < t->n; i++)
		free(small[i]);
	free(small);
	return all;
}

static int as_jpeg(struct encoded *out, const struct tiles *t, double room, struct err *e)
{
	static const int sizes[] = { 256, 192, 128, 96, 64 };
	int whole = t->n == 1 ? 4 : 1; /* a grid that is one image is made of small ones */
	int ret = 0;

	out->type = "jpeg";
	for (size_t i = 0; !ret && i < sizeof sizes / sizeof *sizes; i++) {
		struct image small = shrink(t, sizes[i] * whole, out);

		free(out->data);
		out->data = NULL;
		ret = image_jpeg(&out->data, &out->n, small.w, small.h, small.rgb, QUALITY, e);
		image_free(&small);
		if (!ret && (double)out->n <= room)
			break;
	}
	return ret;
}

/* Photographs do not become smaller than a third of their bytes without a loss. */
static bool may_be_whole(const struct tiles *t, double room)
{
	return (double)t->n * t->w * t->h <= room;
}

/* Every pixel where that fits, else as a JPEG. */
static int encode(struct encoded *out, const struct tiles *t, double room, struct err *e)
{
	*out = (struct encoded) { .type = "png", .w = t->w, .h = t->h };
	if (may_be_whole(t, room)) {
		struct image all = join(t->rgb, t->n, t->w, t->h);
		int ret = image_png(&out->data, &out->n, all.w, all.h, all.rgb, e);

		image_free(&all);
		if (ret || (double)out->n <= room)
			return ret;
		free(out->data);
		out->data = NULL;
	}
	return as_jpeg(out, t, room, e);
}

/* ---- All ------------------------------------------------------------------------------------------- */

static void put_prompts(json_t *prompts, const struct tiles *t)
{
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(t->said, "images"), i, one)
	    json_array_append_new(prompts, json_pack("{s:O*, s:O*}", "prompt", json_object_get(one, "prompt"),
						     "tag", json_object_get(one, "tag")));
}

/* What was said of each image; the prompts are once in the page. */
static json_t *scores_of(const struct tiles *t)
{
	json_t *scores = json_array(), *one;
	size_t i;

	json_array_foreach(json_object_get(t->said, "images"), i, one) json_array_append_new(
	    scores, json_pack("{s:O*, s:O*, s:O*, s:O*}", "reward", json_object_get(one, "reward"), "strict",
			      json_object_get(one, "strict"), "rewards", json_object_get(one, "rewards"),
			      "why", json_object_get(one, "why")));
	return scores;
}

static json_t *grid_json(const struct tiles *t, int64_t step, double room, struct err *e)
{
	struct text data = { 0 };
	struct encoded image;
	json_t *out = NULL;

	if (!encode(&image, t, room, e)) {
		text_base64(&data, image.data, image.n);
		out =
		    json_pack("{s:I, s:s, s:s, s:i, s:i, s:o}", "step", (json_int_t)step, "type", image.type,
			      "data", data.s, "width", image.w, "height", image.h, "scores", scores_of(t));
	}
	text_free(&data);
	free(image.data);
	return out;
}

/* How many of the n grids there is room for, at a size at which they can be judged. */
static int fitting(const char *dir, const struct grids *g, double room)
{
	struct err ignored;
	struct tiles t;

	if (read_grid(&t, dir, g->step[g->n - 1], &ignored))
		return g->n;
	double fit = room / (IMAGE_BYTES * (double)(t.n > 1 ? t.n : 36));
	bool whole = may_be_whole(&t, room / g->n);
	tiles_free(&t);
	return whole || fit > g->n ? g->n : fit > FEWEST_GRIDS ? (int)fit : FEWEST_GRIDS;
}

/* One after the other, those of as many images of the same prompts as the first one. */
static void add_grids(json_t *list, json_t *prompts, const char *dir, const struct grids *g, double room,
		      int *n)
{
	for (int i = 0; i < g->n; i++) {
		struct err why;
		struct tiles t;
		json_t *one = NULL;

		if (!read_grid(&t, dir, g->step[i], &why)) {
			*n = *n ? *n : t.n;
			if (t.n != *n)
				err_set(&why, "%s: step %lld has %d images, and others have %d", dir,
					(long long)g->step[i], t.n, *n);
			else
				one = grid_json(&t, g->step[i], room, &why);
			if (one && !json_array_size(prompts))
				put_prompts(prompts, &t);
			tiles_free(&t);
		}
		if (one)
			json_array_append_new(list, one);
		else
			log_warn("left out of the report: %s", why.msg);
	}
}

json_t *report_images(const char *run, double bytes)
{
	char *dir = file_join(run, "samples");
	json_t *prompts = json_array(), *list = json_array(), *out = NULL;
	double room = bytes * 3 / 4; /* of what becomes base64 */
	struct grids g = { 0 };
	int n = 0;

	find(&g, dir);
	thin(&g, MOST_GRIDS);
	if (g.n) {
		thin(&g, fitting(dir, &g, room));
		add_grids(list, prompts, dir, &g, room / g.n, &n);
		out = json_pack("{s:i, s:i, s:O, s:O}", "columns", COLUMNS, "n", n, "prompts", prompts,
				"grids", list);
	}
	json_decref(prompts);
	json_decref(list);
	free(g.step);
	free(dir);
	return out ? out : json_null();
}
