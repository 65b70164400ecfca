/*
 * detector_blobs.c -- finds the shapes world's objects by looking at pixels alone.
 *
 * Bright connected regions are blobs.  A blob's colour is the majority vote of its pixels; projected on that
 * colour and scaled between background and interior, the blob and its rim become a soft coverage, which is
 * compared with rendered templates of every shape near the size and the place that its area and centroid
 * suggest.  The best soft intersection over union names the shape.  What fits nothing well, such as two
 * objects grown together, is no object.
 */
#include "rewards/geneval/detector.h"
#include "base/mem.h"
#include "data/shapes/shapes.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SIZES = 46,      /* half-sizes from 1.7 in steps of 4 %, up to 9.9 pixels */
	SHIFTS = 4,      /* sub-pixel places, each way */
	SPECK = 6,       /* smaller regions are noise */
	SIDE_MAX = 26,   /* a blob and its rim; larger is no object */
	RIM = 2,         /* pixels around a blob that count as partly covered by it */
	BLOBS_MAX = 256, /* looked at in an image, in reading order */
};
#define HALF_MIN  1.7
#define HALF_STEP 1.04
#define ACCEPT    0.65 /* soft intersection over union */

/* Level of the brightest channel.  Half-covered pixels of two neighbours (0.525 for white on the lightest
 * ground) must stay below it. */
static const int bright = 140;

/* Coverage of a shape centred at (reach + shift / 4) in a square of side 2 reach + 1. */
struct stencil {
	float *cover, norm2;
};
struct templates {
	int reach[SIZES];
	float direction[COLORS][3];
	struct stencil of[SHAPES][SIZES][SHIFTS * SHIFTS];
};

static double half_of(int size)
{
	return HALF_MIN * pow(HALF_STEP, size);
}

static void make_stencil(struct stencil *t, enum shape shape, double half, int reach, int shift)
{
	int side = 2 * reach + 1;

	t->cover = mem_alloc((size_t)(side * side) * sizeof *t->cover);
	shapes_coverage(shape, reach + (double)(shift % SHIFTS) / SHIFTS,
			reach + (double)(shift / SHIFTS) / SHIFTS, half, side, side, t->cover);
	for (int i = 0; i < side * side; i++)
		t->norm2 += t->cover[i] * t->cover[i];
}

static int blobs_open(struct detector *d, const struct geneval_conf *conf, struct err *e)
{
	struct templates *t = mem_zero(1, sizeof *t);

	(void)conf;
	(void)e;
	for (int c = 0; c < COLORS; c++) {
		const double *rgb = color_rgb[c],
			     norm = sqrt(rgb[0] * rgb[0] + rgb[1] * rgb[1] + rgb[2] * rgb[2]);
		for (int i = 0; i < 3; i++)
			t->direction[c][i] = (float)(rgb[i] / norm);
	}
	for (int size = 0; size < SIZES; size++) {
		t->reach[size] = (int)ceil(half_of(size)) + 1;
		for (int s = 0; s < SHAPES; s++)
			for (int k = 0; k < SHIFTS * SHIFTS; k++)
				make_stencil(&t->of[s][size][k], (enum shape)s, half_of(size), t->reach[size],
					     k);
	}
	d->state = t;
	d->classes = shape_names;
	d->colors = color_names;
	return 0;
}

static void blobs_close(struct detector *d)
{
	struct templates *t = d->state;

	for (int s = 0; s < SHAPES; s++)
		for (int size = 0; size < SIZES; size++)
			for (int k = 0; k < SHIFTS * SHIFTS; k++)
				free(t->of[s][size][k].cover);
	free(t);
}

/* ---- regions ---- */

struct blob {
	int label, pixels, x0, y0, x1, y1; /* box, ends included */
};
struct scan {
	const struct templates *t;
	const uint8_t *rgb;
	int w, h;
	uint8_t *level; /* brightest channel */
	int *label;     /* 0: dark, -1: speck, else a blob */
	int *owner; /* the blob that a pixel counts for: its own or one at most RIM pixels away; else <= 0 */
	int *queue;
	float dark[3]; /* mean background, 0..1 */
};

/* Gives the bright region around a pixel (4-connected, not yet labelled) a label; its pixels are left in the
 * queue. */
