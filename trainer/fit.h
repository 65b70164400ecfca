/*
 * fit.h -- how large a piece of work may be so that it fits into memory, found by running it.
 *
 * What work takes is about a line over its size.  Two small runs tell how large a third may be, at most four
 * times the second, and so on: a line drawn a little too low is found out before it does harm.
 */
#ifndef FIT_H
#define FIT_H
#include "base/err.h"
#include <stdint.h>

struct fit_work {
	double (*bytes)(void *ctx, int64_t n); /* runs it at size n: what was taken at the peak */
	void *ctx;
	double base;  /* taken at size 0 */
	double slope; /* what a unit may take, whatever small runs take; 0: only they tell */
	double limit;
	int64_t most; /* larger is not needed */
};
/* The largest size that ran within the limit, in [1, most], and its peak; 0 when size 1 takes more. */
int64_t fit_search(const struct fit_work *w, double *bytes);

/* Batches of equal sizes, as many as n items in batches of `most` make: the largest of them. */
int64_t fit_even(int64_t n, int64_t most);

/* "0.8": a share of what is left, in (0, 1]; "600MiB", "2.5GiB": so many bytes.  The other is 0. */
int fit_parse_memory(double *share, double *bytes, const char *text, struct err *e);

#endif
