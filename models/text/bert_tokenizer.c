/*
 * bert_tokenizer.c -- BERT's WordPiece.
 *
 * Special tokens that are written in the text are taken out of it first.  What is between them is cleaned,
 * stripped of accents and lower-cased, cut at white space and around punctuation, and each word is covered
 * from its start by the longest piece of the vocabulary; pieces inside a word are listed with "##" before
 * them.
 *
 * Categories of characters are utf8proc's.  The tokenizers library has those of Unicode 7 (2014): marks and
 * punctuation that came later are letters there.
 */
#include "models/text/tokenizer.h"
#include "models/text/unicode.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define INSIDE "##"

struct added {
	char *text;
	int64_t id;
};
struct bert_tokenizer {
	json_t *vocab; /* piece -> id */
	struct added *added;
	int n_added, cap_added;
	int64_t cls, sep, pad, unk, longest; /* words of more characters than `longest` are unknown */
	bool clean, chinese, strip, lower;
};

/* ---- Files --------------------------------------------------------------------------------------- */

static void add_token(struct bert_tokenizer *t, const char *text, int64_t id)
{
	for (int i = 0; i < t->n_added; i++)
		if (!strcmp(t->added[i].text, text))
			return;
	MEM_PUSH(t->added, t->n_added, t->cap_added) = (struct added) { mem_str(text), id };
}

/* A token that is found in the text as it is written there; o says how, as transformers writes it down. */
static int read_added(struct bert_tokenizer *t, const json_t *o, int64_t id, const char *path, struct err *e)
{
	static const char *const flags[] = { "normalized", "single_word", "lstrip", "rstrip" };
	const char *text;
	bool flag;

	if (json_get_str(&text, o, "content", NULL, path, e))
		return -1;
	if (!text || !*text || id < 0)
		return err_set(e, "%s: an added token without content or id", path);
	for (int i = 0; i < 4; i++) {
		if (json_get_bool(&flag, o, flags[i], false, path, e))
			return -1;
		if (flag)
			return err_set(e,
				       "%s: the added token '%.60s' is `%s`, which is not supported: wanted "
				       "one that is found as it is written",
				       path, text, flags[i]);
	}
	add_token(t, text, id);
	return 0;
}

/* The keys have other names in tokenizer.json's normalizer than in tokenizer_config.json. */
static int read_options(struct bert_tokenizer *t, const json_t *o, bool fast, const char *path, struct err *e)
{
	const json_t *strip = json_object_get(o, "strip_accents");

	if (json_get_bool(&t->clean, o, "clean_text", true, path, e) ||
	    json_get_bool(&t->chinese, o, fast ? "handle_chinese_chars" : "tokenize_chinese_chars", true,
			  path, e) ||
	    json_get_bool(&t->lower, o, fast ? "lowercase" : "do_lower_case", true, path, e))
		return -1;
	t->strip = t->lower; /* null: whatever the case is */
	return strip && !json_is_null(strip) ? json_get_bool(&t->strip, o, "strip_accents", true, path, e)
					     : 0;
}

static int is_type(const json_t *o, const char *section, const char *want, const char *path, struct err *e)
{
	const char *type = json_string_value(json_object_get(json_object_get(o, section), "type"));

	return type && !strcmp(type, want)
		   ? 0
		   : err_set(e, "%s: its %s is %s, wanted %s", path, section, type ? type : "missing", want);
}

static int parse_fast(struct bert_tokenizer *t, const json_t *o, const char *path, struct err *e)
{
	const json_t *model = json_object_get(o, "model"), *x;
	const char *inside;
	int64_t id;
	size_t i;

	if (is_type(o, "model", "WordPiece", path, e) ||
	    is_type(o, "normalizer", "BertNormalizer", path, e) ||
	    is_type(o, "pre_tokenizer", "BertPreTokenizer", path, e) ||
	    json_get_str(&inside, model, "continuing_subword_prefix", INSIDE, path, e) ||
	    json_get_int(&t->longest, model, "max_input_chars_per_word", t->longest, path, e) ||
	    read_options(t, json_object_get(o, "normalizer"), true, path, e))
		return -1;
	if (strcmp(inside, INSIDE) != 0)
		return err_set(e, "%s: pieces inside a word begin with '%.20s', wanted '" INSIDE "'", path,
			       inside);
	if (t->longest < 1 || t->longest > 10000)
		return err_set(e, "%s: max_input_chars_per_word = %lld: wanted 1 to 10000", path,
			       (long long)t->longest);
	t->vocab = json_incref(json_object_get(model, "vocab"));
	json_array_foreach(json_object_get(o, "added_tokens"), i, x)
	{
		if (json_get_int(&id, x, "id", -1, path, e) || read_added(t, x, id, path, e))
			return -1;
	}
	return 0;
}

static int read_fast(struct bert_tokenizer *t, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	int ret = o ? parse_fast(t, o, path, e) : -1;

	json_decref(o);
	return ret;
}

