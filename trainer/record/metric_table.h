/*
 * metric_table.h -- what each number of metrics.jsonl means: the one place that the report, TensorBoard's
 * descriptions and docs/metrics.md read.
 */
#ifndef METRIC_TABLE_H
#define METRIC_TABLE_H
#include "base/text.h"

/* How a run's own names stand in a table of names. */
enum metric_section {
	METRIC_HELD_OUT,
	METRIC_REWARD,
	METRIC_LOSS,
	METRIC_POLICY,
	METRIC_HEALTH,
	METRIC_TIME,
	METRIC_PLACE,
	METRIC_SECTIONS
};
extern const char *const metric_sections[METRIC_SECTIONS]; /* titles */

struct metric_info {
	const char
	    *name; /* "eval/strict"; "eval/strict/" stands for a name below it: of each tag, each reward */
	const char *title; /* what a chart is called */
	const char *unit;  /* "" for none */
	enum metric_section section;
	double low, high;    /* the range in which nothing needs to be looked at; NAN: no bound */
	const char *meaning; /* one sentence */
	const char *look;    /* what is healthy, and what to do where it is not */
};
extern const struct metric_info metric_table[]; /* ends with a NULL name */

/* The row of a name that a run writes; NULL: there is none. */
const struct metric_info *metric_find(const char *name);
void metric_docs(struct text *out); /* docs/metrics.md */

#endif
