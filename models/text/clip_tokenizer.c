/*
 * clip_tokenizer.c -- the byte-level BPE of CLIP.
 *
 * A prompt is normalised (unicode_clip), cut into words by the original's expression, and each word's bytes,
 * written as printable characters with "</w>" behind the last, are merged pair by pair in the order of the
 * learned list.
 */
#include "models/text/open_clip_text.h"
#include "models/text/tokenizer.h"
#include "models/text/unicode.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define BOS "<|startoftext|>"
#define EOS "<|endoftext|>"
#define END "</w>"
/* \s is spelled out: PCRE2's has no U+0085. */
#define WORDS                                                                                                \
	"<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|"                      \
	"[^\\p{Z}\\t\\n\\v\\f\\r\\x{85}\\p{L}\\p{N}]+"

/* open_clip's, of text that is cleaned: blanks are the only white space.  Case is of no account there, so a
 * long s is an s, and the iota below a letter, which is none by itself, belongs to no word. */
#define OPEN_BOS "<start_of_text>"
#define OPEN_EOS "<end_of_text>"
#define OPEN_WORDS                                                                                           \
	OPEN_BOS "|" OPEN_EOS "|'[s\\x{17F}]|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^ \\p{L}\\p{N}\\x{345}]+"

struct merge {
	uint64_t pair; /* left id << 32 | right id */
	int32_t rank, id;
};
struct clip_tokenizer {
	json_t *vocab;       /* token -> id */
	struct merge *merge; /* sorted by pair */
	size_t n_merge;
	int32_t byte_id[2][256]; /* of a byte, and of a byte that ends a word; -1: none */
	int64_t bos, eos, pad;
	char *pad_name;
	pcre2_code *words, *open_words;
};

/* ---- Files --------------------------------------------------------------------------------------- */

/* The id of a token, or -1. */
static int64_t id_of(const struct clip_tokenizer *t, const char *token)
{
	const json_t *v = json_object_get(t->vocab, token);

	return json_is_integer(v) ? json_integer_value(v) : -1;
}

/* Bytes stand for themselves where they are printable and for U+0100 + k, the k-th other byte, where not. */
static void list_bytes(struct clip_tokenizer *t)
{
	int other = 0;

	for (int b = 0; b < 256; b++) {
		bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
		struct text name = { 0 };
		unicode_put(&name, printable ? b : 0x100 + other++);
		t->byte_id[0][b] = (int32_t)id_of(t, name.s);
		text_add(&name, END);
		t->byte_id[1][b] = (int32_t)id_of(t, name.s);
		text_free(&name);
	}
}

static int add_merge(struct clip_tokenizer *t, const char *left, const char *right, int32_t rank,
		     const char *path, struct err *e)
{
	char *both = mem_printf("%s%s", left, right);
	int64_t a = id_of(t, left), b = id_of(t, right), c = id_of(t, both);
	int ret = 0;

	if (a < 0 || b < 0 || c < 0)
		ret = err_set(e, "%s: merge %d (%.60s %.60s): %s is not in the vocabulary", path, rank + 1,
			      left, right,
			      a < 0   ? "the first"
			      : b < 0 ? "the second"
				      : "the result");
	else
		t->merge[t->n_merge++] = (struct merge) { (uint64_t)a << 32 | (uint64_t)b, rank, (int32_t)c };
	free(both);
	return ret;
}

static int by_pair(const void *a, const void *b)
{
	const struct merge *x = a, *y = b;

	if (x->pair != y->pair)
		return x->pair < y->pair ? -1 : 1;
	return x->rank - y->rank;
}

