/*
 * selection.h -- which of the images that were drawn for a prompt are trained (Sol-RL, arXiv 2604.06916).
 */
#ifndef SELECTION_H
#define SELECTION_H
#include <stdint.h>

/*
 * keep of `drawn` images, 0 < keep <= drawn: the (keep + 1) / 2 best by total and the keep / 2 worst, of
 * equal ones those that were drawn first.  Totals that are NAN are taken when the others do not suffice.
 * out[keep] rises.
 */
void selection_best_worst(const double *total, int64_t drawn, int64_t keep, int64_t *out);

#endif
