/*
 * driver.c -- fuzzing without a fuzzer: FILE_OR_FOLDER ... MUTATIONS.
 *
 * Runs every file as it is, then so many mutations of them; the same ones each time.  A mutation that crashes
 * is found again by the number in last_mutation when the core is looked at, or with libFuzzer.
 */
#include "tests/fuzz/fuzz.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 65536

struct seed {
	char *data;
	size_t size;
};
static struct seed *seeds;
static int n_seeds, cap_seeds;

static void add(const char *path)
{
	struct err e;

	if (file_is_dir(path)) {
		DIR *d = opendir(path);
		for (struct dirent *x; d && (x = readdir(d));)
			if (x->d_name[0] != '.') {
				char *sub = file_join(path, x->d_name);
				add(sub);
				free(sub);
			}
		closedir(d);
		return;
	}
	struct seed *s = &MEM_PUSH(seeds, n_seeds, cap_seeds);
	if (file_read(&s->data, &s->size, path, &e))
		die("%s", e.msg);
}

static int by_size(const void *a, const void *b)
{
	const struct seed *x = a, *y = b;

	return x->size != y->size ? (x->size < y->size ? -1 : 1) : memcmp(x->data, y->data, x->size);
}

static uint32_t below(struct rng *r, size_t n)
{
	return rng_below(r, (uint32_t)(n ? n : 1));
}

/* One change of buf: bytes, bits, numbers, cuts, copies within and from another seed. */
static size_t change(uint8_t *buf, size_t n, struct rng *r)
{
	static const uint8_t odd[] = { 0,   1,   0x7f, 0x80, 0xff, '"',  '{', '}',
				       '[', ',', ':',  '-',  '9',  '\n', ' ' };
	const struct seed *other = &seeds[below(r, (size_t)n_seeds)];
	size_t at = below(r, n), len = 1 + below(r, 16), from = below(r, other->size);

	if (!n)
		return n;
	switch (below(r, 8)) {
	case 0:
		buf[at] ^= (uint8_t)(1u << below(r, 8));
		return n;
	case 1:
		buf[at] = odd[below(r, sizeof odd)];
		return n;
	case 2:
		buf[at] = (uint8_t)below(r, 256);
		return n;
	case 3: /* cut off */
		return at;
	case 4: /* cut out */
		len = len > n - at ? n - at : len;
		memmove(buf + at, buf + at + len, n - at - len);
		return n - len;
	case 5: /* a digit or word again */
		len = len > n - at ? n - at : len;
		if (n + len > MOST)
			return n;
		memmove(buf + at + len, buf + at, n - at);
		return n + len;
	case 6: /* numbers at the ends of their range */
		for (size_t i = 0; i < 8 && at + i < n; i++)
			buf[at + i] = below(r, 2) ? 0xff : 0;
		return n;
	default: /* a piece of another */
		len = len * 4 > other->size - from ? other->size - from : len * 4;
		if (at + len > MOST)
			return n;
		memcpy(buf + at, other->data + from, len);
		return at + len > n ? at + len : n;
	}
}

volatile int64_t last_mutation;

int main(int argc, char **argv)
{
	static uint8_t buf[MOST];

	for (int i = 1; i + 1 < argc; i++)
		add(argv[i]);
	if (argc < 3 || !n_seeds)
		die("usage: %s FILE_OR_FOLDER ... MUTATIONS", argv[0]);
	qsort(seeds, (size_t)n_seeds, sizeof *seeds, by_size); /* readdir's order is nobody's */
	for (int i = 0; i < n_seeds; i++)
		fuzz_one((const uint8_t *)seeds[i].data, seeds[i].size);
	int64_t mutations = atoll(argv[argc - 1]);
	for (last_mutation = 0; last_mutation < mutations; last_mutation++) {
		struct rng r = rng_make(1, RNG_USER, 0, (uint64_t)last_mutation);
		const struct seed *s = &seeds[below(&r, (size_t)n_seeds)];
		size_t n = s->size < MOST ? s->size : MOST;

		memcpy(buf, s->data, n);
		for (uint32_t k = 1 + below(&r, 6); k > 0; k--)
			n = change(buf, n, &r);
		/* its own allocation, so that a sanitizer sees one byte too far */
		uint8_t *exact = mem_alloc(n);
		memcpy(exact, buf, n);
		fuzz_one(exact, n);
		free(exact);
	}
	printf("%d files and %lld mutations\n", n_seeds, (long long)mutations);
	for (int i = 0; i < n_seeds; i++)
		free(seeds[i].data);
	free(seeds);
	return 0;
}
