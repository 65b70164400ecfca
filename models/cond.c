/* cond.c -- rows of named tensors.  Shapes: B batch, L entries of a row (tokens). */
#include "models/cond.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

void cond_add(struct cond *c, const char *name, at_t rows, at_t length_B)
{
	struct cond_part *p = &c->part[c->n];

	if (c->n == COND_PARTS || strlen(name) >= COND_NAME)
		at_panic("cond_add: '%s': at most %d parts, with names of at most %d bytes", name, COND_PARTS,
			 COND_NAME - 1);
	*p = (struct cond_part) { .rows = rows, .length_B = length_B };
	memcpy(p->name, name, strlen(name));
	c->n++;
}

static const struct cond_part *find(const struct cond *c, const char *name)
{
	for (int i = 0; i < c->n; i++)
		if (!strcmp(c->part[i].name, name))
			return &c->part[i];
	return NULL;
}

at_t cond_get(const struct cond *c, const char *name, at_t *length_B)
{
	const struct cond_part *p = find(c, name);

	if (length_B)
		*length_B = p ? p->length_B : NULL;
	return p ? p->rows : NULL;
}

int64_t cond_batch(const struct cond *c)
{
	return c->n ? at_size(c->part[0].rows, 0) : 0;
}

int64_t cond_tokens(const struct cond *c)
{
	at_t rows = cond_get(c, COND_TEXT, NULL);

	return rows ? at_size(rows, 1) : 0;
}

struct cond cond_rows(const struct cond *c, at_t index_i64)
{
	struct cond out = { 0 };

	for (int i = 0; i < c->n; i++) {
		const struct cond_part *p = &c->part[i];

		cond_add(&out, p->name, at_index_select(p->rows, 0, index_i64),
			 p->length_B ? at_index_select(p->length_B, 0, index_i64) : NULL);
	}
	return out;
}

struct cond cond_cast(const struct cond *c, enum at_dtype dt)
{
	struct cond out = { 0 };

	for (int i = 0; i < c->n; i++)
		cond_add(&out, c->part[i].name, at_cast(c->part[i].rows, dt), c->part[i].length_B);
	return out;
}

/* ---- Rows of several ----------------------------------------------------------------------------- */

static at_t lengths_of(const struct cond_part *p)
{
	return p->length_B ? p->length_B
			   : at_full(DIMS(at_size(p->rows, 0)), (double)at_size(p->rows, 1), AT_I64,
				     at_device_of(p->rows));
}

/* Entries added behind the last, up to `entries` of them. */
static at_t fill_up(at_t rows, int64_t entries)
{
	struct at_dims d = at_shape(rows);
	int64_t missing = entries - d.d[1];

	if (!missing)
		return rows;
	d.d[1] = missing;
	return at_cat2(rows, at_zeros(d, at_dtype_of(rows), at_device_of(rows)), 1);
}

/* Part i of all n; one without entries (B, P) needs neither lengths nor zeros. */
static void cat_part(struct cond *out, const struct cond *c, int n, int i)
{
	const char *name = c[0].part[i].name;
	bool ragged = false, entries = at_ndim(c[0].part[i].rows) > 2;
	int64_t longest = 0;
	at_t *rows = mem_zero((size_t)n, sizeof *rows), *length = mem_zero((size_t)n, sizeof *length);

	for (int k = 0; k < n; k++) {
		const struct cond_part *p = find(&c[k], name);

		if (!p || c[k].n != c[0].n)
			at_panic("cond_cat: only some of %d have '%s'", n, name);
		rows[k] = p->rows;
		ragged |= p->length_B != NULL || (entries && at_size(p->rows, 1) != at_size(rows[0], 1));
		longest = entries && at_size(p->rows, 1) > longest ? at_size(p->rows, 1) : longest;
	}
	for (int k = 0; k < n && ragged; k++) {
		length[k] = lengths_of(find(&c[k], name));
		rows[k] = fill_up(rows[k], longest);
	}
	cond_add(out, name, n == 1 ? rows[0] : at_cat(n, rows, 0), ragged ? at_cat(n, length, 0) : NULL);
	free(rows);
	free(length);
}

