/*
 * metrics.h -- what is measured each step: one JSON object a line in metrics.jsonl, and the same as
 * TensorBoard scalars.
 */
#ifndef METRICS_H
#define METRICS_H
#include "base/err.h"
#include "trainer/tensorboard.h"
#include <stdbool.h>
#include <stdint.h>

struct metrics;
/* DIR/metrics.jsonl, opened for appending after lines beyond `step` (a killed run's) are cut off; event files
 * in DIR/tensorboard when asked for. */
int metrics_open(struct metrics **m, const char *dir, int64_t step, bool tensorboard, struct err *e);
void metrics_close(struct metrics *m);                             /* NULL is fine */
void metrics_add(struct metrics *m, const char *name, double v);   /* into the step that is being collected */
int metrics_write(struct metrics *m, int64_t step, struct err *e); /* the line, and a fresh start */
struct tensorboard *metrics_tensorboard(struct metrics *m);        /* NULL when off */

#endif
