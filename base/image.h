/*
 * image.h -- 8-bit RGB images: PNG and JPEG in and out (libpng, libjpeg-turbo), and grids of them.
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
/* PNG or JPEG by content, at most 64 Mpixel, turned as EXIF's orientation says (as PIL's exif_transpose does
 * it). Samples as they are, whatever a file says of gamma or colour spaces: grey three times, 16 bits without
 * their lower half, alpha dropped, CMYK as Adobe writes it, inverted (as PIL's convert("RGB"), but for grey
 * of 16 bits, which PIL clips). */
int image_read(struct image *im, const char *path, struct err *e);
int image_decode(struct image *im, const void *data, size_t size, const char *name, struct err *e);
/* Width and height, of the image upright, from the header alone: nothing is decompressed. */
int image_size(int *w, int *h, const void *data, size_t size, const char *name, struct err *e);
int image_write_png(const char *path, int w, int h, const uint8_t *rgb, struct err *e); /* atomic */
int image_png(uint8_t **out, size_t *size, int w, int h, const uint8_t *rgb,
	      struct err *e); /* in memory; free() */
/* What a PNG says of itself: chunks of text, UTF-8, which PIL has in Image.text.  The last of a list has no
 * key; keys are ASCII of at most 79 characters. */
struct image_note {
	const char *key;
	char *text;
};
int image_write_png_noted(const char *path, int w, int h, const uint8_t *rgb, const struct image_note *note,
			  struct err *e);
int image_png_noted(uint8_t **out, size_t *size, int w, int h, const uint8_t *rgb,
		    const struct image_note *note, struct err *e);
int image_jpeg(uint8_t **out, size_t *size, int w, int h, const uint8_t *rgb, int quality,
	       struct err *e); /* likewise; 4:2:0, quality 1 .. 100, the same pixels as PIL's */

/* n images of w x h, `cols` a row, `gap` grey pixels between, each enlarged `zoom` times (nearest).
 * image_free the result. */
struct image image_grid(const uint8_t *const *rgb, int n, int w, int h, int cols, int gap, int zoom);

#endif
