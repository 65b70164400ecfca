/*
 * image.h -- 8-bit RGB pictures: PNG and JPEG in and out (libpng, libjpeg-turbo), and grids of them.
 * Pixels are H x W x 3, rows from the top, tightly packed.
 */
#ifndef IMAGE_H
#define IMAGE_H
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

struct image {
	int w, h;
	uint8_t *rgb; /* free() through image_free */
};

void image_free(struct image *im);
int image_read(
    struct image *im, const char *path,
    struct err *e); /* PNG or JPEG by content; grey and alpha become RGB (over black); at most 64 Mpixel */
int image_write_png(const char *path, int w, int h, const uint8_t *rgb, struct err *e); /* atomic */
int image_png(uint8_t **out, size_t *size, int w, int h, const uint8_t *rgb,
	      struct err *e); /* in memory; free() */
int image_jpeg_size(size_t *bytes, int w, int h, const uint8_t *rgb, int quality,
		    struct err *e); /* 4:2:0 as PIL writes */

/* n pictures of w x h, `cols` a row, `gap` grey pixels between, each enlarged `zoom` times (nearest).
 * image_free the result. */
struct image image_grid(const uint8_t *const *rgb, int n, int w, int h, int cols, int gap, int zoom);

#endif
