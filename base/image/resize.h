/* resize.h -- images made smaller or larger, to the very pixel as PIL's Image.resize does it (up to version
 * 12; 13 swaps the two passes where that is cheaper, which moves a level here and there). */
#ifndef RESIZE_H
#define RESIZE_H
#include <stdint.h>

/* Bicubic (a = -0.5) with the filter widened when it shrinks, 8 bits after each of the two passes: rows
 * first, then columns, coefficients in 22-bit fixed point.  Sizes above 0; free() the result, h x w x 3. */
uint8_t *resize_bicubic(const uint8_t *rgb, int w, int h, int to_w, int to_h);

/* A window of the image that would be to_w x to_h: its pixels, w x h of them from (x, y) on, all inside. Only
 * these are computed, from the rows they need: of a narrow image the rest may be millions. */
struct resize_window {
	int64_t to_w, to_h, x, y;
	int w, h;
};
uint8_t *resize_bicubic_window(const uint8_t *rgb, int w, int h, const struct resize_window *part);

#endif
