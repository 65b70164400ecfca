/*
 * cond.h -- the conditioning of a batch: tensors with names, one row a sample.
 *
 * An encoder makes them and a transformer asks for them by name; everything between handles rows.  Stable
 * Diffusion 3 has "text" (B, L, E), one vector a token, and "pooled" (B, P).
 *
 * Prompts of different lengths: `length_B` says how many of a row's L entries count; the others are zeros.
 * NULL means that all of them do, in every row.
 */
#ifndef COND_H
#define COND_H
#include "aten/at.h"

#define COND_PARTS   4
#define COND_TENSORS (2 * COND_PARTS)
#define COND_NAME    16 /* bytes of a name, its NUL included */
#define COND_TEXT    "text"
#define COND_POOLED  "pooled"

struct cond_part {
	char name[COND_NAME];
	at_t rows;     /* (B, ...) */
	at_t length_B; /* int64, where the rows are; or NULL */
};
struct cond {
	int n;
	struct cond_part part[COND_PARTS];
};

/* Adds a part; the tensors are borrowed, the name is copied. */
void cond_add(struct cond *c, const char *name, at_t rows, at_t length_B);
/* A part's rows, and into *length_B, unless that is NULL, its lengths; NULL: there is no such part. */
at_t cond_get(const struct cond *c, const char *name, at_t *length_B);
int64_t cond_batch(const struct cond *c);  /* B */
int64_t cond_tokens(const struct cond *c); /* entries of a row of "text", 0 without */

/* New conds of the innermost scope. */
struct cond cond_rows(const struct cond *c, at_t index_i64); /* those rows, as at_index_select */
struct cond cond_cast(const struct cond *c, enum at_dtype dt);
/* All rows of n conds with the same parts, in order.  Where rows are of different lengths, shorter ones are
 * filled up with zeros and the result has lengths. */
struct cond cond_cat(const struct cond *c, int n);
/* `one`, which has one row, B times before c's B rows: the two branches of guidance. */
struct cond cond_before(const struct cond *one, const struct cond *c);
/* Zeros in the shapes of c's first row, `rows` of them. */
struct cond cond_zeros(const struct cond *c, int64_t rows, enum at_device dev);

/* Ownership, for all tensors of a cond: as at_keep, at_free and at_escape. */
struct cond cond_keep(const struct cond *c);
void cond_free(struct cond *c); /* *c is empty afterwards; an empty one is fine */
void cond_escape(struct at_scope *s, const struct cond *c);

/* As inputs of a CUDA graph: lists the tensors, COND_TENSORS at most, and returns how many there are. */
int cond_tensors(const struct cond *c, at_t *list);
/* What remains of a cond without its tensors, and a cond of such a shape over listed ones. */
struct cond_shape {
	int n;
	struct {
		char name[COND_NAME];
		struct at_dims rows;
		bool has_length;
	} part[COND_PARTS];
};
struct cond_shape cond_shape(const struct cond *c);
bool cond_has_shape(const struct cond *c, const struct cond_shape *shape);
struct cond cond_from(const struct cond_shape *shape, const at_t *list);

#endif