static struct blob grow(struct scan *s, int start, int label)
{
	struct blob b = { label, 0, s->w, s->h, -1, -1 };

	s->label[start] = label;
	s->queue[b.pixels++] = start;
	for (int i = 0; i < b.pixels; i++) {
		int p = s->queue[i], x = p % s->w, y = p / s->w;
		const int near[4] = { x > 0 ? p - 1 : p, x + 1 < s->w ? p + 1 : p, y > 0 ? p - s->w : p,
				      y + 1 < s->h ? p + s->w : p };
		b.x0 = x < b.x0 ? x : b.x0, b.x1 = x > b.x1 ? x : b.x1;
		b.y0 = y < b.y0 ? y : b.y0, b.y1 = y > b.y1 ? y : b.y1;
		for (int k = 0; k < 4; k++) {
			if (s->label[near[k]] || s->level[near[k]] < bright)
				continue;
			s->label[near[k]] = label;
			s->queue[b.pixels++] = near[k];
		}
	}
	return b;
}

/* Labels every bright region: 1, 2, ... for blobs, -1 for specks and for what is too much. */
static int label_blobs(struct scan *s, struct blob *out)
{
	int n = 0;

	for (int p = 0; p < s->w * s->h; p++) {
		if (s->label[p] || s->level[p] < bright)
			continue;
		struct blob b = grow(s, p, n + 1);
		if (b.pixels >= SPECK && n < BLOBS_MAX) {
			out[n++] = b;
			continue;
		}
		for (int i = 0; i < b.pixels; i++)
			s->label[s->queue[i]] = -1;
	}
	return n;
}

static int owner_near(const struct scan *s, const int *owner, int p)
{
	int x = p % s->w, y = p / s->w;

	for (int j = y > 0 ? y - 1 : y; j <= y + 1 && j < s->h; j++)
		for (int i = x > 0 ? x - 1 : x; i <= x + 1 && i < s->w; i++)
			if (owner[j * s->w + i] > 0)
				return owner[j * s->w + i];
	return 0;
}

/* Gives each blob the pixels around it that no blob is nearer to. */
static void spread_owners(struct scan *s)
{
	size_t bytes = (size_t)s->w * (size_t)s->h * sizeof *s->owner;
	int *before = s->queue;

	memcpy(s->owner, s->label, bytes);
	for (int round = 0; round < RIM; round++) {
		memcpy(before, s->owner, bytes);
		for (int p = 0; p < s->w * s->h; p++)
			if (before[p] <= 0)
				s->owner[p] = owner_near(s, before, p);
	}
}

/* ---- one blob ---- */

struct fit {
	enum shape shape;
	enum color color;
	double cx, cy, half, iou;
};

/* A blob and its rim of one pixel as coverage: w x h from (x0, y0) of the image. */
struct patch {
	int x0, y0, w, h;
	float cover[SIDE_MAX * SIDE_MAX];
};

static float project(const uint8_t *rgb, const float *direction)
{
	return (rgb[0] * direction[0] + rgb[1] * direction[1] + rgb[2] * direction[2]) / 255;
}

/* Majority of the blob's own pixels, which are all more than half covered. */
static enum color vote(const struct scan *s, const struct blob *b)
{
	int votes[COLORS] = { 0 }, winner = 0;

	for (int y = b->y0; y <= b->y1; y++) {
		for (int x = b->x0; x <= b->x1; x++) {
			int p = y * s->w + x, best = 0;
			float top = -1;
			if (s->label[p] != b->label)
				continue;
			for (int c = 0; c < COLORS; c++) {
				float along = project(s->rgb + 3 * p, s->t->direction[c]);
				if (along > top)
					top = along, best = c;
			}
			votes[best]++;
		}
	}
	for (int c = 1; c < COLORS; c++)
		if (votes[c] > votes[winner])
			winner = c;
	return (enum color)winner;
}

/* Brightness of a fully covered pixel: the mean of those whose neighbours belong to the blob too, or where
 * there are fewer than three, of the pixels not below the blob's mean. */
