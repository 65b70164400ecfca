/* safetensors.c -- every byte of a header is somebody else's: nothing is believed before it is checked. */
#include "aten/safetensors.h"
#include "base/alive.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The bytes of a file, shared by the st_file and every tensor taken from it. */
struct st_map {
	atomic_int refs;
	char *path;
	struct file_map map; /* or */
	char *owned;
	const uint8_t *data;
	size_t size, start; /* start of the tensors' bytes */
};

static void map_release(void *ctx)
{
	struct st_map *m = ctx;

	if (atomic_fetch_sub(&m->refs, 1) > 1)
		return;
	if (m->owned)
		free(m->owned);
	else
		file_unmap(&m->map);
	free(m->path);
	free(m);
}

/* All types of the format; those of no at_dtype can be listed and not read, but for `f8`. */
enum f8 { F8_NONE, F8_E4M3, F8_E5M2 };
static const struct st_type {
	const char *name;
	int bits;
	bool known;
	enum at_dtype dt;
	enum f8 f8;
} types[] = {
	{ "F32", 32, true, AT_F32, F8_NONE },        { "F64", 64, true, AT_F64, F8_NONE },
	{ "F16", 16, true, AT_F16, F8_NONE },        { "BF16", 16, true, AT_BF16, F8_NONE },
	{ "I64", 64, true, AT_I64, F8_NONE },        { "I32", 32, true, AT_I32, F8_NONE },
	{ "U8", 8, true, AT_U8, F8_NONE },           { "BOOL", 8, true, AT_BOOL, F8_NONE },
	{ "F8_E4M3", 8, true, AT_BF16, F8_E4M3 },    { "F8_E5M2", 8, true, AT_BF16, F8_E5M2 },
	{ "I8", 8, false, AT_U8, F8_NONE },          { "I16", 16, false, AT_U8, F8_NONE },
	{ "U16", 16, false, AT_U8, F8_NONE },        { "U32", 32, false, AT_U8, F8_NONE },
	{ "U64", 64, false, AT_U8, F8_NONE },        { "C64", 64, false, AT_U8, F8_NONE },
	{ "F4", 4, false, AT_U8, F8_NONE },          { "F6_E2M3", 6, false, AT_U8, F8_NONE },
	{ "F6_E3M2", 6, false, AT_U8, F8_NONE },     { "F8_E8M0", 8, false, AT_U8, F8_NONE },
	{ "F8_E4M3FNUZ", 8, false, AT_U8, F8_NONE }, { "F8_E5M2FNUZ", 8, false, AT_U8, F8_NONE },
};

static const struct st_type *find_type(const char *name)
{
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (!strcmp(types[i].name, name))
			return &types[i];
	return NULL;
}

/* ---- Reading ---------------------------------------------------------------------------------------- */

static int parse_dtype(struct st_entry *x, const json_t *j, struct err *e)
{
	const char *name = json_string_value(json_object_get(j, "dtype"));
	const struct st_type *t = name ? find_type(name) : NULL;

	if (!t)
		return name ? err_set(e, "tensor '%s' has dtype %.40s, which the format does not have",
				      x->name, name)
			    : err_set(e, "tensor '%s' has no dtype", x->name);
	x->type = t->name;
	x->dtype = t->dt;
	return 0;
}

static int parse_shape(struct st_entry *x, const json_t *j, size_t *bytes, struct err *e)
{
	const json_t *shape = json_object_get(j, "shape");
	size_t bits = (size_t)find_type(x->type)->bits, room = 8;

	if (!json_is_array(shape))
		return err_set(e, "tensor '%s' has no shape", x->name);
	if (json_array_size(shape) > AT_MAX_DIMS)
		return err_set(e, "tensor '%s' has more than %d dimensions", x->name, AT_MAX_DIMS);
	*bytes = bits;
	x->shape.n = (int)json_array_size(shape);
	for (int i = 0; i < x->shape.n; i++) {
		const json_t *d = json_array_get(shape, (size_t)i);
		size_t size = (size_t)json_integer_value(d);
		/* Strides are products of the sizes even where a size of 0 leaves no bytes; 8 bytes an
		 * element. */
		if (!json_is_integer(d) || json_integer_value(d) < 0 ||
		    __builtin_mul_overflow(room, size ? size : 1, &room) || room > INT64_MAX)
			return err_set(e, "tensor '%s' has an impossible shape", x->name);
		x->shape.d[i] = json_integer_value(d);
		if (__builtin_mul_overflow(*bytes, size, bytes))
			return err_set(e, "tensor '%s' has an impossible shape", x->name);
	}
	if (*bytes % 8)
		return err_set(e, "tensor '%s' does not end at a whole byte", x->name);
	*bytes /= 8;
	return 0;
}

