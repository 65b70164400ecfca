/*
 * clauses.h -- what GenEval's metadata ask for, read: lists of clauses {"class", "count", "color"?,
 * "position"?:
 * ["left of", index of an earlier clause]}.  What they mean for an image is geneval.h's and shapes.h's.
 */
#ifndef CLAUSES_H
#define CLAUSES_H
#include "base/json.h"

enum relation { RELATION_LEFT, RELATION_RIGHT, RELATION_ABOVE, RELATION_BELOW, RELATIONS };
extern const char *const relation_names[RELATIONS + 1];

struct clause {
	const char *class_name, *color; /* the metadata's; color: NULL when not asked for */
	int count;                      /* 1 to 1000 */
	int relation, target;           /* relation: -1 when not asked for; target: index of a clause */
};
/* The clauses of `section` ("include", "exclude"; absent: none) into c, which has room for `most`.  Keys of
 * other names are errors, as are more clauses; an error names the clause. */
int clauses_read(struct clause *c, int most, int *n, const json_t *meta, const char *section, struct err *e);

/* An error that says which names there are, or which is the nearest: "unknown WHAT 'NAME' (...)". */
int clauses_unknown(const char *what, const char *name, const char *const *names, struct err *e);

#endif
