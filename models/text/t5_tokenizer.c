/*
 * t5_tokenizer.c -- T5's unigram pieces, with the text prepared as transformers' tokenizer prepares it.
 *
 * transformers does not run sentencepiece.  Its own normaliser looks the model's table of replacements up per
 * grapheme (shorter than six bytes) or per code point, and takes the shortest entry that is a prefix, where
 * sentencepiece takes the longest match anywhere in the text: the two differ on combining marks.  Its search
 * for the likeliest pieces adds in double precision, where sentencepiece adds floats: the two differ on ties.
 * So spiece.c reads the model, from spiece.model or tokenizer.json, and the text is normalised, cut at white
 * space and segmented here.
 */
#include "models/text/spiece.h"
#include "models/text/tokenizer.h"
#include "models/text/unicode.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define SENTINELS 100
#define UNKNOWN   10.0           /* below the lowest score of a piece */
#define META      "\xE2\x96\x81" /* U+2581, the blank of pieces */
enum { PAD, EOS, UNK };

struct t5_tokenizer {
	struct spiece *pieces;
	char *model; /* the file */
	size_t size;
	/* The table of replacements in the file: a trie of 32-bit units, and the strings that it points to.
	 */
	const uint8_t *trie;
	const char *strings;
	size_t n_units, n_strings;
	double lowest;  /* score of a piece */
	size_t longest; /* piece, in bytes */
};

/* ---- spiece.model -------------------------------------------------------------------------------- */

static uint32_t little(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The model's table: size of the trie, the trie, NUL-terminated strings. */
static int find_table(struct t5_tokenizer *t, const char *path, struct err *e)
{
	size_t n;
	const uint8_t *map = spiece_table(t->pieces, &n);

	if (!n)
		return 0;
	size_t trie = n >= 4 ? little(map) : 0;
	if (n < 4 || trie % 4 || trie > n - 4 || (n > 4 + trie && map[n - 1]))
		return err_set(e, "%s: the table of replacements is broken", path);
	t->trie = map + 4;
	t->n_units = trie / 4;
	t->strings = (const char *)map + 4 + trie;
	t->n_strings = n - 4 - trie;
	return 0;
}

/* The replacement of the shortest entry that is a prefix of s; NULL when there is none.  The trie is a double
 * array of darts-clone: a unit holds a label (low byte), a leaf's mark (bit 8) and an offset (from bit 10,
 * times 256 with bit 9). */
static const char *replacement(const struct t5_tokenizer *t, const char *s, size_t n)
{
	size_t at = 0;
	uint32_t unit;

	if (!t->n_units)
		return NULL;
	unit = little(t->trie);
	at = (unit >> 10) << ((unit & 1u << 9) >> 6);
	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)s[i];
		at ^= c;
		if (!c || at >= t->n_units)
			return NULL;
		unit = little(t->trie + 4 * at);
		if ((unit & (1u << 31 | 255)) != c)
			return NULL;
		at ^= (unit >> 10) << ((unit & 1u << 9) >> 6);
		if (unit >> 8 & 1) {
			size_t where = at < t->n_units ? little(t->trie + 4 * at) & 0x7fffffff : t->n_strings;
			return where < t->n_strings ? t->strings + where : NULL;
		}
	}
	return NULL;
}

int t5_tokenizer_open(struct t5_tokenizer **out, const char *dir, struct err *e)
{
	struct t5_tokenizer *t = mem_zero(1, sizeof *t);
	bool json = !file_is_in(dir, "spiece.model") && file_is_in(dir, "tokenizer.json");
	char *path = file_join(dir, json ? "tokenizer.json" : "spiece.model");
	int sentinels = SENTINELS, ret = file_read(&t->model, &t->size, path, e);

	if (!ret)
		ret = json ? spiece_open_json(&t->pieces, t->model, t->size, path, &sentinels, e)
			   : spiece_open(&t->pieces, t->model, t->size, path, e);
	if (!ret && sentinels != SENTINELS)
		ret = err_set(e, "%s: T5 has %d sentinels <extra_id_..> behind its pieces; here are %d", path,
			      SENTINELS, sentinels);
	if (!ret)
		ret = find_table(t, path, e);
	if (!ret && (spiece_find(t->pieces, "<pad>", 5) != PAD || spiece_find(t->pieces, "</s>", 4) != EOS ||
		     spiece_find(t->pieces, "<unk>", 5) != UNK))
		ret = err_set(e, "%s: the first pieces are not T5's <pad>, </s>, <unk>", path);
	for (int i = 0; !ret && i < spiece_size(t->pieces); i++) {
		double score = spiece_score(t->pieces, i);
		t->lowest = score < t->lowest ? score : t->lowest;
		t->longest =
		    spiece_bytes(t->pieces, i) > t->longest ? spiece_bytes(t->pieces, i) : t->longest;
	}
	free(path);
	if (ret)
		t5_tokenizer_close(t);
	else
		*out = t;
	return ret;
}

void t5_tokenizer_close(struct t5_tokenizer *t)
{
	if (!t)
		return;
	spiece_close(t->pieces);
	free(t->model);
	free(t);
}

/* ---- Encoding ------------------------------------------------------------------------------------ */

/* The end of the grapheme that starts at s. */
static size_t grapheme(const char *s, size_t n)
{
	int32_t before, c, state = 0;
	size_t at = unicode_next(s, n, &before);

	while (at < n) {
		size_t k = unicode_next(s + at, n - at, &c);
		if (utf8proc_grapheme_break_stateful(before, c, &state))
			break;
		before = c;
		at += k;
	}
	return at;
}

