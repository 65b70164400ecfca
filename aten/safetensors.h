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

#define ST_HEADER_MAX (100u << 20) /* bytes: what the format allows */

struct st_entry {
	const char *name;
	const char *type; /* the format's own name of its type: "F32", "F8_E4M3", "I16" */
	/* What st_get makes of it: 8-bit floating-point numbers become bfloat16, which holds them exactly;
	 * bytes (uint8, one dimension) of a type that this program does not have, which st_take refuses. */
	enum at_dtype dtype;
	struct at_dims shape;
	size_t begin, end;  /* bytes from the start of the data */
	struct st_map *map; /* where the bytes are */
};
struct st_file {
	char *path;
	int n;
	struct st_entry *entry; /* sorted by name */
	int n_meta;
	char **meta_key, **meta_value; /* __metadata__ */
	int n_map;
	struct st_map **map; /* the bytes, shared with every tensor taken from them */
};

int st_open(struct st_file *f, const char *path, struct err *e);
/* The same over bytes in memory (for example a decompressed .zst); takes the malloc'ed buffer over, also on
 * failure. */
int st_open_bytes(struct st_file *f, char *data, size_t size, const char *name, struct err *e);
int st_open_zstd(struct st_file *f, const char *path, struct err *e); /* compressed: NAME.zst */
/* Where a safetensors file ends by its header, for file_read_zstd_until; 0: n bytes do not tell. */
size_t st_end(const char *head, size_t n);
void st_close(struct st_file *f); /* tensors taken stay valid */
/* Moves the tensors of `shard`, which is closed afterwards as usual, into f; no name may be in both. */
int st_merge(struct st_file *f, struct st_file *shard, struct err *e);

/* The weights in a model folder as diffusers and transformers save them, whatever the number of files:
 *   STEM.safetensors, or STEM.safetensors.index.json and its shards, or a variant of either
 *   (STEM.fp16.safetensors, STEM.safetensors.index.fp16.json, STEM.fp16.safetensors.index.json).
 * Where both are there, the index counts for a stem of diffusers, the single file for one of transformers, as
 * each of them decides.  `variant` NULL: the plain files, and where there are none, the only variant there
 * is.  f->path is the file or the index.  The index and its shards must tell of the same tensors. */
int st_open_model(struct st_file *f, const char *dir, const char *stem, const char *variant, struct err *e);

const struct st_entry *st_find(const struct st_file *f, const char *name); /* NULL when absent */
/* Zero-copy CPU view, owned by the scope; misaligned data is copied, 8-bit floating point is cast. */
at_t st_get(const struct st_entry *x);
bool st_known(const struct st_entry *x); /* its values can be read: the file may hold others, to be listed */
/* Gives the pages of a tensor's bytes back: a file read from end to end then never sits in memory whole.  The
 * bytes stay readable. */
void st_forget(const struct st_entry *x);
const char *st_path(const struct st_file *f, int i); /* of its i-th file, 0 <= i < n_map */
uint64_t st_hash(const struct st_file *f); /* XXH64 of the bytes of all its files, header included */
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