/* "left right" a line, the list's order; the first line may be a version. */
static int parse_merges(struct clip_tokenizer *t, char *text, const char *path, struct err *e)
{
	size_t lines = 1;
	int32_t rank = 0;
	char *save = NULL;

	for (const char *c = text; *c; c++)
		lines += *c == '\n';
	t->merge = mem_zero(lines, sizeof *t->merge);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		size_t n = strlen(line);
		char *right = strchr(line, ' ');
		if (text_starts(line, "#version"))
			continue;
		if (n && line[n - 1] == '\r')
			line[n - 1] = '\0';
		if (!right || !right[1] || strchr(right + 1, ' '))
			return err_set(e, "%s: '%.60s' is not a pair of tokens", path, line);
		*right = '\0';
		if (add_merge(t, line, right + 1, rank++, path, e))
			return -1;
	}
	return 0;
}

static int read_merges(struct clip_tokenizer *t, const char *path, struct err *e)
{
	char *text = NULL;
	size_t n;
	int ret = file_read(&text, &n, path, e);

	if (!ret && strlen(text) != n)
		ret = err_set(e, "%s: a zero byte", path);
	if (!ret)
		ret = parse_merges(t, text, path, e);
	free(text);
	return ret;
}

/* model.vocab and model.merges of tokenizer.json; a merge is "a b" or ["a", "b"]. */
static int read_json(struct clip_tokenizer *t, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	const json_t *model = json_object_get(o, "model"), *merges = json_object_get(model, "merges"), *x;
	const char *type = json_string_value(json_object_get(model, "type"));
	size_t i;
	int ret = o ? 0 : -1;

	t->vocab = json_incref(json_object_get(model, "vocab"));
	if (!ret &&
	    ((type && strcmp(type, "BPE") != 0) || !json_is_object(t->vocab) || !json_is_array(merges)))
		ret = err_set(e, "%s: not a BPE tokenizer with model.vocab and model.merges", path);
	if (!ret)
		t->merge = mem_zero(json_array_size(merges) + 1, sizeof *t->merge);
	json_array_foreach(merges, i, x)
	{
		const char *pair = json_string_value(x), *right = pair ? strchr(pair, ' ') : NULL;
		char *left = right ? mem_printf("%.*s", (int)(right - pair), pair)
				   : mem_str(json_string_value(json_array_get(x, 0)));
		right = right ? right + 1 : json_string_value(json_array_get(x, 1));
		if (!ret && (!left || !right))
			ret = err_set(e, "%s: model.merges[%zu] is not a pair of tokens", path, i);
		if (!ret)
			ret = add_merge(t, left, right, (int32_t)i, path, e);
		free(left);
	}
	json_decref(o);
	return ret;
}

/* The padding token's text, borrowed from o; NULL when the file does not say. */
static const char *pad_token(const json_t *o)
{
	const json_t *v = json_object_get(o, "pad_token");

	return json_is_object(v) ? json_string_value(json_object_get(v, "content")) : json_string_value(v);
}

static int find_special(struct clip_tokenizer *t, const char *dir, const char *path, struct err *e)
{
	static const char *const files[] = { "tokenizer_config.json", "special_tokens_map.json" };
	char *pad = NULL;
	int ret = 0;

	for (int i = 0; i < 2 && !pad && !ret; i++) {
		char *name = file_join(dir, files[i]);
		if (file_exists(name)) {
			json_t *o = json_read(name, e);
			ret = o ? 0 : -1;
			pad = mem_str(pad_token(o));
			json_decref(o);
		}
		free(name);
	}
	t->bos = id_of(t, BOS);
	t->eos = id_of(t, EOS);
	t->pad_name = pad ? pad : mem_str(EOS);
	t->pad = id_of(t, t->pad_name);
	if (!ret && (t->bos < 0 || t->eos < 0))
		ret = err_set(e, "%s: the vocabulary lacks " BOS " or " EOS, path);
	else if (!ret && t->pad < 0)
		ret = err_set(e, "%s: the padding token '%.60s' is not in the vocabulary", path, t->pad_name);
	return ret;
}