static void normalise(const struct t5_tokenizer *t, struct text *out, const char *s, size_t n)
{
	for (size_t at = 0; at < n;) {
		size_t size = grapheme(s + at, n - at);
		const char *r = size < 6 ? replacement(t, s + at, size) : NULL;
		int32_t c;
		if (r) {
			text_add(out, r);
		} else {
			for (size_t i = 0, k; i < size; i += k) {
				k = unicode_next(s + at + i, size - i, &c);
				r = replacement(t, s + at + i, k);
				if (r)
					text_add(out, r);
				else
					text_add_bytes(out, s + at + i, k);
			}
		}
		at += size;
	}
}

/* A special token at the start of s: its length, or 0. */
static size_t special(const struct t5_tokenizer *t, const char *s, int64_t *id)
{
	static const char *const name[] = { [PAD] = "<pad>", [EOS] = "</s>", [UNK] = "<unk>" };

	for (int i = PAD; i <= UNK; i++)
		if (text_starts(s, name[i])) {
			*id = i;
			return strlen(name[i]);
		}
	if (!text_starts(s, "<extra_id_"))
		return 0;
	const char *digits = s + strlen("<extra_id_");
	size_t n = strspn(digits, "0123456789");
	if (n < 1 || n > 2 || digits[n] != '>' || (n == 2 && *digits == '0'))
		return 0;
	*id = spiece_size(t->pieces) + SENTINELS - 1 - atoi(digits);
	return (size_t)(digits - s) + n + 1;
}

/* The likeliest way to here: where its last piece begins, and which it is. */
struct path {
	size_t from;
	int64_t id;
	double score;
	bool reached;
};

static void offer(struct path *to, size_t from, int64_t id, double score)
{
	if (!to->reached || score > to->score)
		*to = (struct path) { from, id, score, true };
}

/* The likeliest pieces of a word (Viterbi); a code point that no piece covers is unknown and costs 10 more
 * than the rarest piece; unknown ones in a row are one. */
static int64_t encode_word(const struct t5_tokenizer *t, const char *word, size_t n, int64_t *ids,
			   int64_t room)
{
	struct path *path = mem_zero(n + 1, sizeof *path);
	int64_t *last = mem_zero(n + 1, sizeof *last), count = 0, out = 0;
	int32_t c;

	for (size_t at = 0, one; at < n; at += one) {
		bool single = false;
		one = unicode_next(word + at, n - at, &c);
		for (size_t k = 1; k <= t->longest && at + k <= n; k++) {
			int id = spiece_find(t->pieces, word + at, k);
			if (id < 0)
				continue;
			offer(&path[at + k], at, id, spiece_score(t->pieces, id) + path[at].score);
			single |= k == one;
		}
		if (!single)
			offer(&path[at + one], at, UNK, t->lowest - UNKNOWN + path[at].score);
	}
	for (size_t at = n; at; at = path[at].from)
		if (path[at].id != UNK || !count || last[count - 1] != UNK)
			last[count++] = path[at].id;
	while (count && out < room)
		ids[out++] = last[--count];
	free(path);
	free(last);
	return out;
}

/* A word without white space, with the blank's sign before it: every such sign in it begins a piece of its
 * own. */
static int64_t encode_signed(const struct t5_tokenizer *t, const char *word, size_t n, int64_t *ids,
			     int64_t room)
{
	int64_t out = 0;

	for (size_t from = 0, to; from < n; from = to) {
		const char *next = memmem(word + from + 1, n - from - 1, META, strlen(META));
		to = next ? (size_t)(next - word) : n;
		out += encode_word(t, word + from, to - from, ids + out, room - out);
	}
	return out;
}

/* The ids of a stretch of text without special tokens; stops when `room` is full. */
static int64_t encode_stretch(const struct t5_tokenizer *t, const char *s, size_t n, int64_t *ids,
			      int64_t room)
{
	struct text norm = { 0 };
	int64_t out = 0;
	size_t at = 0;
	int32_t c;

	normalise(t, &norm, s, n);
	while (at < norm.n && out < room) {
		struct text word = { 0 };
		size_t from = at, k = 0;
		for (; at < norm.n; at += k) {
			k = unicode_next(norm.s + at, norm.n - at, &c);
			if (unicode_is_space(c))
				break;
		}
		if (at > from && !text_starts(norm.s + from, META))
			text_add(&word, META);
		text_add_bytes(&word, norm.s + from, at - from);
		if (at > from)
			out += encode_signed(t, word.s, word.n, ids + out, room - out);
		at += at < norm.n ? k : 0;
		text_free(&word);
	}
	text_free(&norm);
	return out;
}

int t5_tokenizer_encode(const struct t5_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			struct err *e)
{
	int64_t n = 0, id = 0;

	if (unicode_check(text, strlen(text), e))
		return -1;
	while (*text && n < length - 1) {
		size_t k = 0, stretch = 0;
		while (text[stretch] && !(k = special(t, text + stretch, &id)))
			stretch++;
		n += encode_stretch(t, text, stretch, ids + n, length - 1 - n);
		if (k && n < length - 1)
			ids[n++] = id;
		text += stretch + k;
	}
	ids[n++] = EOS;
	while (n < length)
		ids[n++] = PAD;
	return 0;
}
