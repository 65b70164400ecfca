/* byte_pairs.c -- files, and the merging. */
#include "models/text/bpe/byte_pairs.h"
#include "models/text/unicode.h"
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

int64_t byte_pairs_id(const struct byte_pairs *b, const char *token)
{
	const json_t *v = json_object_get(b->vocab, token);
	int64_t id = json_is_integer(v) ? json_integer_value(v) : -1;

	return id <= INT32_MAX ? id : -1;
}

/* Bytes stand for themselves where they are printable and for U+0100 + k, the k-th other byte, where not. */
void byte_pairs_bytes(const struct byte_pairs *b, const char *suffix, int32_t id[256])
{
	int other = 0;

	for (int c = 0; c < 256; c++) {
		bool printable = (c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xAC) || c >= 0xAE;
		struct text name = { 0 };
		unicode_put(&name, printable ? c : 0x100 + other++);
		text_add(&name, suffix);
		id[c] = (int32_t)byte_pairs_id(b, name.s);
		text_free(&name);
	}
}

/* ---- Files --------------------------------------------------------------------------------------- */

static int add_merge(struct byte_pairs *b, const char *left, const char *right, int32_t rank,
		     const char *path, struct err *e)
{
	char *both = mem_printf("%s%s", left, right);
	int64_t l = byte_pairs_id(b, left), r = byte_pairs_id(b, right), whole = byte_pairs_id(b, both);
	int ret = 0;

	if (l < 0 || r < 0 || whole < 0)
		ret = err_set(e, "%s: merge %d (%.60s %.60s): %s is not in the vocabulary", path, rank + 1,
			      left, right,
			      l < 0   ? "the first"
			      : r < 0 ? "the second"
				      : "the result");
	else
		b->merge[b->n_merge++] =
		    (struct byte_pair) { (uint64_t)l << 32 | (uint64_t)r, rank, (int32_t)whole };
	free(both);
	return ret;
}

static int by_pair(const void *a, const void *b)
{
	const struct byte_pair *x = a, *y = b;

	if (x->pair != y->pair)
		return x->pair < y->pair ? -1 : 1;
	return x->rank - y->rank;
}

/* "left right" a line, the list's order; the first line may be a version. */
static int parse_merges(struct byte_pairs *b, char *text, const char *path, struct err *e)
{
	size_t lines = 1;
	int32_t rank = 0;
	char *save = NULL;

	for (const char *c = text; *c; c++)
		lines += *c == '\n';
	b->merge = mem_zero(lines, sizeof *b->merge);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		size_t n = strlen(line);
		char *right = strchr(line, ' ');
		if (!rank && text_starts(line, "#version"))
			continue;
		if (n && line[n - 1] == '\r')
			line[n - 1] = '\0';
		if (!right || !right[1] || strchr(right + 1, ' '))
			return err_set(e, "%s: '%.60s' is not a pair of tokens", path, line);
		*right = '\0';
		if (add_merge(b, line, right + 1, rank++, path, e))
			return -1;
	}
	return 0;
}

static int read_merges(struct byte_pairs *b, const char *path, struct err *e)
{
	char *text = NULL;
	size_t n;
	int ret = file_read(&text, &n, path, e);

	if (!ret && strlen(text) != n)
		ret = err_set(e, "%s: a zero byte", path);
	if (!ret)
		ret = parse_merges(b, text, path, e);
	free(text);
	return ret;
}

/* model.vocab and model.merges of tokenizer.json; a merge is "a b" or ["a", "b"]. */
static int read_json(struct byte_pairs *b, const char *path, struct err *e)
{
	json_t *o = b->whole = json_read(path, e);
	const json_t *model = json_object_get(o, "model"), *merges = json_object_get(model, "merges"), *x;
	const char *type = json_string_value(json_object_get(model, "type"));
	size_t i;
	int ret = o ? 0 : -1;

	b->vocab = json_incref(json_object_get(model, "vocab"));
	if (!ret &&
	    ((type && strcmp(type, "BPE") != 0) || !json_is_object(b->vocab) || !json_is_array(merges)))
		ret = err_set(e, "%s: not a BPE tokenizer with model.vocab and model.merges", path);
	if (!ret)
		b->merge = mem_zero(json_array_size(merges) + 1, sizeof *b->merge);
	json_array_foreach(merges, i, x)
	{
		const char *pair = json_string_value(x), *right = pair ? strchr(pair, ' ') : NULL;
		char *left = right ? mem_printf("%.*s", (int)(right - pair), pair)
				   : mem_str(json_string_value(json_array_get(x, 0)));
		right = right ? right + 1 : json_string_value(json_array_get(x, 1));
		if (!ret && (!left || !right))
			ret = err_set(e, "%s: model.merges[%zu] is not a pair of tokens", path, i);
		if (!ret)
			ret = add_merge(b, left, right, (int32_t)i, path, e);
		free(left);
	}
	return ret;
}