static int parse_entry(struct st_entry *x, const char *name, const json_t *j, size_t data_size, struct err *e)
{
	const json_t *off = json_object_get(j, "data_offsets"), *from, *to;
	size_t bytes = 0;

	*x = (struct st_entry) { .name = name };
	if (!json_is_object(j))
		return err_set(e, "tensor '%s' is not described by an object", name);
	if (parse_dtype(x, j, e) || parse_shape(x, j, &bytes, e))
		return -1;
	from = json_array_get(off, 0);
	to = json_array_get(off, 1);
	if (json_array_size(off) != 2 || !json_is_integer(from) || !json_is_integer(to) ||
	    json_integer_value(from) < 0 || json_integer_value(to) < json_integer_value(from))
		return err_set(e, "tensor '%s' has no valid data_offsets", name);
	x->begin = (size_t)json_integer_value(from);
	x->end = (size_t)json_integer_value(to);
	if (x->end > data_size)
		return err_set(e, "tensor '%s' ends at byte %zu of %zu: the file is truncated", name, x->end,
			       data_size);
	if (x->end - x->begin != bytes)
		return err_set(e, "tensor '%s' has %zu bytes where its shape and dtype need %zu", name,
			       x->end - x->begin, bytes);
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct st_entry *x = *(const struct st_entry *const *)a,
			      *y = *(const struct st_entry *const *)b;
	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct st_entry *)a)->name, ((const struct st_entry *)b)->name);
}

/* The tensors must cover the data exactly: no overlap, no hole, nothing behind. */
static int check_cover(const struct st_file *f, size_t data_size, struct err *e)
{
	const struct st_entry **order = mem_zero((size_t)f->n + 1, sizeof *order);
	size_t at = 0;
	int ret = 0;

	for (int i = 0; i < f->n; i++)
		order[i] = &f->entry[i];
	qsort(order, (size_t)f->n, sizeof *order, by_offset);
	for (int i = 0; i < f->n && !ret; i++) {
		if (order[i]->begin != at)
			ret = err_set(
			    e, "tensor '%s' begins at byte %zu, but the one before ends at %zu (%s)",
			    order[i]->name, order[i]->begin, at, order[i]->begin < at ? "overlap" : "hole");
		at = order[i]->end;
	}
	if (!ret && at != data_size)
		ret = err_set(e, "%zu bytes behind the last tensor", data_size - at);
	free(order);
	return ret;
}

static int parse_meta(struct st_file *f, json_t *meta, struct err *e)
{
	const char *key;
	json_t *v;

	if (json_is_null(meta)) /* as the format's own reader takes it */
		return 0;
	if (!json_is_object(meta))
		return err_set(e, "__metadata__ is not an object");
	f->meta_key = mem_zero(json_object_size(meta) + 1, sizeof *f->meta_key);
	f->meta_value = mem_zero(json_object_size(meta) + 1, sizeof *f->meta_value);
	json_object_foreach(meta, key, v)
	{
		if (!json_is_string(v))
			return err_set(e, "__metadata__ '%s' is not a string", key);
		f->meta_key[f->n_meta] = mem_str(key);
		f->meta_value[f->n_meta++] = mem_str(json_string_value(v));
	}
	return 0;
}