struct cond cond_cat(const struct cond *c, int n)
{
	struct cond out = { 0 };

	for (int i = 0; n > 0 && i < c[0].n; i++)
		cat_part(&out, c, n, i);
	return out;
}

static at_t expanded(at_t one_row, int64_t B)
{
	struct at_dims d = at_shape(one_row);

	d.d[0] = B;
	return at_expand(one_row, d);
}

struct cond cond_before(const struct cond *one, const struct cond *c)
{
	struct cond both[2] = { { 0 }, *c };
	int64_t B = cond_batch(c);

	for (int i = 0; i < one->n; i++) {
		const struct cond_part *p = &one->part[i];

		cond_add(&both[0], p->name, expanded(p->rows, B),
			 p->length_B ? expanded(p->length_B, B) : NULL);
	}
	return cond_cat(both, 2);
}

struct cond cond_zeros(const struct cond *c, int64_t rows, enum at_device dev)
{
	struct cond out = { 0 };

	for (int i = 0; i < c->n; i++) {
		const struct cond_part *p = &c->part[i];
		struct at_dims d = at_shape(p->rows);

		d.d[0] = rows;
		cond_add(&out, p->name, at_zeros(d, at_dtype_of(p->rows), dev),
			 p->length_B ? at_full(DIMS(rows), (double)d.d[1], AT_I64, dev) : NULL);
	}
	return out;
}

/* ---- Ownership ----------------------------------------------------------------------------------- */

struct cond cond_keep(const struct cond *c)
{
	struct cond out = *c;

	for (int i = 0; i < out.n; i++) {
		out.part[i].rows = at_keep(out.part[i].rows);
		if (out.part[i].length_B)
			out.part[i].length_B = at_keep(out.part[i].length_B);
	}
	return out;
}

void cond_free(struct cond *c)
{
	for (int i = 0; i < c->n; i++) {
		at_free(c->part[i].rows);
		at_free(c->part[i].length_B);
	}
	*c = (struct cond) { 0 };
}

void cond_escape(struct at_scope *s, const struct cond *c)
{
	for (int i = 0; i < c->n; i++) {
		at_escape(s, c->part[i].rows);
		if (c->part[i].length_B)
			at_escape(s, c->part[i].length_B);
	}
}

/* ---- Inputs of a CUDA graph ---------------------------------------------------------------------- */

int cond_tensors(const struct cond *c, at_t *list)
{
	int n = 0;

	for (int i = 0; i < c->n; i++) {
		list[n++] = c->part[i].rows;
		if (c->part[i].length_B)
			list[n++] = c->part[i].length_B;
	}
	return n;
}

struct cond_shape cond_shape(const struct cond *c)
{
	struct cond_shape s = { .n = c->n };

	for (int i = 0; i < c->n; i++) {
		memcpy(s.part[i].name, c->part[i].name, COND_NAME);
		s.part[i].rows = at_shape(c->part[i].rows);
		s.part[i].has_length = c->part[i].length_B != NULL;
	}
	return s;
}

bool cond_has_shape(const struct cond *c, const struct cond_shape *s)
{
	if (c->n != s->n)
		return false;
	for (int i = 0; i < c->n; i++)
		if (strcmp(c->part[i].name, s->part[i].name) != 0 ||
		    (c->part[i].length_B != NULL) != s->part[i].has_length ||
		    !at_shape_is(c->part[i].rows, s->part[i].rows))
			return false;
	return true;
}

struct cond cond_from(const struct cond_shape *s, const at_t *list)
{
	struct cond out = { 0 };

	for (int i = 0; i < s->n; i++) {
		at_t rows = *list++;

		cond_add(&out, s->part[i].name, rows, s->part[i].has_length ? *list++ : NULL);
	}
	return out;
}
