#include "trainer/live/sparkline.h"
#include "base/mem.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define HEIGHTS 8

static const char *const blocks[HEIGHTS] = { "\u2581", "\u2582", "\u2583", "\u2584",
					     "\u2585", "\u2586", "\u2587", "\u2588" };
static const char *const letters[HEIGHTS] = { "_", ".", "-", ":", "=", "+", "*", "#" };

/* The mean of what is finite; NAN: nothing is. */
static double mean_of(const double *v, int n)
{
	double mean = 0;
	int count = 0;

	for (int i = 0; i < n; i++)
		if (isfinite(v[i])) { /* never a sum, which may overflow */
			count++;
			mean += v[i] / count - mean / count;
		}
	return count ? mean : NAN;
}

void sparkline(struct text *out, const double *v, int n, int width, bool utf8)
{
	int m = n < width ? n : width;
	double low = INFINITY, high = -INFINITY;
	double *mean = mem_zero((size_t)(m > 0 ? m : 0), sizeof *mean);

	for (int i = 0; i < m; i++) {
		int from = (int)((int64_t)n * i / m), to = (int)((int64_t)n * (i + 1) / m);

		mean[i] = mean_of(v + from, to - from);
		if (isfinite(mean[i])) {
			low = fmin(low, mean[i]);
			high = fmax(high, mean[i]);
		}
	}
	for (int i = 0; i < m; i++) {
		double at = high > low ? (mean[i] / 2 - low / 2) / (high / 2 - low / 2) : 0;

		if (isfinite(mean[i]))
			text_add(out,
				 (utf8 ? blocks : letters)[(int)fmin(fmax(at, 0) * HEIGHTS, HEIGHTS - 1)]);
		else
			text_add(out, " ");
	}
	free(mean);
}

void sparkline_bar(struct text *out, double share, int width, bool utf8)
{
	static const char *const eighths[HEIGHTS] = { " ",      "\u258f", "\u258e", "\u258d",
						      "\u258c", "\u258b", "\u258a", "\u2589" };
	double full = isfinite(share) ? fmin(fmax(share, 0), 1) * width : 0;

	for (int i = 0; i < width; i++) {
		double here = full - i;

		if (here >= 1)
			text_add(out, utf8 ? "\u2588" : "#");
		else if (here > 0 && utf8)
			text_add(out, eighths[(int)(here * HEIGHTS)]);
		else
			text_add(out, !utf8 && here >= 0.5 ? "#" : " ");
	}
}
