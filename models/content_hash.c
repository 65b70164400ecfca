#include "models/content_hash.h"
#include "models/nn.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define SETTLED 3 /* seconds */

static _Atomic uint64_t bytes_read;

uint64_t content_hash_read(void)
{
	return atomic_load(&bytes_read);
}

/* Files by which a hash is remembered. */
struct subject {
	struct text names, facts; /* of all files, a line each */
	bool settled;             /* none is missing or has just been changed */
	uint64_t bytes;
};

static void add_file(struct subject *s, const char *path)
{
	char full[PATH_MAX];
	struct stat st;

	if (!path || !realpath(path, full) || stat(full, &st)) {
		s->settled = false;
		return;
	}
	time_t newest = st.st_mtim.tv_sec > st.st_ctim.tv_sec ? st.st_mtim.tv_sec : st.st_ctim.tv_sec;
	s->settled = s->settled && newest + SETTLED < time(NULL);
	s->bytes += (uint64_t)st.st_size;
	text_printf(&s->names, "%s\n", full);
	text_printf(&s->facts, "%s: %lld bytes, inode %llu, modified %lld.%09ld, changed %lld.%09ld\n", full,
		    (long long)st.st_size, (unsigned long long)st.st_ino, (long long)st.st_mtim.tv_sec,
		    st.st_mtim.tv_nsec, (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
}

static void subject_free(struct subject *s)
{
	text_free(&s->names);
	text_free(&s->facts);
}

static char *memory_of(const struct subject *s, const char *folder)
{
	return mem_printf("%s/%016" PRIx64, folder, file_hash(s->names.s, s->names.n, 0));
}

/* A memory is the facts and a line with the hash. */
static bool recall(uint64_t *hash, const struct subject *s, const char *folder)
{
	char *path = memory_of(s, folder), *data = NULL, *end;
	struct err ignored;
	size_t size;
	bool known = file_exists(path) && !file_read(&data, &size, path, &ignored) && size > s->facts.n &&
		     !memcmp(data, s->facts.s, s->facts.n);

	if (known) {
		*hash = strtoull(data + s->facts.n, &end, 16);
		known = end == data + s->facts.n + 16 && *end == '\n';
	}
	free(data);
	free(path);
	return known;
}

static void remember(uint64_t hash, const struct subject *s, const char *folder)
{
	char *path = memory_of(s, folder);
	struct text t = { 0 };
	struct err ignored;

	text_add_bytes(&t, s->facts.s, s->facts.n);
	text_printf(&t, "%016" PRIx64 "\n", hash);
	if (!file_mkdirs(folder, &ignored))
		file_write(path, t.s, t.n, &ignored);
	text_free(&t);
	free(path);
}

/* One file, or all that f consists of. */
static struct subject look(const char *path, const struct st_file *f)
{
	struct subject s = { .settled = true };

	for (int i = 0; f && i < f->n_map; i++)
		add_file(&s, st_path(f, i));
	if (path)
		add_file(&s, path);
	return s;
}

static int find(uint64_t *hash, const char *path, const struct st_file *f, const char *folder, struct err *e)
{
	struct subject before = look(path, f);
	int ret = 0;

	if (!before.settled || !folder || !recall(hash, &before, folder)) {
		if (f)
			*hash = st_hash(f);
		else
			ret = file_hash_path(hash, path, e);
		atomic_fetch_add(&bytes_read, before.bytes);
		struct subject after = look(path, f);
		if (!ret && folder && before.settled && !strcmp(before.facts.s, after.facts.s))
			remember(*hash, &before, folder);
		subject_free(&after);
	}
	subject_free(&before);
	return ret;
}

uint64_t content_hash(const struct st_file *f, const char *folder)
{
	struct err none;
	uint64_t hash;

	find(&hash, NULL, f, folder, &none);
	return hash;
}

int content_hash_path(uint64_t *hash, const char *path, const char *folder, struct err *e)
{
	return find(hash, path, NULL, folder, e);
}

/* The weights of a folder, whatever files they are in. */
static int hash_weights(uint64_t *hash, const char *path, const char *folder, struct err *e)
{
	char *config = file_join(path, "config.json");
	struct st_file f;
	uint64_t h[2];
	int ret =
	    content_hash_path(&h[0], config, folder, e) || st_open_model(&f, path, NN_TRANSFORMERS, NULL, e)
		? -1
		: 0;

	if (!ret) {
		h[1] = content_hash(&f, folder);
		st_close(&f);
		*hash = file_hash(h, sizeof h, *hash);
	}
	free(config);
	return ret;
}

static int hash_tokenizer(uint64_t *hash, const char *path, const char *folder, struct err *e)
{
	static const char *const names[] = { "vocab.json",
					     "merges.txt",
					     "spiece.model",
					     "tokenizer_config.json",
					     "special_tokens_map.json",
					     "added_tokens.json" };
	int ret = 0;

	for (size_t i = 0; i < sizeof names / sizeof *names && !ret; i++) {
		char *file = file_join(path, names[i]);
		uint64_t h = 0;

		if (file_exists(file))
			ret = content_hash_path(&h, file, folder, e);
		*hash = file_hash(&h, sizeof h, *hash);
		free(file);
	}
	/* read where the files above are not; apart, so that folders without it keep the hash they had */
	char *json = file_join(path, "tokenizer.json");
	uint64_t h;
	if (!ret && file_exists(json) && !(ret = content_hash_path(&h, json, folder, e)))
		*hash = file_hash(&h, sizeof h, *hash);
	free(json);
	return ret;
}

int content_hash_encoder(uint64_t *hash, const char *dir, const char *encoder, const char *tokenizer,
			 const char *folder, struct err *e)
{
	char *weights = file_join(dir, encoder), *words = file_join(dir, tokenizer);
	int ret = hash_weights(hash, weights, folder, e) || hash_tokenizer(hash, words, folder, e) ? -1 : 0;

	free(weights);
	free(words);
	return ret;
}