static int parse_header(struct st_file *f, json_t *root, struct st_map *m, struct err *e)
{
	size_t data_size = m->size - m->start;
	const char *key;
	json_t *v;

	if (!json_is_object(root))
		return err_set(e, "the header is not a JSON object");
	f->entry = mem_zero(json_object_size(root) + 1, sizeof *f->entry);
	json_object_foreach(root, key, v)
	{
		if (!strcmp(key, "__metadata__")) {
			if (parse_meta(f, v, e))
				return -1;
			continue;
		}
		if (parse_entry(&f->entry[f->n], key, v, data_size, e))
			return -1;
		f->entry[f->n].name = mem_str(key);
		f->entry[f->n++].map = m;
	}
	qsort(f->entry, (size_t)f->n, sizeof *f->entry, by_name);
	return check_cover(f, data_size, e);
}

static int open_map(struct st_file *f, struct st_map *m, struct err *e)
{
	const char *other = text_other_file(m->data, m->size);
	uint64_t header = 0;
	struct err why = { "" };
	int ret;

	if (other)
		return err_set(e, "%s: not a safetensors file but %s", f->path, other);
	if (m->size < 8)
		return err_set(e, "%s: %zu bytes are too few for a safetensors file", f->path, m->size);
	for (int i = 7; i >= 0; i--)
		header = header << 8 | m->data[i];
	if (header > ST_HEADER_MAX)
		return err_set(e, "%s: not a safetensors file (a header of %llu bytes)", f->path,
			       (unsigned long long)header);
	if (header > m->size - 8)
		return err_set(e, "%s: truncated: the header alone needs %llu bytes of %zu", f->path,
			       (unsigned long long)header + 8, m->size);
	m->start = 8 + (size_t)header;
	json_error_t at;
	json_t *root = json_loadb((const char *)m->data + 8, (size_t)header, JSON_REJECT_DUPLICATES, &at);
	if (!root)
		return err_set(e, "%s: the header is not valid JSON: %s", f->path, at.text);
	ret = parse_header(f, root, m, &why);
	json_decref(root);
	if (ret)
		return err_set(e, "%s: %s", f->path, why.msg);
	return 0;
}

/* The file over m, which is its only map. */
static int open_only(struct st_file *f, struct st_map *m, const char *path, struct err *e)
{
	m->refs = 1;
	m->path = mem_str(path);
	*f = (struct st_file) { .path = mem_str(path), .map = mem_zero(1, sizeof *f->map), .n_map = 1 };
	f->map[0] = m;
	if (open_map(f, m, e)) {
		st_close(f);
		return -1;
	}
	return 0;
}

int st_open(struct st_file *f, const char *path, struct err *e)
{
	struct st_map *m = mem_zero(1, sizeof *m);

	*f = (struct st_file) { 0 };
	if (file_map(&m->map, path, e)) {
		free(m);
		return -1;
	}
	m->data = m->map.data;
	m->size = m->map.size;
	return open_only(f, m, path, e);
}

int st_open_bytes(struct st_file *f, char *data, size_t size, const char *name, struct err *e)
{
	struct st_map *m = mem_zero(1, sizeof *m);

	m->owned = data;
	m->data = (const uint8_t *)data;
	m->size = size;
	return open_only(f, m, name, e);
}

int st_merge(struct st_file *f, struct st_file *shard, struct err *e)
{
	for (int i = 0; i < shard->n; i++)
		if (st_find(f, shard->entry[i].name))
			return err_set(e, "%s: tensor '%s' is in %s too", shard->path, shard->entry[i].name,
				       st_find(f, shard->entry[i].name)->map->path);
	f->entry = mem_grow(f->entry, (size_t)(f->n + shard->n) + 1, sizeof *f->entry);
	memcpy(f->entry + f->n, shard->entry, (size_t)shard->n * sizeof *f->entry);
	f->n += shard->n;
	qsort(f->entry, (size_t)f->n, sizeof *f->entry, by_name);
	f->map = mem_grow(f->map, (size_t)(f->n_map + shard->n_map), sizeof *f->map);
	memcpy(f->map + f->n_map, shard->map, (size_t)shard->n_map * sizeof *f->map);
	f->n_map += shard->n_map;
	shard->n = shard->n_map = 0; /* the names and the maps are f's now */
	return 0;
}