/* A piece a line; the number of the line, from 0, is its id. */
static int read_vocab(struct bert_tokenizer *t, const char *path, struct err *e)
{
	char *text;
	size_t size;
	int64_t id = 0;
	int ret = 0;

	if (file_read(&text, &size, path, e))
		return -1;
	t->vocab = json_object();
	for (char *s = text, *next; s < text + size && !ret; s = next) {
		char *stop = memchr(s, '\n', (size_t)(text + size - s));
		next = stop ? stop + 1 : text + size;
		stop = stop ? stop : next;
		if (stop > s && stop[-1] == '\r')
			stop--;
		*stop = '\0';
		if (strlen(s) != (size_t)(stop - s) || json_object_set_new(t->vocab, s, json_integer(id)))
			ret = err_set(e, "%s:%lld: not UTF-8 text", path, (long long)id + 1);
		id++;
	}
	free(text);
	return ret;
}

/* tokenizer_config.json beside vocab.txt; without it, or without a key: BERT's uncased defaults. */
static int read_config(struct bert_tokenizer *t, const char *path, struct err *e)
{
	json_t *o = file_exists(path) ? json_read(path, e) : json_object();
	json_t *added = json_object_get(o, "added_tokens_decoder"), *x;
	const char *id;
	int ret = o ? read_options(t, o, false, path, e) : -1;

	json_object_foreach(added, id, x)
	{
		char *end;
		long long number = strtoll(id, &end, 10);
		if (!ret)
			ret = read_added(t, x, *end ? -1 : number, path, e);
	}
	json_decref(o);
	return ret;
}

static int check_ids(const struct bert_tokenizer *t, const char *path, struct err *e)
{
	const char *piece;
	const json_t *id;

	if (!json_is_object(t->vocab))
		return err_set(e, "%s: no model.vocab", path);
	json_object_foreach(t->vocab, piece, id)
	{
		if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > 1 << 30)
			return err_set(e, "%s: the id of '%.60s' is no number from 0", path, piece);
	}
	return 0;
}

static int find_special(struct bert_tokenizer *t, const char *path, struct err *e)
{
	static const char *const name[] = { "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]" };
	int64_t *const to[] = { &t->cls, &t->sep, &t->pad, &t->unk, NULL };

	for (int i = 0; i < 5; i++) {
		const json_t *id = json_object_get(t->vocab, name[i]);
		if (!id && to[i])
			return err_set(e, "%s: the vocabulary lacks %s", path, name[i]);
		if (to[i])
			*to[i] = json_integer_value(id);
		if (id)
			add_token(t, name[i], json_integer_value(id));
	}
	return 0;
}

static int read_files(struct bert_tokenizer *t, const char *dir, struct err *e)
{
	char *fast = file_join(dir, "tokenizer.json"), *vocab = file_join(dir, "vocab.txt"),
	     *config = file_join(dir, "tokenizer_config.json");
	bool old = file_exists(vocab) && !file_exists(fast);
	int ret = old ? read_vocab(t, vocab, e) || read_config(t, config, e) : read_fast(t, fast, e);

	if (!ret)
		ret = check_ids(t, old ? vocab : fast, e) || find_special(t, old ? vocab : fast, e);
	free(fast);
	free(vocab);
	free(config);
	return ret ? -1 : 0;
}

int bert_tokenizer_open(struct bert_tokenizer **out, const char *dir, struct err *e)
{
	struct bert_tokenizer *t = mem_zero(1, sizeof *t);

	t->longest = 100;
	if (read_files(t, dir, e)) {
		bert_tokenizer_close(t);
		return -1;
	}
	*out = t;
	return 0;
}

void bert_tokenizer_close(struct bert_tokenizer *t)
{
	if (!t)
		return;
	for (int i = 0; i < t->n_added; i++)
		free(t->added[i].text);
	free(t->added);
	json_decref(t->vocab);
	free(t);
}

/* ---- Encoding ------------------------------------------------------------------------------------ */

