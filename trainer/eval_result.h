/*
 * eval_result.h -- what an evaluation found: means over the prompts' tags, as JSON, as a table.
 *
 * Each number is the mean of those images that have it.  One that no image has is NAN, null in JSON: a score
 * that could not be had never counts as 0, and never spoils the others.
 */
#ifndef EVAL_RESULT_H
#define EVAL_RESULT_H
#include "base/json.h"
#include "rewards/mixture/mixture.h"

struct eval_result {
	int64_t images, unavailable; /* with and without a total */
	bool has_strict;             /* some reward has a "strict" sub-score; else all `strict` are NAN */
	double strict, strict_95; /* GenEval's overall score: the mean of the tags' shares of images that are
				     exactly right; half the width of its 95 % interval */
	double soft;              /* the same of the score of the reward that has "strict", or of the total */
	double total;             /* mean weighted reward */
	double seconds;
	int n_tags, cap_tags;
	struct eval_tag {
		char *name;
		int64_t images;           /* with a total */
		int64_t n_strict, n_soft; /* those that the means are of; not in JSON */
		double strict, soft;
	} * tag;          /* in the order they came */
	int64_t n_strict; /* images that `strict` is of */
};

/* From nothing ({ 0 }): count every image, i of the set s with totals, then finish. */
void eval_count(struct eval_result *r, const struct mixture *m, const struct mixture_scores *s, int64_t i,
		const char *tag);
void eval_finish(struct eval_result *r);
void eval_release(struct eval_result *r); /* back to { 0 } */

/* The one number of an evaluation: strict where there is one, else soft. */
double eval_held_out(const struct eval_result *r);

json_t *eval_json(const struct eval_result *r); /* new reference */
/* *r is { 0 } or an earlier result, which is released. */
int eval_from_json(struct eval_result *r, const json_t *j, const char *what, struct err *e);
/* A table per tag on stdout: one column, or before and after; `what` is what the images are called. */
void eval_print(const struct eval_result *before, const struct eval_result *after, const char *what);

#endif
