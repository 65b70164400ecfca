#include "models/text/text_cache.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <zstd.h>

#define MAGIC      0x327478746c666e63u /* "cnfltxt2" */
#define ZSTD_LEVEL 1 /* higher ones gain 1 % on shuffled floats and take three times as long */
#define MOST_SIZE  (1 << 24)

/* The prompt follows, then the tensors' values. */
struct header {
	uint64_t magic, prompt, element, parts;
	struct {
		char name[COND_NAME];    /* of a part of the conditioning */
		uint64_t entries, width; /* (1, entries, width); entries 0: (1, width) */
		uint64_t count;          /* 1 + how many of the entries count; 0: all, and no lengths */
	} part[COND_PARTS];
};

/* ---- Names --------------------------------------------------------------------------------------- */

static char *path_of(const struct text_cache *c, const char *prompt)
{
	uint64_t a = file_hash(prompt, strlen(prompt), 1), b = file_hash(prompt, strlen(prompt), 2);

	return mem_printf("%s/%02" PRIx64 "/%016" PRIx64 "%016" PRIx64 ".zst", c->dir, a >> 56, a, b);
}

int text_cache_open(struct text_cache *c, const char *dir, uint64_t encoder, enum at_dtype dt,
		    enum at_device dev, struct err *e)
{
	/* files of another format are elsewhere: text_cache_has does not look into them */
	const uint64_t of[] = { MAGIC, encoder };

	*c = (struct text_cache) { .dir = mem_printf("%s/%016" PRIx64, dir, file_hash(of, sizeof of, 0)),
				   .dtype = dt,
				   .device = dev };
	for (int i = 0; i < 256; i++) {
		char *sub = mem_printf("%s/%02x", c->dir, i);
		int ret = file_mkdirs(sub, e);

		free(sub);
		if (ret) {
			text_cache_close(c);
			return err_in(e, "the cache of text embeddings (model.text_cache)");
		}
	}
	return 0;
}

void text_cache_close(struct text_cache *c)
{
	free(c->dir);
	*c = (struct text_cache) { 0 };
}

bool text_cache_has(const struct text_cache *c, const char *prompt)
{
	char *path = path_of(c, prompt);
	struct stat st;
	bool yes = !stat(path, &st) && st.st_size > 0;

	free(path);
	return yes;
}

double text_cache_bytes(const struct text_cache *c, const char *prompt)
{
	char *path = path_of(c, prompt);
	struct statvfs fs;
	struct stat st;
	double bytes = 0;

	if (!stat(path, &st) && !statvfs(path, &fs) && fs.f_frsize)
		bytes = ceil((double)st.st_size / (double)fs.f_frsize) * (double)fs.f_frsize;
	free(path);
	return bytes;
}

const char *text_cache_space(const struct text_cache *c, double *bytes)
{
	struct statvfs fs;

	*bytes = statvfs(c->dir, &fs) ? INFINITY : (double)fs.f_bavail * (double)fs.f_frsize;
	return c->dir;
}

/* ---- Bytes --------------------------------------------------------------------------------------- */

/* All first bytes of n elements, then all second ones, and so on. */
static void shuffle(uint8_t *out, const uint8_t *in, size_t n, size_t size)
{
	for (size_t b = 0; b < size; b++)
		for (size_t i = 0; i < n; i++)
			out[b * n + i] = in[i * size + b];
}

static void unshuffle(uint8_t *out, const uint8_t *in, size_t n, size_t size)
{
	for (size_t b = 0; b < size; b++)
		for (size_t i = 0; i < n; i++)
			out[i * size + b] = in[b * n + i];
}

static void add_tensor(struct text *t, at_t x, enum at_dtype dt)
{
	size_t size = at_dtype_size(dt), n = (size_t)at_numel(x);
	uint8_t *plain = mem_alloc(n * size), *mixed = mem_alloc(n * size);

	at_copy_out(x, plain, dt);
	shuffle(mixed, plain, n, size);
	text_add_bytes(t, mixed, n * size);
	free(plain);
	free(mixed);
}

