#include "base/image/sheet.h"
#include "base/image/font.h"
#include "base/mem.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define NARROWEST   96  /* pixels that words need beneath an image, however small it is */
#define LARGE       384 /* an image of so many pixels has words twice as large, and so on */
#define GAP         4   /* between the images of a span */
#define SPAN_GAP    10  /* between spans, and at the edges */
#define NOTE_LINES  4
#define TITLE_LINES 5

static const uint8_t paper[3] = { 250, 250, 248 }, ink[3] = { 24, 24, 27 };
static const uint8_t colors[][3] = {
	[SHEET_WRONG] = { 176, 0, 32 }, [SHEET_RIGHT] = { 0, 110, 51 }, [SHEET_NEITHER] = { 90, 90, 96 }
};

/* ---- Words --------------------------------------------------------------------------------------- */

/* How many characters of s the next line of `most` has; *skip: with the spaces behind them. */
static size_t line_of(const char *s, size_t most, size_t *skip)
{
	size_t n = strlen(s), cut;

	if (n > most) {
		for (cut = most; cut && s[cut] != ' '; cut--)
			;
		n = cut ? cut : most; /* a word that is longer is broken */
	}
	*skip = n + strspn(s + n, " ");
	while (n && s[n - 1] == ' ')
		n--;
	return n;
}

/* Lines that `text` takes, at most `lines`; with `im`, drawn from (x, y) on. */
static int words(struct image *im, int x, int y, int width, int scale, int lines, const char *text,
		 const uint8_t rgb[3])
{
	size_t most = (size_t)(width / (FONT_WIDTH * scale)), n, skip;
	char *all = text ? font_text(text) : mem_str("");
	int line = 0;

	most = most ? most : 1;
	for (const char *s = all + strspn(all, " "); *s && line < lines; s += skip, line++) {
		n = line_of(s, most, &skip);
		if (!im)
			continue;
		bool last = line + 1 == lines && s[skip];
		size_t shown = last && n + 3 > most ? (most > 3 ? most - 3 : 0) : n;

		font_draw(im, x, y + line * FONT_HEIGHT * scale, scale, s, shown < n ? shown : n, rgb);
		if (last)
			font_draw(im, x + (int)(shown < n ? shown : n) * FONT_WIDTH * scale,
				  y + line * FONT_HEIGHT * scale, scale, "...", 3, rgb);
	}
	free(all);
	return line;
}

/* ---- Where everything is -------------------------------------------------------------------------- */

struct layout {
	const struct sheet *s;
	const struct sheet_tile *tile;
	int n, scale;
	int cell, image_h; /* a tile's width; an image's height */
};

static int left_of(const struct layout *l, int column)
{
	int spans = column / l->s->span;

	return SPAN_GAP + column * (l->cell + GAP) + spans * (SPAN_GAP - GAP);
}

static int span_width(const struct layout *l)
{
	return l->s->span * (l->cell + GAP) - GAP;
}

static int most(int a, int b)
{
	return a > b ? a : b;
}

/* Lines of notes, or of titles, that the row beginning with tile `first` needs. */
static int row_lines(const struct layout *l, int first, bool titles)
{
	int lines = 0;

	for (int i = first; i < first + l->s->cols && i < l->n; i++)
		if (!titles)
			lines = most(lines,
				     words(NULL, 0, 0, l->cell, l->scale, NOTE_LINES, l->tile[i].note, ink));
		else if (i % l->s->span == 0)
			lines = most(lines, words(NULL, 0, 0, span_width(l), l->scale, TITLE_LINES,
						  l->tile[i].title, ink));
	return lines;
}

static int line_height(const struct layout *l)
{
	return FONT_HEIGHT * l->scale;
}

static int row_height(const struct layout *l, int first)
{
	int lines = row_lines(l, first, false) + row_lines(l, first, true);

	return l->image_h + (lines ? GAP + lines * line_height(l) : 0) + SPAN_GAP;
}

static int top(const struct layout *l)
{
	return SPAN_GAP + (l->s->heading ? line_height(l) + GAP : 0);
}

/* An image stands in the middle of its cell. */
static int inset(const struct layout *l)
{
	return (l->cell - l->s->w * l->s->zoom) / 2;
}

static struct layout layout_of(const struct sheet *s, const struct sheet_tile *tile, int n)
{
	int scale = most(1, s->w * s->zoom / LARGE);

	return (struct layout) { .s = s,
				 .tile = tile,
				 .n = n,
				 .scale = scale,
				 .cell = most(s->w * s->zoom, NARROWEST * scale),
				 .image_h = s->h * s->zoom };
}

void sheet_places(const struct sheet *s, const struct sheet_tile *tile, int n, struct sheet_place *place)
{
	struct layout l = layout_of(s, tile, n);

	for (int i = 0, y = top(&l); i < n; y += row_height(&l, i), i += s->cols)
		for (int k = i; k < i + s->cols && k < n; k++)
			place[k] = (struct sheet_place) { left_of(&l, k - i) + inset(&l), y };
}

/* ---- Drawing ------------------------------------------------------------------------------------- */

static void put_image(struct image *im, const struct layout *l, int x0, int y0, const uint8_t *rgb)
{
	int zoom = l->s->zoom, w = l->s->w;

	x0 += inset(l);
	for (int y = 0; y < l->s->h * zoom; y++)
		for (int x = 0; x < w * zoom; x++)
			memcpy(im->rgb + 3 * ((size_t)(y0 + y) * (size_t)im->w + (size_t)(x0 + x)),
			       rgb + 3 * ((size_t)(y / zoom) * (size_t)w + (size_t)(x / zoom)), 3);
}

static void put_row(struct image *im, const struct layout *l, int first, int y)
{
	int titles = row_lines(l, first, true), below = y + l->image_h + GAP;

	for (int i = first; i < first + l->s->cols && i < l->n; i++) {
		const struct sheet_tile *t = &l->tile[i];
		int x = left_of(l, i - first);

		put_image(im, l, x, y, t->rgb);
		if (i % l->s->span == 0)
			words(im, x, below, span_width(l), l->scale, TITLE_LINES, t->title, ink);
		words(im, x, below + titles * line_height(l), l->cell, l->scale, NOTE_LINES, t->note,
		      colors[t->verdict]);
	}
}

struct image sheet_draw(const struct sheet *s, const struct sheet_tile *tile, int n)
{
	int columns = n < s->cols ? n : s->cols;
	struct layout l = layout_of(s, tile, n);
	struct image im = { .w = left_of(&l, columns - 1) + l.cell + SPAN_GAP, .h = top(&l) };

	for (int i = 0; i < n; i += s->cols)
		im.h += row_height(&l, i);
	im.rgb = mem_alloc((size_t)im.w * (size_t)im.h * 3);
	for (size_t i = 0; i < (size_t)im.w * (size_t)im.h; i++)
		memcpy(im.rgb + 3 * i, paper, 3);
	for (int i = 0; s->heading && i < columns; i++)
		words(&im, left_of(&l, i), SPAN_GAP, l.cell, l.scale, 1, s->heading[i % s->span], ink);
	for (int i = 0, y = top(&l); i < n; y += row_height(&l, i), i += s->cols)
		put_row(&im, &l, i, y);
	return im;
}
