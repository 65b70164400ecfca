/* font.h -- words in an image: one small face of fixed width, drawn for this program. */
#ifndef FONT_H
#define FONT_H
#include "base/image.h"
#include <stdbool.h>

#define FONT_WIDTH  6  /* pixels from a character to the next */
#define FONT_HEIGHT 11 /* from a line to the next */

/* A text as it can be drawn, a byte a character: letters lose their accents, typographic quotes and dashes
 * become ASCII's, white space a space, and what has no such likeness is a box (0x7f).  free(). */
char *font_text(const char *utf8);
/* n characters of such a text from the pixel (x, y), their upper left, `scale` times as large; what lies
 * outside of the image is cut off. */
void font_draw(struct image *im, int x, int y, int scale, const char *s, size_t n, const uint8_t rgb[3]);

#endif