size_t st_end(const char *head, size_t n)
{
	const unsigned char *p = (const unsigned char *)head;
	uint64_t header = 0, last = 0;
	const char *name;
	json_t *x;

	if (n < 8)
		return 0;
	for (int i = 8; i-- > 0;)
		header = header << 8 | p[i];
	if (header > ST_HEADER_MAX)
		return 8; /* no such file: st_open_bytes says so */
	if (n - 8 < header)
		return 0;
	json_t *root = json_loadb(head + 8, (size_t)header, 0, NULL);
	json_object_foreach(root, name, x)
	{
		json_int_t end = json_integer_value(json_array_get(json_object_get(x, "data_offsets"), 1));

		last = end > 0 && (uint64_t)end > last ? (uint64_t)end : last;
	}
	json_decref(root);
	return (size_t)(last < SIZE_MAX - 8 - header ? 8 + header + last : SIZE_MAX);
}

int st_open_zstd(struct st_file *f, const char *path, struct err *e)
{
	char *data;
	size_t size;

	*f = (struct st_file) { 0 };
	return file_read_zstd_until(&data, &size, path, st_end, e) || st_open_bytes(f, data, size, path, e)
		   ? -1
		   : 0;
}

void st_close(struct st_file *f)
{
	for (int i = 0; i < f->n; i++)
		free((char *)f->entry[i].name);
	for (int i = 0; i < f->n_meta; i++) {
		free(f->meta_key[i]);
		free(f->meta_value[i]);
	}
	for (int i = 0; i < f->n_map; i++)
		map_release(f->map[i]);
	free(f->entry);
	free(f->meta_key);
	free(f->meta_value);
	free(f->map);
	free(f->path);
	*f = (struct st_file) { 0 };
}

const struct st_entry *st_find(const struct st_file *f, const char *name)
{
	struct st_entry key = { .name = name };
	return f->n ? bsearch(&key, f->entry, (size_t)f->n, sizeof *f->entry, by_name) : NULL;
}

/* The upper half of a float, which is exact: at most 3 bits behind the point, exponents from -16 to 15. */
static uint16_t widen(uint8_t v, enum f8 f8)
{
	int digits = f8 == F8_E4M3 ? 3 : 2, bias = f8 == F8_E4M3 ? 7 : 15;
	int m = v & ((1 << digits) - 1), exponent = (v & 0x7f) >> digits;
	bool nan = f8 == F8_E4M3 ? (v & 0x7f) == 0x7f : exponent == 31 && m;
	float x = exponent ? ldexpf((float)(m + (1 << digits)), exponent - bias - digits)
			   : ldexpf((float)m, 1 - bias - digits);
	uint32_t bits;

	if (f8 == F8_E5M2 && exponent == 31)
		x = INFINITY;
	if (nan)
		x = NAN;
	x = v & 0x80 ? -x : x;
	memcpy(&bits, &x, sizeof bits);
	return (uint16_t)(bits >> 16);
}

static at_t cast_f8(const struct st_entry *x, const uint8_t *p, enum f8 f8)
{
	size_t n = x->end - x->begin;
	uint16_t table[256], *wide = mem_alloc((n + 1) * sizeof *wide);

	for (int v = 0; v < 256; v++)
		table[v] = widen((uint8_t)v, f8);
	for (size_t i = 0; i < n; i++)
		wide[i] = table[p[i]];
	at_t t = at_from(wide, x->shape, AT_BF16);
	free(wide);
	return t;
}

bool st_known(const struct st_entry *x)
{
	return find_type(x->type)->known;
}

