/*
 * shapes.h -- the shapes world: a text-to-image world small enough for two CPU cores.
 *
 * Images of `grid` x `grid` cells of `cell` pixels; objects sit in cells, anti-aliased, on a dark
 * background. Prompts carry GenEval's six tags and metadata in GenEval's own JSON form.  Everything is a
 * parameter of one table.
 */
#ifndef SHAPES_H
#define SHAPES_H
#include "base/conf/conf.h"
#include "base/rng.h"
#include "data/clauses.h"
#include <stdint.h>

#define SHAPES_MAX_OBJECTS 16
enum shape {
	SHAPE_CIRCLE,
	SHAPE_SQUARE,
	SHAPE_TRIANGLE,
	SHAPE_CROSS,
	SHAPE_WEDGE,
	SHAPE_RING,
	SHAPE_BAR,
	SHAPE_PILLAR,
	SHAPES
};
enum color { COLOR_RED, COLOR_GREEN, COLOR_BLUE, COLOR_YELLOW, COLOR_PURPLE, COLOR_WHITE, COLORS };
extern const char *const shape_names[SHAPES + 1], *const shape_plurals[SHAPES + 1],
						      *const color_names[COLORS + 1];
extern const double color_rgb[COLORS][3]; /* 0..1 */

struct shapes_conf {
	int64_t grid, cell;        /* 3, 8 */
	double half_min, half_max; /* half-size in pixels: 2.7, 3.15 */
	double margin;             /* pixels kept free at a cell's edge: 0.6 */
	double dark_min, dark_max; /* background grey: 0.02, 0.10 */
	int64_t count_max;         /* counting prompts ask for 2..count_max: 3 */
};
extern const struct field shapes_fields[];
/* What no single field can say: objects fit their cells, counts fit the grid. */
int shapes_check(const struct shapes_conf *c, struct err *e);

struct shapes_object {
	enum shape shape;
	enum color color;
	int cell;            /* row * grid + column */
	double cx, cy, half; /* pixels */
};
struct shapes_scene {
	int n;
	double dark;
	struct shapes_object object[SHAPES_MAX_OBJECTS];
};

/* A random scene that obeys the metadata (and holds nothing else); -1 with e set when no scene can. */
int shapes_scene(struct shapes_scene *s, const struct shapes_conf *c, const char *meta, struct rng *r,
		 struct err *e);
/* A relation whose subject is in the first half of the table of shapes and whose object in the second ("a
 * circle left of a ring"): 1; any other relation: -1; the metadata ask for no relation: 0. */
int shapes_order(const char *meta);
/* rgb: (grid * cell)^2 * 3 bytes; 4 x 4 samples a pixel. */
void shapes_render(const struct shapes_scene *s, const struct shapes_conf *c, uint8_t *rgb);
/* Half the width (0) and height (1) of a shape in units of its half-size. */
double shapes_extent(enum shape shape, int axis);
/* Its area in units of its half-size squared. */
double shapes_area(enum shape shape);
/* Coverage (0..1) of one shape of half-size `half` centred at (cx, cy) over w x h pixels: what renderer and
 * detector share. */
void shapes_coverage(enum shape shape, double cx, double cy, double half, int w, int h, float *out);

/* Writes DIR/train.jsonl, DIR/validation.jsonl and DIR/test.jsonl: every prompt of the world once, in the
 * file of its family (the prompts that show the same scenes), so that within a tag no scene is in two of
 * them.  The latter two are balanced over the six tags: the lines of rarer tags are repeated. */
int shapes_write_prompts(const struct shapes_conf *c, const char *dir, struct err *e);
/* Every word the prompts use, NULL-terminated, "<pad>" first; static. */
const char *const *shapes_words(void);

#endif
