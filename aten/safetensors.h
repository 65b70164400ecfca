/*
 * safetensors.h -- the one tensor file format of the project.
 *
 * Reading maps the file and checks the whole header (length, JSON, dtypes, shapes, offsets, overlaps, gaps,
 * size of the file) before any access; tensors are zero-copy views of the map and keep it alive.  Writing is
 * atomic. Layout: 8 bytes little-endian header length, JSON header, data.
 * https://github.com/huggingface/safetensors
 */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H
#include "aten/at.h"
#include "base/err.h"
#include <stdio.h>

struct st_entry {
	const char *name;
	enum at_dtype dtype;
	struct at_dims shape;
	size_t begin, end; /* bytes from the start of the data */
};
struct st_file {
	char *path;
	int n;
	struct st_entry *entry; /* sorted by name */
	int n_meta;
	char **meta_key, **meta_value; /* __metadata__ */
	struct st_map *map;            /* the bytes, shared with every tensor taken from them */
};

int st_open(struct st_file *f, const char *path, struct err *e);
/* The same over bytes in memory (for example a decompressed .zst); takes the malloc'ed buffer over, also on
 * failure. */
int st_open_bytes(struct st_file *f, char *data, size_t size, const char *name, struct err *e);
void st_close(struct st_file *f); /* tensors taken stay valid */

const struct st_entry *st_find(const struct st_file *f, const char *name); /* NULL when absent */
at_t st_get(const struct st_file *f,
	    const struct st_entry *x); /* zero-copy CPU view, owned by the scope; misaligned data is copied */
const char *st_meta(const struct st_file *f, const char *key); /* NULL when absent */

/* One tensor by name with an exact shape (n == 0 in `shape` means any): an error names file, tensor, wanted
 * and found. */
int st_take(at_t *out, const struct st_file *f, const char *name, struct at_dims shape, struct err *e);

struct st_item {
	const char *name;
	at_t t; /* any device; written contiguous */
};
struct st_meta_item {
	const char *key, *value;
};
int st_write(const char *path, const struct st_item *items, int n, const struct st_meta_item *meta,
	     int n_meta, struct err *e);
/* The same bytes into memory: free() *data. */
int st_write_bytes(char **data, size_t *size, const struct st_item *items, int n,
		   const struct st_meta_item *meta, int n_meta, struct err *e);

#endif
