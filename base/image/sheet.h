/*
 * sheet.h -- images side by side with words beneath: what each is of, its score and what is wrong with it.
 *
 * Beneath an image stands its title, which `span` images in a row may share, and beneath that its note, in
 * green, red or grey.  Words are wrapped to the width there is; what is too long ends in dots.
 */
#ifndef SHEET_H
#define SHEET_H
#include "base/image.h"

enum sheet_verdict { SHEET_WRONG, SHEET_RIGHT, SHEET_NEITHER };
struct sheet_tile {
	const uint8_t *rgb;
	const char *title, *note; /* UTF-8, or NULL; the title is that of the first of a span */
	enum sheet_verdict verdict;
};
struct sheet {
	int w, h;                   /* of each image */
	int cols, span;             /* images a row, a multiple of span; those that share a title */
	int zoom;                   /* each pixel zoom x zoom */
	const char *const *heading; /* NULL, or of each of a span's images, above the first row */
};
/* n images; image_free the result. */
struct image sheet_draw(const struct sheet *s, const struct sheet_tile *tile, int n);
/* Where the images of such a picture begin, left and top. */
struct sheet_place {
	int x, y;
};
void sheet_places(const struct sheet *s, const struct sheet_tile *tile, int n, struct sheet_place *place);

#endif