static float interior(const struct scan *s, const struct blob *b, const float *direction)
{
	float sum[3] = { 0 };
	int n[3] = { 0 };

	for (int pass = 0; pass < 2; pass++) {
		for (int y = b->y0; y <= b->y1; y++) {
			for (int x = b->x0; x <= b->x1; x++) {
				int p = y * s->w + x;
				if (s->label[p] != b->label)
					continue;
				float v = project(s->rgb + 3 * p, direction);
				bool in = x > b->x0 && x < b->x1 && y > b->y0 && y < b->y1 &&
					  s->label[p - 1] == b->label && s->label[p + 1] == b->label &&
					  s->label[p - s->w] == b->label && s->label[p + s->w] == b->label;
				int k = pass ? 2 : in;
				if (pass && v * (float)(n[0] + n[1]) < 0.999f * (sum[0] + sum[1]))
					continue;
				sum[k] += v;
				n[k]++;
			}
		}
		if (n[1] >= 3)
			return sum[1] / (float)n[1];
	}
	return sum[2] / (float)n[2];
}

/* False when the blob does not stand out from the background or is too large for an object. */
static bool make_patch(struct patch *out, const struct scan *s, const struct blob *b, enum color color)
{
	const float *d = s->t->direction[color];
	float low = s->dark[0] * d[0] + s->dark[1] * d[1] + s->dark[2] * d[2];
	float range;

	out->x0 = b->x0 > RIM ? b->x0 - RIM : 0;
	out->y0 = b->y0 > RIM ? b->y0 - RIM : 0;
	out->w = (b->x1 + RIM < s->w ? b->x1 + RIM + 1 : s->w) - out->x0;
	out->h = (b->y1 + RIM < s->h ? b->y1 + RIM + 1 : s->h) - out->y0;
	if (out->w > SIDE_MAX || out->h > SIDE_MAX || (range = interior(s, b, d) - low) < 0.1f)
		return false;
	for (int y = 0; y < out->h; y++) {
		for (int x = 0; x < out->w; x++) {
			int px = out->x0 + x, py = out->y0 + y;
			float v = 0;
			if (s->owner[py * s->w + px] == b->label)
				v = (project(s->rgb + 3 * (py * s->w + px), d) - low) / range;
			out->cover[y * out->w + x] = v < 0 ? 0 : v > 1 ? 1 : v;
		}
	}
	return true;
}

/* Soft intersection over union of the patch and a template whose square begins at (x, y) of the patch. */
static double overlap(const struct patch *a, double norm2, const struct stencil *t, int side, int x, int y)
{
	int x0 = x > 0 ? x : 0, x1 = x + side < a->w ? x + side : a->w;
	int y0 = y > 0 ? y : 0, y1 = y + side < a->h ? y + side : a->h;
	float dot = 0;

	for (int j = y0; j < y1; j++) {
		const float *u = a->cover + j * a->w, *v = t->cover + (j - y) * side - x;
		for (int i = x0; i < x1; i++)
			dot += u[i] * v[i];
	}
	return dot / (norm2 + (double)t->norm2 - dot);
}

/* The best size and place of one shape, looked for around those with the patch's area and centroid. */
static void search(struct fit *best, const struct templates *t, const struct patch *a, enum shape shape,
		   const double moment[4])
{
	double half = sqrt(moment[0] / shapes_area(shape)),
	       sink = (shape == SHAPE_TRIANGLE) - (shape == SHAPE_WEDGE);
	int about = (int)lround(log(half / HALF_MIN) / log(HALF_STEP));
	int qx = (int)lround(SHIFTS * moment[1]), qy = (int)lround(SHIFTS * (moment[2] - sink * half / 3));

	for (int size = about < 2 ? 0 : about - 2; size <= about + 2 && size < SIZES; size++) {
		int reach = t->reach[size], side = 2 * reach + 1;
		for (int k = 0; k < 9; k++) {
			int x = qx + k % 3 - 1 + SHIFTS * SIDE_MAX, y = qy + k / 3 - 1 + SHIFTS * SIDE_MAX;
			int shift = y % SHIFTS * SHIFTS + x % SHIFTS;
			int left = x / SHIFTS - SIDE_MAX, top = y / SHIFTS - SIDE_MAX;
			double iou = overlap(a, moment[3], &t->of[shape][size][shift], side, left - reach,
					     top - reach);
			if (iou <= best->iou)
				continue;
			best->shape = shape;
			best->half = half_of(size);
			best->cx = a->x0 + left + (double)(x % SHIFTS) / SHIFTS;
			best->cy = a->y0 + top + (double)(y % SHIFTS) / SHIFTS;
			best->iou = iou;
		}
	}
}

