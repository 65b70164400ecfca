/*
 * exposition.h -- the newest numbers of a run as Prometheus' text format (0.0.4).
 *
 * Each number of metric_table.h is a gauge: "time/rollout" is contraflow_time_rollout_seconds, with the unit
 * at its end as that world has it (memory in bytes, shares as _ratio).  Numbers of a tag or a reward are one
 * gauge with a label ("eval/strict/colors" is contraflow_eval_strict_by_tag{tag="colors"}).  Histograms and
 * names that the table does not have are left out.
 */
#ifndef EXPOSITION_H
#define EXPOSITION_H
#include "base/text.h"
#include <stdint.h>

struct exposition;
struct exposition *exposition_new(const char *run);
void exposition_free(struct exposition *x); /* NULL is fine */
/* A row of metrics.jsonl: its numbers take the place of those before.  Any thread, as exposition_text. */
void exposition_row(struct exposition *x, const char *json, size_t n);
void exposition_text(struct exposition *x, struct text *out);

#define EXPOSITION_TYPE "text/plain; version=0.0.4; charset=utf-8"

#endif
