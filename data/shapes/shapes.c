#include "data/shapes/shapes.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const shape_names[SHAPES + 1] = { "circle", "square", "triangle", "cross", "wedge",
					      "ring",   "bar",    "pillar",   NULL };
const char *const shape_plurals[SHAPES + 1] = { "circles", "squares", "triangles", "crosses", "wedges",
						"rings",   "bars",    "pillars",   NULL };
const char *const color_names[COLORS + 1] = { "red", "green", "blue", "yellow", "purple", "white", NULL };
const double color_rgb[COLORS][3] = { { 0.92, 0.15, 0.15 }, { 0.15, 0.80, 0.20 }, { 0.15, 0.25, 0.95 },
				      { 0.95, 0.88, 0.15 }, { 0.65, 0.15, 0.85 }, { 0.95, 0.95, 0.95 } };

const struct field shapes_fields[] = {
	FIELD(struct shapes_conf, grid, .init = "3", .min = 2, .max = 16, .unit = "cells",
	      .doc = "Cells along each side of an image"),
	FIELD(struct shapes_conf, cell, .init = "8", .min = 4, .max = 64, .unit = "pixels",
	      .doc = "Side of a cell; an image has grid x cell pixels a side"),
	FIELD(struct shapes_conf, half_min, .init = "2.7", .min = 1, .max = 32, .unit = "pixels",
	      .doc = "Smallest half-size of an object"),
	FIELD(struct shapes_conf, half_max, .init = "3.15", .min = 1, .max = 32, .unit = "pixels",
	      .doc = "Largest half-size of an object; with the margin it must fit half a cell"),
	FIELD(struct shapes_conf, margin, .init = "0.6", .min = 0.001, .max = 16, .unit = "pixels",
	      .doc = "Kept free at each edge of a cell, so that neighbours do not touch"),
	FIELD(struct shapes_conf, dark_min, .init = "0.02", .min = 0, .max = 0.4,
	      .doc = "Darkest grey of the background"),
	FIELD(struct shapes_conf, dark_max, .init = "0.10", .min = 0, .max = 0.4,
	      .doc = "Lightest grey of the background"),
	FIELD(struct shapes_conf, count_max, .init = "3", .min = 2, .max = 9,
	      .doc = "Counting prompts ask for 2 up to this many objects"),
	FIELD_END
};

enum {
	MOST_CLAUSES = 16,
	SAMPLES = 4,   /* anti-aliasing, each way */
	TRIES = 20000, /* placements before a scene is called impossible; the hardest of the world's own takes
			  ~10 */
};
#define CLEARLY                                                                                              \
	0.56 /* a relation holds from 0.5 on: a scene that is shown as an example keeps clear of that */

int shapes_check(const struct shapes_conf *c, struct err *e)
{
	if (c->half_min > c->half_max)
		return err_set(e, "half_min = %g is above half_max = %g", c->half_min, c->half_max);
	if (c->half_max + c->margin > 0.5 * (double)c->cell)
		return err_set(e, "half_max + margin = %g does not fit half a cell (%g pixels)",
			       c->half_max + c->margin, 0.5 * (double)c->cell);
	if (c->dark_min > c->dark_max)
		return err_set(e, "dark_min = %g is above dark_max = %g", c->dark_min, c->dark_max);
	if (c->count_max > c->grid * c->grid || c->count_max > SHAPES_MAX_OBJECTS)
		return err_set(e, "count_max = %lld: a grid of %lld x %lld has no room",
			       (long long)c->count_max, (long long)c->grid, (long long)c->grid);
	return 0;
}

/* All in units of the half-size.  The square is drawn a little smaller, nearer to the others' area. */
#define SQUARE 0.92
#define ARM    0.36 /* of the cross: half its width */
#define HOLE   0.38 /* of the ring: its radius */
#define SLIM   0.5  /* of bar and pillar: half their thickness */

double shapes_extent(enum shape shape, int axis)
{
	if (shape == SHAPE_SQUARE)
		return SQUARE;
	return shape == (axis ? SHAPE_BAR : SHAPE_PILLAR) ? SLIM : 1.0;
}

double shapes_area(enum shape shape)
{
	static const double area[SHAPES] = {
		[SHAPE_CIRCLE] = M_PI,  [SHAPE_SQUARE] = 4 * SQUARE * SQUARE,
		[SHAPE_TRIANGLE] = 2,   [SHAPE_CROSS] = 8 * ARM - 4 * ARM * ARM,
		[SHAPE_WEDGE] = 2,      [SHAPE_RING] = M_PI * (1 - HOLE * HOLE),
		[SHAPE_BAR] = 4 * SLIM, [SHAPE_PILLAR] = 4 * SLIM,
	};

	return area[shape];
}

/* ---- what the metadata ask for ---- */