static int read_files(struct clip_tokenizer *t, const char *dir, struct err *e)
{
	char *vocab = file_join(dir, "vocab.json"), *merges = file_join(dir, "merges.txt"),
	     *fast = file_join(dir, "tokenizer.json");
	bool old = file_exists(vocab) || !file_exists(fast);
	int ret;

	if (old)
		ret = !(t->vocab = json_read(vocab, e)) || read_merges(t, merges, e) ? -1 : 0;
	else
		ret = read_json(t, fast, e);
	if (!ret)
		ret = find_special(t, dir, old ? vocab : fast, e);
	free(vocab);
	free(merges);
	free(fast);
	return ret;
}

static pcre2_code *compile(const char *words)
{
	int code;
	PCRE2_SIZE at;
	pcre2_code *c =
	    pcre2_compile((PCRE2_SPTR)words, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);

	if (!c)
		die("PCRE2 does not take the expression of CLIP's words (error %d)", code);
	pcre2_jit_compile(c, PCRE2_JIT_COMPLETE); /* without it, it is slower */
	return c;
}

int clip_tokenizer_open(struct clip_tokenizer **out, const char *dir, struct err *e)
{
	struct clip_tokenizer *t = mem_zero(1, sizeof *t);

	if (read_files(t, dir, e)) {
		clip_tokenizer_close(t);
		return -1;
	}
	qsort(t->merge, t->n_merge, sizeof *t->merge, by_pair);
	list_bytes(t);
	t->words = compile(WORDS);
	t->open_words = compile(OPEN_WORDS);
	*out = t;
	return 0;
}

void clip_tokenizer_close(struct clip_tokenizer *t)
{
	if (!t)
		return;
	json_decref(t->vocab);
	free(t->pad_name);
	free(t->merge);
	pcre2_code_free(t->words);
	pcre2_code_free(t->open_words);
	free(t);
}

/* ---- Encoding ------------------------------------------------------------------------------------ */

static const struct merge *find_merge(const struct clip_tokenizer *t, int32_t a, int32_t b)
{
	struct merge key = { (uint64_t)(uint32_t)a << 32 | (uint32_t)b, 0, 0 };
	size_t low = 0, high = t->n_merge;

	while (low < high) {
		size_t mid = (low + high) / 2;
		if (t->merge[mid].pair < key.pair)
			low = mid + 1;
		else
			high = mid;
	}
	return low < t->n_merge && t->merge[low].pair == key.pair ? &t->merge[low] : NULL;
}

/* A word's bytes become ids in place of id[0..n); returns how many are left.  The pair of lowest rank is
 * merged first, the leftmost of equals; ids that are no token (byte_id -1) are the unknown token and never
 * merge. */
static size_t merge_word(const struct clip_tokenizer *t, int32_t *id, size_t n)
{
	const struct merge **next = mem_zero(n + 1, sizeof *next); /* of the pair that starts here */

	for (size_t i = 0; i + 1 < n; i++)
		next[i] = find_merge(t, id[i], id[i + 1]);
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
		next[best] = best + 1 < n ? find_merge(t, id[best], id[best + 1]) : NULL;
		next[n - 1] = NULL;
		if (best)
			next[best - 1] = find_merge(t, id[best - 1], id[best]);
	}
	free(next);
	return n;
}

/* The ids of one word, at most `room`; `id` has room for its bytes. */
static int64_t encode_word(const struct clip_tokenizer *t, const char *word, size_t n, int32_t *id,
			   int64_t *ids, int64_t room)
{
	int64_t out = 0;

	for (size_t i = 0; i < n; i++)
		id[i] = t->byte_id[i + 1 == n][(uint8_t)word[i]];
	n = merge_word(t, id, n);
	for (size_t i = 0; i < n && out < room; i++)
		ids[out++] = id[i] < 0 ? t->eos : id[i];
	return out;
}

static bool is(const char *word, size_t n, const char *name)
{
	return n == strlen(name) && !memcmp(word, name, n);
}

