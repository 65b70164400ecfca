/* report_images.c -- the grids of a run, small enough for a page. */
#include "base/file.h"
#include "base/image.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/resize.h"
#include "commands/report/report.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_GRIDS = 48, FEWEST_GRIDS = 6, QUALITY = 82 };
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

/* How images lie in a grid. */
struct layout {
	int columns, gap, n;
};

/* The width or height of an image in `pixels`, of which `count` stand side by side between gaps; 0: that
 * cannot be. */
static int side(int pixels, int count, int gap)
{
	int room = pixels - (count + 1) * gap;

	return count > 0 && room > 0 && room % count == 0 ? room / count : 0;
}

struct size {
	int w, h;
};

static struct size image_side(const struct image *grid, const struct layout *l)
{
	int columns = l->n < l->columns ? l->n : l->columns, rows = (l->n + l->columns - 1) / l->columns;

	return (struct size) { side(grid->w, columns, l->gap), side(grid->h, rows, l->gap) };
}

static uint8_t *cut_out(const struct image *grid, struct size s, int x, int y)
{
	uint8_t *one = mem_zero((size_t)s.w * (size_t)s.h, 3);

	for (int row = 0; row < s.h; row++)
		memcpy(one + (size_t)row * (size_t)s.w * 3,
		       grid->rgb + ((size_t)(y + row) * (size_t)grid->w + (size_t)x) * 3, (size_t)s.w * 3);
	return one;
}

/* The grid with its images no larger than `most` on either side. */
static struct image shrink(const struct image *grid, const struct layout *l, struct size s, int most,
			   struct size *to)
{
	uint8_t **image = mem_zero((size_t)l->n, sizeof *image);
	double scale = (double)most / (s.w > s.h ? s.w : s.h);

	*to = scale < 1 ? (struct size) { (int)(s.w * scale + 0.5), (int)(s.h * scale + 0.5) } : s;
	to->w += to->w == 0;
	to->h += to->h == 0;
	for (int i = 0; i < l->n; i++) {
		uint8_t *one = cut_out(grid, s, l->gap + i % l->columns * (s.w + l->gap),
				       l->gap + i / l->columns * (s.h + l->gap));

		image[i] = resize_bicubic(one, s.w, s.h, to->w, to->h);
		free(one);
	}
	struct image small =
	    image_grid((const uint8_t *const *)image, l->n, to->w, to->h, l->columns, l->gap, 1);
	for (int i = 0; i < l->n; i++)
		free(image[i]);
	free(image);
	return small;
}

struct encoded {
	uint8_t *data;
	size_t n;
	struct size size;
	const char *type;
};

/* As a JPEG of `room` bytes, if that can be. */
static int as_jpeg(struct encoded *out, const struct image *grid, const struct layout *l, struct size s,
		   double room, struct err *e)
{
	static const int sizes[] = { 256, 192, 128, 96, 64 };
	int ret = 0;

	out->type = "jpeg";
	for (size_t i = 0; !ret && i < sizeof sizes / sizeof *sizes; i++) {
		struct image small = shrink(grid, l, s, sizes[i], &out->size);

		free(out->data);
		out->data = NULL;
		ret = image_jpeg(&out->data, &out->n, small.w, small.h, small.rgb, QUALITY, e);
		image_free(&small);
		if (!ret && (double)out->n <= room)
			break;
	}
	return ret;
}

/* The file itself where that is within `room`, which keeps every pixel. */
static int encode(struct encoded *out, const char *path, const struct layout *l, double room, struct err *e)
{
	struct image grid;
	char *file;
	size_t n;

	*out = (struct encoded) { .type = "png" };
	if (file_read(&file, &n, path, e))
		return -1;
	if (image_decode(&grid, file, n, path, e)) {
		free(file);
		return -1;
	}
	struct size s = image_side(&grid, l);
	int ret = s.w && s.h
		      ? 0
		      : err_set(e, "%s: %d x %d pixels are no grid of %d images", path, grid.w, grid.h, l->n);
	if (!ret && (double)n <= room) {
		out->data = (uint8_t *)file;
		out->n = n;
		out->size = s;
		file = NULL;
	} else if (!ret) {
		ret = as_jpeg(out, &grid, l, s, room, e);
	}
	image_free(&grid);
	free(file);
	return ret;
}