static bool is_chinese(int32_t c)
{
	return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
	       (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B81F) ||
	       (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
	       (c >= 0x2F800 && c <= 0x2FA1F);
}

/* Punctuation, and what ASCII has of other symbols. */
static bool is_punctuation(int32_t c)
{
	utf8proc_category_t category = utf8proc_category(c);

	if (c < 128)
		return c > ' ' && c < 127 && category != UTF8PROC_CATEGORY_LU &&
		       category != UTF8PROC_CATEGORY_LL && category != UTF8PROC_CATEGORY_ND;
	return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

static bool is_dropped(int32_t c)
{
	utf8proc_category_t category = utf8proc_category(c);

	if (c == '\t' || c == '\n' || c == '\r')
		return false;
	return c == 0xFFFD || category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
	       category == UTF8PROC_CATEGORY_CO;
}

/* Without controls, white space as blanks, ideographs as words of their own. */
static void clean(const struct bert_tokenizer *t, struct text *out, const char *s, size_t n)
{
	int32_t c;

	for (size_t i = 0; i < n;) {
		i += unicode_next(s + i, n - i, &c);
		if (t->clean && is_dropped(c))
			continue;
		if (t->clean && unicode_is_space(c))
			c = ' ';
		bool apart = t->chinese && is_chinese(c);
		if (apart)
			text_add(out, " ");
		unicode_put(out, c);
		if (apart)
			text_add(out, " ");
	}
}

static void normalise(const struct bert_tokenizer *t, struct text *out, const char *s, size_t n)
{
	struct text cleaned = { 0 };
	char *nfd = NULL;
	int32_t c;

	clean(t, &cleaned, s, n);
	if (t->strip)
		nfd = unicode_nfd(cleaned.s, cleaned.n, &n);
	else
		n = cleaned.n;
	s = nfd ? nfd : cleaned.s;
	for (size_t i = 0; i < n;) {
		i += unicode_next(s + i, n - i, &c);
		if (t->strip && utf8proc_category(c) == UTF8PROC_CATEGORY_MN)
			continue;
		if (t->lower)
			unicode_put_lower(out, c);
		else
			unicode_put(out, c);
	}
	free(nfd);
	text_free(&cleaned);
}

/* The id of the longest piece that begins s[0..n), whose bytes go to *used; -1 when there is none.  A piece
 * cut inside a character is no UTF-8, and so is not in the vocabulary.  buf has room for n + 3 bytes. */
static int64_t longest_piece(const struct bert_tokenizer *t, char *buf, const char *s, size_t n, bool inside,
			     size_t *used)
{
	size_t before = inside ? strlen(INSIDE) : 0;

	memcpy(buf, INSIDE, before);
	memcpy(buf + before, s, n);
	for (; n; n--) {
		buf[before + n] = '\0';
		const json_t *id = json_object_get(t->vocab, buf);
		if (id) {
			*used = n;
			return json_integer_value(id);
		}
	}
	return -1;
}

/* The ids of one word; a word that cannot be covered whole is unknown. */
static int64_t encode_word(const struct bert_tokenizer *t, const char *word, size_t n, int64_t *ids,
			   int64_t room)
{
	int64_t count = 0, characters = 0, *id;
	char *buf;

	for (size_t i = 0; i < n; i++)
		characters += ((uint8_t)word[i] & 0xC0) != 0x80;
	if (characters > t->longest) {
		ids[0] = t->unk;
		return 1;
	}
	buf = mem_alloc(n + sizeof INSIDE);
	id = mem_alloc(n * sizeof *id);
	for (size_t at = 0, used = 0; at < n; at += used) {
		id[count] = longest_piece(t, buf, word + at, n - at, at > 0, &used);
		if (id[count++] < 0) {
			id[0] = t->unk;
			count = 1;
			break;
		}
	}
	count = count < room ? count : room;
	memcpy(ids, id, (size_t)count * sizeof *ids);
	free(buf);
	free(id);
	return count;
}

/* The ids of a stretch of text without special tokens; stops when `room` is full. */
static int64_t encode_stretch(const struct bert_tokenizer *t, const char *s, size_t n, int64_t *ids,
			      int64_t room)
{
	struct text norm = { 0 };
	int64_t out = 0;
	int32_t c;

	normalise(t, &norm, s, n);
	for (size_t at = 0, from = 0, k; at < norm.n && out < room; at += k) {
		k = unicode_next(norm.s + at, norm.n - at, &c);
		bool space = unicode_is_space(c), alone = is_punctuation(c), last = at + k == norm.n;
		if (space || alone || last) {
			size_t stop = space || alone ? at : at + k;
			if (stop > from)
				out += encode_word(t, norm.s + from, stop - from, ids + out, room - out);
			from = at + k;
		}
		if (alone && out < room)
			out += encode_word(t, norm.s + at, k, ids + out, room - out);
	}
	text_free(&norm);
	return out;
}

/* The longest special token at the start of s: its length, or 0. */
static size_t special(const struct bert_tokenizer *t, const char *s, int64_t *id)
{
	size_t longest = 0;

	for (int i = 0; i < t->n_added; i++) {
		size_t n = strlen(t->added[i].text);
		if (n > longest && text_starts(s, t->added[i].text)) {
			longest = n;
			*id = t->added[i].id;
		}
	}
	return longest;
}

int bert_tokenizer_encode(const struct bert_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			  struct err *e)
{
	int64_t n = 1, id = 0;

	if (unicode_check(text, strlen(text), e))
		return -1;
	ids[0] = t->cls;
	while (*text && n < length - 1) {
		size_t k = 0, stretch = 0;
		while (text[stretch] && !(k = special(t, text + stretch, &id)))
			stretch++;
		n += encode_stretch(t, text, stretch, ids + n, length - 1 - n);
		if (k && n < length - 1)
			ids[n++] = id;
		text += stretch + k;
	}
	ids[n++] = t->sep;
	while (n < length)
		ids[n++] = t->pad;
	return 0;
}
