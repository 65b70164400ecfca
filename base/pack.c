/* pack.c -- compressed files and content hashes (declared in file.h). */
#include "base/file.h"
#include "base/alive.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

char *file_pack_zstd(const void *data, size_t size, int level, size_t *n)
{
	size_t cap = ZSTD_compressBound(size);
	char *out = mem_alloc(cap);
	ZSTD_CCtx *c = ZSTD_createCCtx();

	ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level);
	ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
	*n = ZSTD_compress2(c, out, cap, data, size);
	if (ZSTD_isError(*n)) /* with room for the bound, only for want of memory */
		die("cannot compress %zu bytes: %s", size, ZSTD_getErrorName(*n));
	ZSTD_freeCCtx(c);
	return out;
}

int file_write_zstd(const char *path, const void *data, size_t size, int level, struct err *e)
{
	size_t n;
	char *out = file_pack_zstd(data, size, level, &n);
	int ret = file_write(path, out, n, e);

	free(out);
	return ret;
}

/* One piece more of *out; whether there is any.  -1: damaged, or beyond its end. */
static int unpack(ZSTD_DStream *d, ZSTD_inBuffer *in, struct text *out, char *buf, size_t chunk, size_t *left,
		  const char *path, struct err *e)
{
	ZSTD_outBuffer o = { buf, chunk, 0 };

	*left = ZSTD_decompressStream(d, &o, in);
	if (ZSTD_isError(*left))
		return err_set(e, "%s: damaged: %s", path, ZSTD_getErrorName(*left));
	text_add_bytes(out, buf, o.pos);
	return o.pos > 0;
}

/* Whether what is there is more than there should be. */
static int check_end(const struct text *out, size_t (*end)(const char *head, size_t n), size_t *known,
		     const char *path, struct err *e)
{
	if (end && !*known)
		*known = end(out->s, out->n);
	if (!*known || out->n <= *known)
		return 0;
	return err_set(e, "%s: the compressed data go on behind byte %zu, where what is in them ends", path,
		       *known);
}

int file_read_zstd_until(char **data, size_t *size, const char *path,
			 size_t (*end)(const char *head, size_t n), struct err *e)
{
	struct file_map m;
	struct text out = { 0 };
	size_t chunk = ZSTD_DStreamOutSize(), left = 1, known = 0;
	int ret = 0, some;

	if (file_map(&m, path, e))
		return -1;
	char *buf = mem_alloc(chunk);
	text_add(&out, "");
	ZSTD_DStream *d = ZSTD_createDStream();
	ZSTD_inBuffer in = { m.data, m.size, 0 };
	while (!ret && in.pos < in.size) {
		some = unpack(d, &in, &out, buf, chunk, &left, path, e);
		ret = some < 0 ? -1 : check_end(&out, end, &known, path, e);
	}
	while (!ret && left > 0) { /* what the decoder still holds */
		some = unpack(d, &in, &out, buf, chunk, &left, path, e);
		if (some == 0)
			ret = err_set(e, "%s: damaged: the compressed data end too early", path);
		else
			ret = some < 0 ? -1 : check_end(&out, end, &known, path, e);
	}
	ZSTD_freeDStream(d);
	free(buf);
	file_unmap(&m);
	if (ret) {
		text_free(&out);
		return -1;
	}
	*data = out.s;
	*size = out.n;
	return 0;
}

int file_read_zstd(char **data, size_t *size, const char *path, struct err *e)
{
	return file_read_zstd_until(data, size, path, NULL, e);
}

/* ---- XXH64 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md) -------------------------- */

static const uint64_t P1 = 0x9E3779B185EBCA87u, P2 = 0xC2B2AE3D27D4EB4Fu, P3 = 0x165667B19E3779F9u,
		      P4 = 0x85EBCA77C2B2AE63u, P5 = 0x27D4EB2F165667C5u;

static uint64_t rotate(uint64_t x, int r)
{
	return x << r | x >> (64 - r);
}

static uint64_t load(const uint8_t *p, int bytes)
{
	uint64_t v = 0;
	for (int i = bytes - 1; i >= 0; i--)
		v = v << 8 | p[i];
	return v;
}

static uint64_t mix(uint64_t acc, uint64_t lane)
{
	return rotate(acc + lane * P2, 31) * P1;
}

static uint64_t finish(uint64_t h, const uint8_t *p, size_t n)
{
	for (; n >= 8; p += 8, n -= 8)
		h = rotate(h ^ mix(0, load(p, 8)), 27) * P1 + P4;
	for (; n >= 4; p += 4, n -= 4)
		h = rotate(h ^ load(p, 4) * P1, 23) * P2 + P3;
	for (; n; p++, n--)
		h = rotate(h ^ *p * P5, 11) * P1;
	h = (h ^ h >> 33) * P2;
	h = (h ^ h >> 29) * P3;
	return h ^ h >> 32;
}

#define MARK (1 << 26) /* bytes between two signs of life: the file may be a slow disk's */

uint64_t file_hash(const void *data, size_t size, uint64_t seed)
{
	const uint8_t *p = data;
	size_t n = size;
	uint64_t h = seed + P5;

	if (n >= 32) {
		uint64_t a[4] = { seed + P1 + P2, seed + P2, seed, seed - P1 };
		for (; n >= 32; p += 32, n -= 32) {
			if (n != size && n % MARK < 32)
				alive_mark("reading a file");
			for (int i = 0; i < 4; i++)
				a[i] = mix(a[i], load(p + 8 * i, 8));
		}
		h = rotate(a[0], 1) + rotate(a[1], 7) + rotate(a[2], 12) + rotate(a[3], 18);
		for (int i = 0; i < 4; i++)
			h = (h ^ mix(0, a[i])) * P1 + P4;
	}
	return finish(h + size, p, n);
}

int file_hash_path(uint64_t *hash, const char *path, struct err *e)
{
	struct file_map m;

	if (file_map(&m, path, e))
		return -1;
	*hash = file_hash(m.data, m.size, 0);
	file_unmap(&m);
	return 0;
}
