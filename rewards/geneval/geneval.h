/*
 * geneval.h -- GenEval's rules (arXiv 2310.11513) over detected objects, one engine for every detector.
 *
 * Metadata: {"tag", "include": [{"class", "count", "color"?, "position"?: ["left of", index]}], "exclude":
 * [...]}.
 *
 * Each include clause asks for `count` objects of a class, of a colour if given, and in a relation to the
 * objects of an earlier clause if given.  A is left of B when the vector from B's centre to A's, each
 * component shortened by a tenth of the two boxes' summed extent, has an x below -1/2 of the whole distance;
 * right of, above, below likewise (y grows downwards; two relations can hold at once).
 */
#ifndef GENEVAL_H
#define GENEVAL_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#define GENEVAL_MAX_CLAUSES 16 /* of include, of exclude */
#define GENEVAL_MAX_OBJECTS 16 /* of a class: the best ones, as in the original */

struct geneval_object {
	const char *class_name;
	const char *color; /* NULL: unknown */
	double box[4];     /* x0, y0, x1, y1 in pixels */
	double score;      /* detector confidence; objects of a class come best first */
	int candidate;     /* the detector's own number for it */
};
struct detector;

struct geneval_result {
	double reward;  /* training reward: mean of the clauses' partial scores, each in [0, 1] */
	bool strict;    /* every clause exactly right: counts equal, nothing excluded present */
	bool correct;   /* the original benchmark's verdict: at least the wanted count */
	unsigned right; /* bit i: include[i] is exactly right */
	char why[160];  /* the first clause that failed, for people; "" when exactly right */
};

/*
 * Partial scores: 1 - |want - found| / want for a count, the same for a colour among the objects found, 0 or
 * 1 for a position.  A clause's colour scores 0 when its count is wrong, its position when count or colour is
 * wrong or when the target's clause is not exactly right: a prompt always has the same number of partial
 * scores.  `exclude` counts in strict and correct only.
 *
 * reference_scoring gives the public training reward instead (yifan123/reward-server): terms unbounded below,
 * 1 added for a position even after a wrong one, one 0 in place of colour and position after a wrong count,
 * none for the position after a wrong colour.
 *
 * -1 when the metadata are not GenEval's.
 */
int geneval_judge(struct geneval_result *r, const json_t *meta, const struct geneval_object *obj, int n,
		  bool reference_scoring, struct err *e);

/* What of a detector's candidates are objects. */
struct geneval_limits {
	double threshold,
	    counting_threshold; /* scores above it count; the second where the tag is "counting" */
	double
	    max_overlap; /* of two boxes of a class that overlap as much or more the better stays; 1: both */
};

/*
 * The original's choice among n candidates, in place: of each class the best GENEVAL_MAX_OBJECTS above the
 * threshold (compared in single precision, as there), best first, of equals the first; then those out that
 * overlap a better one (intersection over union of boxes that include their last pixel).  Returns how many
 * stay.
 */
int geneval_select(struct geneval_object *obj, int n, const json_t *meta,
		   const struct geneval_limits *limits);

/* How many objects of a class are asked for their colour, at most: 0 when no clause does. */
int geneval_colored(const json_t *meta, const char *class_name);

/* Can metadata be judged with what the detector sees?  An error names the clause and the nearest class or
 * colour. */
int geneval_check(const json_t *meta, const struct detector *d, struct err *e);

#endif