at_t st_get(const struct st_entry *x)
{
	const struct st_type *type = find_type(x->type);
	struct at_dims shape = type->known ? x->shape : DIMS((int64_t)(x->end - x->begin));
	struct st_map *m = x->map;
	const uint8_t *p = m->data + m->start + x->begin;

	if (type->f8)
		return cast_f8(x, p, type->f8);
	if ((uintptr_t)p % at_dtype_size(x->dtype) || x->begin == x->end)
		return at_from(p, shape, x->dtype);
	atomic_fetch_add(&m->refs, 1);
	return at_borrow(p, shape, x->dtype, map_release, m);
}

void st_forget(const struct st_entry *x)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uintptr_t from = (uintptr_t)(x->map->data + x->map->start + x->begin),
		  to = from + (x->end - x->begin);

	if (x->map->owned)
		return;
	from = (from + page - 1) / page * page; /* whole pages of this tensor alone */
	to = to / page * page;
	if (to > from)
		madvise((void *)from, to - from, MADV_DONTNEED); /* a hint: failing costs memory only */
}

const char *st_path(const struct st_file *f, int i)
{
	return f->map[i]->path;
}

uint64_t st_hash(const struct st_file *f)
{
	const size_t piece = (size_t)64 << 20; /* read, hashed and given back: never all in memory */
	uint64_t hash = 0;

	for (int i = 0; i < f->n_map; i++) {
		const struct st_map *m = f->map[i];
		for (size_t at = 0; at < m->size; at += piece) {
			size_t n = m->size - at < piece ? m->size - at : piece;
			hash = file_hash(m->data + at, n, hash);
			alive_mark("reading a file");
			if (!m->owned)
				madvise((void *)(m->data + at), n, MADV_DONTNEED);
		}
	}
	return hash;
}

const char *st_meta(const struct st_file *f, const char *key)
{
	for (int i = 0; i < f->n_meta; i++)
		if (!strcmp(f->meta_key[i], key))
			return f->meta_value[i];
	return NULL;
}

static void add_shape(struct text *t, const struct at_dims *s)
{
	text_add(t, "[");
	for (int i = 0; i < s->n; i++)
		text_printf(t, "%s%lld", i ? ", " : "", (long long)s->d[i]);
	text_add(t, "]");
}

/* Weights of 8 bits with scales beside them are not what their bytes say: "x.weight" and "x.scale_weight" or
 * "x.weight_scale", in one manner a file. */
static const char *find_scale(const struct st_file *f, const struct st_entry *x)
{
	if (!find_type(x->type)->f8)
		return NULL;
	for (int i = 0; i < f->n; i++) {
		const char *dot = strrchr(f->entry[i].name, '.'), *last = dot ? dot + 1 : f->entry[i].name;

		if (strstr(last, "scale") || !strcmp(last, "scaled_fp8"))
			return f->entry[i].name;
	}
	return NULL;
}

/* A type that can be read, and by its bytes alone. */
static int check_values(const struct st_file *f, const struct st_entry *x, struct err *e)
{
	const char *scale = find_scale(f, x);

	if (!st_known(x))
		return err_set(e, "%s: tensor '%s' has dtype %s, which is not supported here", x->map->path,
			       x->name, x->type);
	return scale ? err_set(
			   e,
			   "%s: tensor '%s' is scaled %s (there is '%s'), which is not supported: only plain "
			   "8-bit weights are",
			   x->map->path, x->name, x->type, scale)
		     : 0;
}

int st_take(at_t *out, const struct st_file *f, const char *name, struct at_dims shape, struct err *e)
{
	const struct st_entry *x = st_find(f, name);
	bool same = x && x->shape.n == shape.n;

	alive_mark("reading weights");
	if (!x)
		return err_set(e, "%s: tensor '%s' is missing", f->path, name);
	for (int i = 0; same && i < shape.n; i++)
		same = x->shape.d[i] == shape.d[i];
	if (shape.n && !same) {
		struct text t = { 0 };
		add_shape(&t, &x->shape);
		text_add(&t, " where ");
		add_shape(&t, &shape);
		err_set(e, "%s: tensor '%s' has shape %s was expected", x->map->path, name, t.s);
		text_free(&t);
		return -1;
	}
	if (check_values(f, x, e))
		return -1;
	*out = st_get(x);
	return 0;
}
