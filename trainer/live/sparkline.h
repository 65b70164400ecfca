/* sparkline.h -- numbers as one line of characters. */
#ifndef SPARKLINE_H
#define SPARKLINE_H
#include "base/text.h"
#include <stdbool.h>

/* v[0..n) as at most `width` characters, the first the oldest: eight heights from the least to the greatest
 * of what is shown, the means of neighbours where there are more than fit, and a blank where nothing is
 * finite.  Numbers that are all alike lie at the bottom. */
void sparkline(struct text *out, const double *v, int n, int width, bool utf8);
/* A bar of `width` characters, filled from the left by a share of it; the rest are blanks. */
void sparkline_bar(struct text *out, double share, int width, bool utf8);

#endif
