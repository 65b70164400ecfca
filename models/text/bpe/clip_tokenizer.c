/*
 * clip_tokenizer.c -- the byte-level BPE of CLIP.
 *
 * A prompt is normalised (unicode_clip), cut into words by the original's expression, and each word's bytes,
 * written as printable characters with "</w>" behind the last, are merged pair by pair in the order of the
 * learned list.
 */
#include "models/text/bpe/byte_pairs.h"
#include "models/text/open_clip_text.h"
#include "models/text/tokenizer.h"
#include "models/text/unicode.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

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

struct clip_tokenizer {
	struct byte_pairs pairs;
	int32_t byte_id[2][256]; /* of a byte, and of a byte that ends a word; -1: none */
	int64_t bos, eos, pad;
	char *pad_name;
	pcre2_code *words, *open_words;
};

/* ---- Files --------------------------------------------------------------------------------------- */

static int find_special(struct clip_tokenizer *t, const char *dir, struct err *e)
{
	const char *path = t->pairs.path;
	char *pad;

	if (byte_pairs_special(&pad, dir, "pad_token", e))
		return -1;
	t->bos = byte_pairs_id(&t->pairs, BOS);
	t->eos = byte_pairs_id(&t->pairs, EOS);
	t->pad_name = pad ? pad : mem_str(EOS);
	t->pad = byte_pairs_id(&t->pairs, t->pad_name);
	if (t->bos < 0 || t->eos < 0)
		return err_set(e, "%s: the vocabulary lacks " BOS " or " EOS, path);
	if (t->pad < 0)
		return err_set(e, "%s: the padding token '%.60s' is not in the vocabulary", path,
			       t->pad_name);
	return 0;
}

int clip_tokenizer_open(struct clip_tokenizer **out, const char *dir, struct err *e)
{
	struct clip_tokenizer *t = mem_zero(1, sizeof *t);

	if (byte_pairs_open(&t->pairs, dir, e) || find_special(t, dir, e)) {
		clip_tokenizer_close(t);
		return -1;
	}
	byte_pairs_bytes(&t->pairs, "", t->byte_id[0]);
	byte_pairs_bytes(&t->pairs, END, t->byte_id[1]);
	t->words = byte_pairs_words(WORDS);
	t->open_words = byte_pairs_words(OPEN_WORDS);
	*out = t;
	return 0;
}

void clip_tokenizer_close(struct clip_tokenizer *t)
{
	if (!t)
		return;
	byte_pairs_release(&t->pairs);
	free(t->pad_name);
	pcre2_code_free(t->words);
	pcre2_code_free(t->open_words);
	free(t);
}

/* ---- Encoding ------------------------------------------------------------------------------------ */

/* The ids of one word, at most `room`; `id` has room for its bytes. */
static int64_t encode_word(const struct clip_tokenizer *t, const char *word, size_t n, int32_t *id,
			   int64_t *ids, int64_t room)
{
	int64_t out = 0;

	for (size_t i = 0; i < n; i++)
		id[i] = t->byte_id[i + 1 == n][(uint8_t)word[i]];
	n = byte_pairs_merge(&t->pairs, id, n);
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