struct want {
	enum shape shape;
	int count, color, relation, target; /* color, relation: -1 when not asked for */
	int first;                          /* index of its first object in the scene */
};

static int find_name(int *out, const char *const *names, const char *name, const char *what, struct err *e)
{
	*out = text_index(name, names);
	if (*out >= 0)
		return 0;
	const char *near = text_nearest(name, names);
	return err_set(e, "the shapes world has no %s '%s'%s%s%s", what, name, near ? " (did you mean '" : "",
		       near ? near : "", near ? "'?)" : "");
}

static int make_want(struct want *w, const struct clause *c, struct err *e)
{
	int shape;

	*w = (struct want) { .count = c->count, .color = -1, .relation = c->relation, .target = c->target };
	if (find_name(&shape, shape_names, c->class_name, "class", e) ||
	    (c->color && find_name(&w->color, color_names, c->color, "color", e)))
		return -1;
	if (c->count > SHAPES_MAX_OBJECTS)
		return err_set(e, "count = %d: wanted 1 to %d", c->count, SHAPES_MAX_OBJECTS);
	w->shape = (enum shape)shape;
	return 0;
}

/* `exclude` against what is wanted. */
static int check_excluded(const struct want *want, int n, const json_t *meta, struct err *e)
{
	struct clause clause[MOST_CLAUSES];
	struct want no;
	int excludes;

	if (clauses_read(clause, MOST_CLAUSES, &excludes, meta, "exclude", e))
		return -1;
	for (int i = 0; i < excludes; i++) {
		if (make_want(&no, &clause[i], e))
			return err_in(e, "exclude[%d]", i);
		for (int k = 0; k < n; k++)
			if (want[k].shape == no.shape && want[k].count >= no.count)
				return err_set(e, "exclude[%d] forbids what include[%d] asks for", i, k);
	}
	return 0;
}

/* How many objects in all, of n clauses; -1 on error. */
static int read_wants(struct want *want, int *n, const json_t *meta, struct err *e)
{
	struct clause clause[MOST_CLAUSES];
	int objects = 0;

	if (clauses_read(clause, MOST_CLAUSES, n, meta, "include", e))
		return -1;
	if (*n < 1 || *n > SHAPES)
		return err_set(e, "include: wanted 1 to %d clauses, got %d", SHAPES, *n);
	for (int i = 0; i < *n; i++) {
		if (make_want(&want[i], &clause[i], e))
			return err_in(e, "include[%d]", i);
		for (int k = 0; k < i; k++)
			if (want[k].shape == want[i].shape)
				return err_set(e, "include[%d]: %s is in include[%d] already", i,
					       shape_names[want[i].shape], k);
		want[i].first = objects;
		objects += want[i].count;
	}
	return check_excluded(want, *n, meta, e) ? -1 : objects;
}

int shapes_order(const char *meta)
{
	struct want want[SHAPES];
	struct err ignored;
	json_t *o = json_parse(meta, strlen(meta), "metadata", &ignored);
	int n, order = 0;

	if (o && read_wants(want, &n, o, &ignored) >= 0)
		for (int i = 0; i < n; i++)
			if (want[i].relation >= 0)
				order = want[i].shape < SHAPES / 2 && want[want[i].target].shape >= SHAPES / 2
					    ? 1
					    : -1;
	json_decref(o);
	return order;
}

/* ---- scenes ---- */

/* GenEval's relative position (rewards/geneval/geneval.h) on exact geometry, kept clear of the limit. */
static bool holds(int relation, const struct shapes_object *a, const struct shapes_object *b)
{
	double dx = a->cx - b->cx, dy = a->cy - b->cy, norm = hypot(dx, dy);
	int axis = relation >= 2;
	double slack =
	    0.2 * (a->half * shapes_extent(a->shape, axis) + b->half * shapes_extent(b->shape, axis));
	double along = axis ? dy : dx, sign = relation % 2 ? 1 : -1;

	return (sign * along - slack) / norm > CLEARLY;
}

static bool relations_hold(const struct shapes_scene *s, const struct want *want, int n)
{
	for (int k = 0; k < n; k++) {
		const struct want *w = &want[k], *t = &want[w->target];
		for (int i = 0; w->relation >= 0 && i < w->count; i++)
			for (int j = 0; j < t->count; j++)
				if (!holds(w->relation, &s->object[w->first + i], &s->object[t->first + j]))
					return false;
	}
	return true;
}

static void place(struct shapes_scene *s, const struct shapes_conf *c, const struct want *want, int n,
		  struct rng *r)
{
	int cells[16 * 16], total = (int)(c->grid * c->grid), used = 0;
	double cell = (double)c->cell;

