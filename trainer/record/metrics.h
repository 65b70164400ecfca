/*
 * metrics.h -- what is measured: one JSON object a line in metrics.jsonl (rows.h says which there are), and
 * the same as TensorBoard scalars.
 */
#ifndef METRICS_H
#define METRICS_H
#include "base/err.h"
#include "trainer/record/tensorboard.h"
#include <stdbool.h>
#include <stdint.h>

struct metrics;
/* DIR/metrics.jsonl, opened for appending after lines beyond `step` and beyond the first `rows` (a killed
 * run's) are cut off, all or none of them; rows -1: beyond `step` alone.  Event files in DIR/tensorboard when
 * asked for, which hold what the lines do. */
int metrics_open(struct metrics **m, const char *dir, int64_t step, int64_t rows, bool tensorboard,
		 struct err *e);
/* Without files: lines are taken by metrics_take alone. */
struct metrics *metrics_new(void);
/* What metrics_write would write, without the end of its line; free(). */
char *metrics_take(struct metrics *m, int64_t step);
void metrics_close(struct metrics *m); /* NULL is fine; what could not be written is lost */
/* Gets every row from now on, when it is made: JSON without a line's end, n bytes; NULL: nobody does. */
void metrics_listen(struct metrics *m, void (*row)(void *ctx, const char *json, size_t n), void *ctx);
/* Into the step that is being collected; the line keeps the order of the calls.  A name once a step. */
void metrics_add(struct metrics *m, const char *name, double v);
/* The same of many values: {"low": least, "high": greatest, "counts": [of METRICS_BUCKETS equal buckets
 * between]}; what is not finite is left out, and null stands where nothing else is.  In the line alone:
 * event files have histograms of their own. */
#define METRICS_BUCKETS 24
void metrics_add_counts(struct metrics *m, const char *name, const double *v, int64_t n);
/* The line {"step": 7, "loss/policy": 0.5, ...} in one write, what is not finite as null, then its events,
 * and a fresh start.  What cannot be written is kept for metrics_flush, which tries again. */
int metrics_write(struct metrics *m, int64_t step, struct err *e);
int metrics_flush(struct metrics *m, struct err *e);
int64_t metrics_rows(const struct metrics *m);              /* lines that are there */
struct tensorboard *metrics_tensorboard(struct metrics *m); /* NULL when off */

#endif