int byte_pairs_open(struct byte_pairs *b, const char *dir, struct err *e)
{
	char *vocab = file_join(dir, "vocab.json"), *merges = file_join(dir, "merges.txt"),
	     *fast = file_join(dir, "tokenizer.json");
	bool old = file_exists(vocab) || !file_exists(fast);
	int ret;

	*b = (struct byte_pairs) { .path = mem_str(old ? vocab : fast) };
	if (old)
		ret = !(b->vocab = json_read(vocab, e)) || read_merges(b, merges, e) ? -1 : 0;
	else
		ret = read_json(b, fast, e);
	if (ret)
		byte_pairs_release(b);
	else
		qsort(b->merge, b->n_merge, sizeof *b->merge, by_pair);
	free(vocab);
	free(merges);
	free(fast);
	return ret;
}

void byte_pairs_release(struct byte_pairs *b)
{
	json_decref(b->vocab);
	json_decref(b->whole);
	free(b->merge);
	free(b->path);
	*b = (struct byte_pairs) { 0 };
}

int byte_pairs_special(char **token, const char *dir, const char *key, struct err *e)
{
	static const char *const files[] = { "tokenizer_config.json", "special_tokens_map.json" };
	int ret = 0;

	*token = NULL;
	for (int i = 0; i < 2 && !*token && !ret; i++) {
		char *name = file_join(dir, files[i]);
		if (file_exists(name)) {
			json_t *o = json_read(name, e);
			const json_t *v = json_object_get(o, key);
			ret = o ? 0 : -1;
			*token =
			    mem_str(json_string_value(json_is_object(v) ? json_object_get(v, "content") : v));
			json_decref(o);
		}
		free(name);
	}
	return ret;
}

pcre2_code *byte_pairs_words(const char *expression)
{
	int code;
	PCRE2_SIZE at;
	pcre2_code *c = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
				      &code, &at, NULL);

	if (!c)
		die("PCRE2 does not take the expression of a tokenizer's words (error %d)", code);
	pcre2_jit_compile(c, PCRE2_JIT_COMPLETE); /* without it, it is slower */
	return c;
}

/* ---- Merging ------------------------------------------------------------------------------------- */

static const struct byte_pair *find_merge(const struct byte_pairs *b, int32_t left, int32_t right)
{
	struct byte_pair key = { (uint64_t)(uint32_t)left << 32 | (uint32_t)right, 0, 0 };
	size_t low = 0, high = b->n_merge;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (b->merge[mid].pair < key.pair)
			low = mid + 1;
		else
			high = mid;
	}
	return low < b->n_merge && b->merge[low].pair == key.pair ? &b->merge[low] : NULL;
}

size_t byte_pairs_merge(const struct byte_pairs *b, int32_t *id, size_t n)
{
	const struct byte_pair **next = mem_zero(n + 1, sizeof *next); /* of the pair that starts here */

	for (size_t i = 0; i + 1 < n; i++)
		next[i] = find_merge(b, id[i], id[i + 1]);
	for (;;) {
		size_t best = n;
		for (size_t i = 0; i + 1 < n; i++)
			if (next[i] && (best == n || next[i]->rank < next[best]->rank))
				best = i;
		if (best == n)
			break;
		id[best] = next[best]->id;
		memmove(id + best + 1, id + best + 2, (n - best - 2) * sizeof *id);
		memmove(next + best + 1, next + best + 2, (n - best - 2) * sizeof *next);
		n--;
		next[best] = best + 1 < n ? find_merge(b, id[best], id[best + 1]) : NULL;
		next[n - 1] = NULL;
		if (best)
			next[best - 1] = find_merge(b, id[best - 1], id[best]);
	}
	free(next);
	return n;
}
