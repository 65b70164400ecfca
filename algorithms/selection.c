#include "algorithms/selection.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>

struct candidate {
	double total;
	int64_t i;
};

/* Best first; of equals the first drawn; those without a score last. */
static int by_total(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (isnan(x->total) != isnan(y->total))
		return isnan(x->total) ? 1 : -1;
	if (!isnan(x->total) && (x->total < y->total || x->total > y->total))
		return x->total < y->total ? 1 : -1;
	return (x->i > y->i) - (x->i < y->i);
}

static int rising(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

void selection_best_worst(const double *total, int64_t drawn, int64_t keep, int64_t *out)
{
	struct candidate *c = mem_zero((size_t)drawn, sizeof *c);
	int64_t scored = 0, n = 0, best = (keep + 1) / 2;

	for (int64_t i = 0; i < drawn; i++) {
		c[i] = (struct candidate) { total[i], i };
		scored += !isnan(total[i]);
	}
	qsort(c, (size_t)drawn, sizeof *c, by_total);
	if (scored <= keep) {
		for (; n < keep; n++)
			out[n] = c[n].i;
	} else {
		int64_t worst = keep - best, from = scored - worst, first = from, last = from;

		for (; n < best; n++)
			out[n] = c[n].i;
		/* Where the least of the worst half's totals begins among equals, the first drawn of them
		 * count.
		 */
		while (worst && first > best && !(c[first - 1].total > c[from].total))
			first--;
		while (last < scored && !(c[from].total > c[last].total))
			last++;
		for (int64_t k = 0; k < last - from; k++)
			out[n++] = c[first + k].i;
		for (int64_t k = last; k < scored; k++)
			out[n++] = c[k].i;
	}
	qsort(out, (size_t)keep, sizeof *out, rising);
	free(c);
}
