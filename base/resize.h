/* resize.h -- images made smaller or larger, to the very pixel as PIL's Image.resize does it (up to version
 * 12; 13 swaps the two passes where that is cheaper, which moves a level here and there). */
#ifndef RESIZE_H
#define RESIZE_H
#include <stdint.h>

/* Bicubic (a = -0.5) with the filter widened when it shrinks, 8 bits after each of the two passes: rows
 * first, then columns, coefficients in 22-bit fixed point.  Sizes above 0; free() the result, h x w x 3. */
uint8_t *resize_bicubic(const uint8_t *rgb, int w, int h, int to_w, int to_h);

#endif