	for (int i = 0; i < total; i++)
		cells[i] = i;
	for (int k = 0; k < n; k++) {
		for (int i = 0; i < want[k].count; i++, used++) {
			struct shapes_object *o = &s->object[used];
			int j = used + (int)rng_below(r, (uint32_t)(total - used));
			o->cell = cells[j];
			cells[j] = cells[used];
			o->shape = want[k].shape;
			o->color =
			    (enum color)(want[k].color < 0 ? (int)rng_below(r, COLORS) : want[k].color);
			o->half = c->half_min + (c->half_max - c->half_min) * rng_uniform(r);
			double play = 0.5 * cell - c->margin - o->half;
			o->cx = cell * ((double)(o->cell % c->grid) + 0.5) + (2 * rng_uniform(r) - 1) * play;
			o->cy = cell * ((double)(o->cell / c->grid) + 0.5) + (2 * rng_uniform(r) - 1) * play;
		}
	}
}

int shapes_scene(struct shapes_scene *s, const struct shapes_conf *c, const char *meta, struct rng *r,
		 struct err *e)
{
	struct want want[SHAPES];
	json_t *o = NULL;
	int n, objects, ret = -1;

	*s = (struct shapes_scene) { 0 };
	if (shapes_check(c, e) || !(o = json_parse(meta, strlen(meta), "metadata", e)))
		return -1;
	objects = read_wants(want, &n, o, e);
	if (objects < 0)
		goto out;
	if (objects > SHAPES_MAX_OBJECTS || objects > c->grid * c->grid) {
		err_set(e, "%d objects do not fit a grid of %lld x %lld (at most %d)", objects,
			(long long)c->grid, (long long)c->grid, SHAPES_MAX_OBJECTS);
		goto out;
	}
	s->n = objects;
	s->dark = c->dark_min + (c->dark_max - c->dark_min) * rng_uniform(r);
	for (int i = 0; i < TRIES && ret; i++) {
		place(s, c, want, n, r);
		if (relations_hold(s, want, n))
			ret = 0;
	}
	if (ret)
		err_set(e, "no scene has these positions (%d placements tried)", TRIES);
out:
	json_decref(o);
	return ret;
}

/* ---- images ---- */

static bool inside(enum shape shape, double x, double y, double h)
{
	double ax = fabs(x), ay = fabs(y), arm = ARM * h, side = SQUARE * h, slim = SLIM * h, hole = HOLE * h;

	switch (shape) {
	case SHAPE_WEDGE: /* the triangle upside down */
		return ay <= h && ax <= 0.5 * (h - y);
	case SHAPE_RING:
		return x * x + y * y <= h * h && x * x + y * y >= hole * hole;
	case SHAPE_BAR:
		return ax <= h && ay <= slim;
	case SHAPE_PILLAR:
		return ax <= slim && ay <= h;
	case SHAPE_CIRCLE:
		return x * x + y * y <= h * h;
	case SHAPE_SQUARE:
		return ax <= side && ay <= side;
	case SHAPE_TRIANGLE: /* point up, as wide as it is high */
		return ay <= h && ax <= 0.5 * (y + h);
	default:
		return (ax <= arm && ay <= h) || (ay <= arm && ax <= h);
	}
}

void shapes_coverage(enum shape shape, double cx, double cy, double half, int w, int h, float *out)
{
	int x0 = (int)fmax(0, floor(cx - half)), x1 = (int)fmin(w, ceil(cx + half));
	int y0 = (int)fmax(0, floor(cy - half)), y1 = (int)fmin(h, ceil(cy + half));

	memset(out, 0, (size_t)w * (size_t)h * sizeof *out);
	for (int y = y0; y < y1; y++) {
		for (int x = x0; x < x1; x++) {
			int hits = 0;
			for (int i = 0; i < SAMPLES * SAMPLES; i++)
				hits += inside(shape, x + (i % SAMPLES + 0.5) / SAMPLES - cx,
					       y + (i / SAMPLES + 0.5) / SAMPLES - cy, half);
			out[y * w + x] = (float)hits / (SAMPLES * SAMPLES);
		}
	}
}

void shapes_render(const struct shapes_scene *s, const struct shapes_conf *c, uint8_t *rgb)
{
	int side = (int)(c->grid * c->cell);
	size_t n = (size_t)side * (size_t)side;
	float *canvas = mem_alloc(3 * n * sizeof *canvas), *cover = mem_alloc(n * sizeof *cover);

	for (size_t i = 0; i < 3 * n; i++)
		canvas[i] = (float)s->dark;
	for (int k = 0; k < s->n; k++) {
		const struct shapes_object *o = &s->object[k];
		shapes_coverage(o->shape, o->cx, o->cy, o->half, side, side, cover);
		for (size_t i = 0; i < 3 * n; i++)
			canvas[i] += ((float)color_rgb[o->color][i % 3] - canvas[i]) * cover[i / 3];
	}
	for (size_t i = 0; i < 3 * n; i++)
		rgb[i] = (uint8_t)(255 * canvas[i] + 0.5f);
	free(canvas);
	free(cover);
}
