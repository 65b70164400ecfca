/*
 * interval.h -- 95 % intervals of means over images that share prompts.
 *
 * Images of one prompt are alike, so what was drawn independently of each other is prompts: they are what is
 * drawn again here (a cluster bootstrap within strata, seeded by nothing but itself: the same numbers give
 * the same interval).  Of a stratum's P prompts P - 1 are drawn, which makes the spread of the means that of
 * means of P without bias, and the distances from the mean are widened by Student's t over the normal's
 * quantile, with Welch's degrees of freedom: a few prompts say less about their own spread.
 *
 * Where all images of a stratum are right, or none is, drawing again shows no spread: such a stratum counts
 * with Wilson's interval over its prompts.  Distances of strata add as squares (MOVER, Zou and Donner 2008).
 */
#ifndef INTERVAL_H
#define INTERVAL_H
#include <stdint.h>

/* A prompt's images that have the number: their sum, and how many; n > 0. */
struct cluster {
	double sum, n;
};
struct stratum {
	const struct cluster *v;
	int64_t n; /* > 0 */
};
struct interval {
	double low, high; /* NAN: a single prompt of a number without bounds says nothing of others */
};

/*
 * Of the mean over strata of the mean over a stratum's images.  Where every image's number is a whole one
 * from `least` to `most` (0 and 1: right or wrong; -1 and 1: the difference of two such), these say so, and
 * the interval stays between them; else both are 0.  Strata of one prompt each count as one stratum.
 */
struct interval interval_of(const struct stratum *s, int64_t strata, double least, double most);

#endif
