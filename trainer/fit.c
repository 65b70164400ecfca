#include "trainer/fit.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GROWTH 4  /* a run is at most so many times the one that is known to fit */
#define RUNS   24 /* and there are no more of them */

int64_t fit_search(const struct fit_work *w, double *bytes)
{
	double first = w->bytes(w->ctx, 1), good_bytes = first;
	double slope = w->slope > 0 ? w->slope : first - w->base;
	int64_t good = 1, end = w->most + 1; /* below this, none has failed */

	*bytes = first;
	if (first > w->limit)
		return 0;
	for (int run = 1; run < RUNS; run++) {
		double room = w->limit - good_bytes;
		int64_t next = GROWTH * good;

		if (slope > 0 && room / slope < (double)(next - good))
			next = good + (int64_t)floor(room / slope);
		if (next >= end)
			next = end - 1;
		if (next <= good)
			break;
		double took = w->bytes(w->ctx, next), step = (took - good_bytes) / (double)(next - good);
		if (took > w->limit) {
			end = next;
			slope = step;
			continue;
		}
		slope = fmax(fmax(step, (took - first) / (double)(next - 1)), w->slope);
		good = next;
		*bytes = good_bytes = took;
	}
	return good;
}

int64_t fit_even(int64_t n, int64_t most)
{
	int64_t batches = (n + most - 1) / most;

	return (n + batches - 1) / batches;
}

int fit_parse_memory(double *share, double *bytes, const char *text, struct err *e)
{
	static const struct {
		const char *name;
		double bytes;
	} unit[] = { { "KiB", 1024.0 }, { "MiB", 1048576.0 }, { "GiB", 1073741824.0 } };
	char *end;
	double x = strtod(text, &end);

	*share = *bytes = 0;
	if (end != text && isfinite(x) && x > 0 && !strpbrk(text, "xX+ ")) {
		if (!*end && x <= 1) {
			*share = x;
			return 0;
		}
		for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
			if (!strcmp(end, unit[i].name)) {
				*bytes = x * unit[i].bytes;
				return 0;
			}
	}
	return err_set(e, "'%s': must be a share of the free memory (0.9) or a size (600MiB, 2.5GiB)", text);
}