/* ---- Prompts and scores -------------------------------------------------------------------------- */

/* The file beside a grid, or NULL where no evaluation came with it. */
static json_t *scores_of(const char *dir, int64_t step)
{
	struct err why;
	char *path = path_of(dir, step, "json");
	json_t *j = file_exists(path) ? json_read(path, &why) : NULL;

	if (!j && file_exists(path))
		log_warn("%s", why.msg);
	free(path);
	return j;
}

/* From the first of those files; grids without any are one image each. */
static struct layout layout_of(const struct grids *g, const char *dir, json_t *prompts)
{
	struct layout l = { 1, 0, 1 };
	json_t *j = NULL, *image;
	size_t i;

	for (int k = 0; !j && k < g->n; k++)
		j = scores_of(dir, g->step[k]);
	const json_t *images = json_object_get(j, "images");
	json_int_t columns = json_integer_value(json_object_get(j, "columns")),
		   gap = json_integer_value(json_object_get(j, "gap"));
	if (json_array_size(images) && columns > 0 && columns < 1000 && gap >= 0 && gap < 1000) {
		l = (struct layout) { (int)columns, (int)gap, (int)json_array_size(images) };
		json_array_foreach(images, i, image) json_array_append_new(
		    prompts, json_pack("{s:O*, s:O*}", "prompt", json_object_get(image, "prompt"), "tag",
				       json_object_get(image, "tag")));
	}
	json_decref(j);
	return l;
}

static json_t *grid_json(const char *dir, int64_t step, const struct layout *l, double room)
{
	struct text data = { 0 };
	struct encoded image;
	struct err why;
	char *path = path_of(dir, step, "png");
	json_t *out = NULL, *scores = scores_of(dir, step);

	if (encode(&image, path, l, room, &why)) {
		log_warn("left out of the report: %s", why.msg);
	} else {
		text_base64(&data, image.data, image.n);
		out = json_pack("{s:I, s:s, s:s, s:i, s:i, s:O?}", "step", (json_int_t)step, "type",
				image.type, "data", data.s, "width", image.size.w, "height", image.size.h,
				"scores", json_object_get(scores, "images"));
	}
	text_free(&data);
	free(image.data);
	json_decref(scores);
	free(path);
	return out;
}

/* Bytes of all files. */
static double bytes_of(const struct grids *g, const char *dir)
{
	double sum = 0;

	for (int i = 0; i < g->n; i++) {
		char *path = path_of(dir, g->step[i], "png");
		struct err ignored;
		struct file_map m;

		if (!file_map(&m, path, &ignored)) {
			sum += (double)m.size;
			file_unmap(&m);
		}
		free(path);
	}
	return sum;
}

json_t *report_images(const char *run, double bytes)
{
	char *dir = file_join(run, "samples");
	json_t *prompts = json_array(), *list = json_array(), *out = NULL;
	struct grids g = { 0 };
	double room = bytes * 3 / 4; /* of what becomes base64 */

	find(&g, dir);
	thin(&g, MOST_GRIDS);
	if (g.n) {
		struct layout l = layout_of(&g, dir, prompts);

		if (bytes_of(&g, dir) > room) {
			double fit = room / (IMAGE_BYTES * (double)(l.n > 1 ? l.n : 36));

			thin(&g, fit > FEWEST_GRIDS ? (int)fit : FEWEST_GRIDS);
			room /= g.n;
		}
		for (int i = 0; i < g.n; i++) {
			json_t *one = grid_json(dir, g.step[i], &l, room);

			if (one)
				json_array_append_new(list, one);
		}
		out = json_pack("{s:i, s:i, s:i, s:O, s:O}", "columns", l.columns, "gap", l.gap, "n", l.n,
				"prompts", prompts, "grids", list);
	}
	json_decref(prompts);
	json_decref(list);
	free(g.step);
	free(dir);
	return out ? out : json_null();
}