static at_t take_tensor(const uint8_t *in, size_t n, struct at_dims shape, enum at_dtype dt,
			enum at_device dev)
{
	uint8_t *plain = mem_alloc(n * at_dtype_size(dt));
	at_t t;

	unshuffle(plain, in, n, at_dtype_size(dt));
	t = at_to(at_from(plain, shape, dt), dt, dev);
	free(plain);
	return t;
}

static uint64_t elements_of(const struct header *h, uint64_t part)
{
	return (h->part[part].entries ? h->part[part].entries : 1) * h->part[part].width;
}

/* Whether this is what a file of the prompt holds. */
static bool read_header(struct header *h, const struct text_cache *c, const char *prompt, const uint8_t *data,
			size_t size)
{
	uint64_t elements = 0;

	if (size < sizeof *h)
		return false;
	memcpy(h, data, sizeof *h);
	if (h->magic != MAGIC || h->prompt != strlen(prompt) || h->element != at_dtype_size(c->dtype) ||
	    !h->parts || h->parts > COND_PARTS)
		return false;
	for (uint64_t i = 0; i < h->parts; i++) {
		if (!h->part[i].width || h->part[i].width > MOST_SIZE || h->part[i].entries > MOST_SIZE ||
		    h->part[i].count > h->part[i].entries + 1 || !*h->part[i].name ||
		    !memchr(h->part[i].name, 0, COND_NAME))
			return false;
		elements += elements_of(h, i);
	}
	return size == sizeof *h + h->prompt + elements * h->element &&
	       !memcmp(data + sizeof *h, prompt, h->prompt);
}

bool text_cache_get(const struct text_cache *c, const char *prompt, struct cond *row)
{
	char *path = path_of(c, prompt), *data = NULL;
	struct header h;
	struct err ignored;
	size_t size;
	bool found = file_exists(path) && !file_read_zstd(&data, &size, path, &ignored) &&
		     read_header(&h, c, prompt, (const uint8_t *)data, size);
	const uint8_t *at = (const uint8_t *)data + sizeof h + (found ? h.prompt : 0);

	for (uint64_t i = 0; found && i < h.parts; i++) {
		int64_t entries = (int64_t)h.part[i].entries, width = (int64_t)h.part[i].width;
		int64_t count = (int64_t)h.part[i].count - 1;
		uint64_t n = elements_of(&h, i);

		cond_add(row, h.part[i].name,
			 take_tensor(at, n, entries ? DIMS(1, entries, width) : DIMS(1, width), c->dtype,
				     c->device),
			 count < 0 ? NULL : at_full(DIMS(1), (double)count, AT_I64, c->device));
		at += n * h.element;
	}
	free(data);
	free(path);
	return found;
}

int text_cache_put(const struct text_cache *c, const char *prompt, const struct cond *row, struct err *e)
{
	struct header h = { .magic = MAGIC,
			    .prompt = strlen(prompt),
			    .parts = (uint64_t)row->n,
			    .element = at_dtype_size(c->dtype) };
	char *path = path_of(c, prompt), *packed;
	struct text t = { 0 };
	size_t n;
	int ret;

	for (int i = 0; i < row->n; i++) {
		at_t x = row->part[i].rows, length_1 = row->part[i].length_B;

		memcpy(h.part[i].name, row->part[i].name, COND_NAME);
		h.part[i].entries = at_ndim(x) > 2 ? (uint64_t)at_size(x, 1) : 0;
		h.part[i].width = (uint64_t)at_size(x, -1);
		h.part[i].count = length_1 ? (uint64_t)at_item(length_1) + 1 : 0;
	}
	text_add_bytes(&t, &h, sizeof h);
	text_add_bytes(&t, prompt, h.prompt);
	for (int i = 0; i < row->n; i++)
		add_tensor(&t, row->part[i].rows, c->dtype);
	packed = file_pack_zstd(t.s, t.n, ZSTD_LEVEL, &n);
	ret = file_write_cached(path, packed, n, e);
	free(packed);
	text_free(&t);
	free(path);
	return ret;
}