/* The ids of a stretch of normalised text; stops when `room` is full.  What reads as a special token only in
 * lower case is one match of the expression, but three words; open_clip knows them in lower case alone. */
static int64_t encode_stretch(const struct clip_tokenizer *t, const pcre2_code *words, const struct text *s,
			      int64_t *ids, int64_t room)
{
	pcre2_match_data *match = pcre2_match_data_create(1, NULL);
	int32_t *id = mem_zero(s->n + 1, sizeof *id);
	PCRE2_SIZE at = 0;
	int64_t n = 0;

	while (n < room &&
	       pcre2_match(words, (PCRE2_SPTR)s->s, s->n, at, PCRE2_NO_UTF_CHECK, match, NULL) > 0) {
		const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
		const char *word = s->s + range[0];
		size_t k = range[1] - range[0];

		if (words == t->open_words && (is(word, k, OPEN_BOS) || is(word, k, OPEN_EOS))) {
			ids[n++] = is(word, k, OPEN_BOS) ? t->bos : t->eos;
		} else if (words == t->words && (is(word, k, BOS) || is(word, k, EOS))) {
			n += encode_word(t, word, 2, id, ids + n, room - n);
			n += encode_word(t, word + 2, k - 4, id, ids + n, room - n);
			n += encode_word(t, word + k - 2, 2, id, ids + n, room - n);
		} else {
			n += encode_word(t, word, k, id, ids + n, room - n);
		}
		at = range[1];
	}
	free(id);
	pcre2_match_data_free(match);
	return n;
}

/* The first special token in the text, as it is written there: NULL when there is none. */
static const char *find_special_in(const struct clip_tokenizer *t, const char *text, size_t *n, int64_t *id)
{
	const char *const name[] = { BOS, EOS, t->pad_name };
	const int64_t ids[] = { t->bos, t->eos, t->pad };
	const char *first = NULL;

	for (int i = 0; i < 3; i++) {
		const char *at = *name[i] ? strstr(text, name[i]) : NULL;
		if (at && (!first || at < first || (at == first && strlen(name[i]) > *n))) {
			first = at;
			*n = strlen(name[i]);
			*id = ids[i];
		}
	}
	return first;
}

/* Special tokens written in the text are themselves; the rest is text. */
static int64_t encode_text(const struct clip_tokenizer *t, const char *text, int64_t *ids, int64_t room)
{
	int64_t n = 0, id = 0;

	while (*text && n < room) {
		size_t length = 0;
		const char *stop = find_special_in(t, text, &length, &id);
		struct text stretch = { 0 };
		unicode_clip(&stretch, text, stop ? (size_t)(stop - text) : strlen(text));
		if (stretch.n)
			n += encode_stretch(t, t->words, &stretch, ids + n, room - n);
		text_free(&stretch);
		if (!stop)
			break;
		if (n < room)
			ids[n++] = id;
		text = stop + length;
	}
	return n;
}

/* The ids of the text are there, n of them behind the place of the first. */
static void frame(const struct clip_tokenizer *t, int64_t n, int64_t length, int64_t *ids)
{
	ids[0] = t->bos;
	ids[++n] = t->eos;
	while (++n < length)
		ids[n] = t->pad;
}

int clip_tokenizer_encode(const struct clip_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			  struct err *e)
{
	if (unicode_check(text, strlen(text), e))
		return -1;
	frame(t, encode_text(t, text, ids + 1, length - 2), length, ids);
	return 0;
}

int clip_tokenizer_encode_open(const struct clip_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			       struct err *e)
{
	struct text clean = { 0 };

	if (unicode_check(text, strlen(text), e))
		return -1;
	open_clip_clean(&clean, text, strlen(text));
	frame(t, clean.n ? encode_stretch(t, t->open_words, &clean, ids + 1, length - 2) : 0, length, ids);
	text_free(&clean);
	return 0;
}