static struct fit examine(const struct scan *s, const struct blob *b)
{
	struct fit best = { .iou = 0 };
	struct patch a;
	double moment[4] = { 0 }; /* area, centroid, sum of squares */

	best.color = vote(s, b);
	if (!make_patch(&a, s, b, best.color))
		return best;
	for (int i = 0; i < a.w * a.h; i++) {
		double v = (double)a.cover[i];
		moment[0] += v;
		moment[1] += v * (i % a.w + 0.5);
		moment[2] += v * (i / a.w + 0.5);
		moment[3] += v * v;
	}
	if (moment[0] <= 0)
		return best;
	moment[1] /= moment[0];
	moment[2] /= moment[0];
	for (int shape = 0; shape < SHAPES; shape++)
		search(&best, s->t, &a, (enum shape)shape, moment);
	return best;
}

/* ---- one image ---- */

struct found {
	struct fit v[BLOBS_MAX];
	int n;
};

static void find_objects(struct found *out, struct scan *s)
{
	struct blob blob[BLOBS_MAX];
	double sum[3] = { 0 };
	int dark = 0, n;

	for (int p = 0; p < s->w * s->h; p++) {
		const uint8_t *v = s->rgb + 3 * p;
		uint8_t top = v[0] > v[1] ? v[0] : v[1];
		s->level[p] = v[2] > top ? v[2] : top;
		if (s->level[p] >= bright)
			continue;
		for (int i = 0; i < 3; i++)
			sum[i] += v[i];
		dark++;
	}
	for (int i = 0; i < 3; i++)
		s->dark[i] = dark ? (float)(sum[i] / dark / 255) : 0;
	n = label_blobs(s, blob);
	spread_owners(s);
	out->n = 0;
	for (int i = 0; i < n; i++) {
		struct fit f = examine(s, &blob[i]);
		if (f.iou >= ACCEPT)
			out->v[out->n++] = f;
	}
}

static int better(const void *a, const void *b)
{
	const struct geneval_object *x = a, *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	/* Equal scores: by place, so that the order does not depend on qsort. */
	return memcmp(x->box, y->box, sizeof x->box);
}

static void look(const struct templates *t, const uint8_t *rgb, int w, int h, struct detection *out)
{
	size_t pixels = (size_t)w * (size_t)h;
	struct scan s = { .t = t, .rgb = rgb, .w = w, .h = h };
	struct found found;

	if (w < 1 || h < 1 || pixels > 1 << 26) {
		snprintf(out->why, sizeof out->why,
			 "the detector blobs cannot search an image of %d x %d pixels", w, h);
		return;
	}
	s.level = mem_alloc(pixels);
	s.label = mem_zero(pixels, sizeof *s.label);
	s.owner = mem_alloc(pixels * sizeof *s.owner);
	s.queue = mem_alloc(pixels * sizeof *s.queue);
	find_objects(&found, &s);
	out->v = mem_alloc((size_t)found.n * sizeof *out->v);
	out->n = found.n;
	for (int i = 0; i < found.n; i++) {
		const struct fit *f = &found.v[i];
		double rx = f->half * shapes_extent(f->shape, 0), ry = f->half * shapes_extent(f->shape, 1);
		out->v[i] = (struct geneval_object) { shape_names[f->shape],
						      color_names[f->color],
						      { f->cx - rx, f->cy - ry, f->cx + rx, f->cy + ry },
						      f->iou,
						      i };
	}
	qsort(out->v, (size_t)found.n, sizeof *out->v, better);
	free(s.level);
	free(s.label);
	free(s.owner);
	free(s.queue);
}

static int blobs_detect(struct detector *d, const struct reward_item *item, json_t *const *meta, int n,
			struct detection *out, struct err *e)
{
	(void)meta;
	(void)e;
	for (int i = 0; i < n; i++)
		look(d->state, item[i].rgb, item[i].w, item[i].h, &out[i]);
	return 0;
}

const struct detector_type detector_blobs = {
	.name = "blobs",
	.doc = "Bright connected regions of the shapes world",
	.open = blobs_open,
	.detect = blobs_detect,
	.close = blobs_close,
};
