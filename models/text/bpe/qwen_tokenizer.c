/*
 * qwen_tokenizer.c -- the byte-level BPE of Qwen2, Qwen2.5 and Qwen3.
 *
 * Added tokens ("<|im_start|>", "<think>") are found in the prompt before anything else; the text between
 * them is composed (NFC) and cut by the original's expression, and the bytes of each piece are merged.
 */
#include "models/text/bpe/byte_pairs.h"
#include "models/text/tokenizer.h"
#include "models/text/unicode.h"
#include "base/file.h"
#include "base/mem.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define PAD "<|endoftext|>"
/* As tokenizer.json writes it. */
#define WORDS_IN_FILE                                                                                        \
	"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"  \
	"\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* The same with \s spelled out: PCRE2's has no U+0085. */
#define SPACE "\\p{Z}\\t\\n\\v\\f\\r\\x{85}"
#define WORDS                                                                                                \
	"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^" SPACE                       \
	"\\p{L}\\p{N}]+[\\r\\n]*|[" SPACE "]*[\\r\\n]+|[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"

struct added_token {
	char *name;
	size_t size;
	int64_t id;
	bool composed; /* `normalized`: found in the text after NFC, not before */
};
struct qwen_tokenizer {
	struct byte_pairs pairs;
	int32_t byte_id[256];
	int64_t pad;
	struct added_token *added;
	int n_added, cap_added;
	pcre2_code *words;
};

/* ---- Files --------------------------------------------------------------------------------------- */

static const struct added_token *find_added(const struct qwen_tokenizer *t, const char *name)
{
	for (int i = 0; i < t->n_added; i++)
		if (!strcmp(t->added[i].name, name))
			return &t->added[i];
	return NULL;
}

static int add_token(struct qwen_tokenizer *t, const char *name, int64_t id, bool composed, const char *path,
		     struct err *e)
{
	const struct added_token *old = find_added(t, name);

	if (!*name || id < 0 || id > INT32_MAX)
		return err_set(e, "%s: the added token '%.60s' needs a name and an id", path, name);
	if (old)
		return old->id == id ? 0
				     : err_set(e, "%s: the added token '%.60s' has two ids, %lld and %lld",
					       path, name, (long long)old->id, (long long)id);
	MEM_PUSH(t->added, t->n_added, t->cap_added) =
	    (struct added_token) { mem_str(name), strlen(name), id, composed };
	return 0;
}

/* An object of tokenizer.json's added_tokens or of added_tokens_decoder. */
static int add_object(struct qwen_tokenizer *t, const json_t *o, int64_t id, const char *path, struct err *e)
{
	static const char *const flags[] = { "lstrip", "rstrip", "single_word" };
	const char *name = NULL;
	bool special, composed;

	if (json_get_str(&name, o, "content", "", path, e) ||
	    json_get_bool(&special, o, "special", false, path, e) ||
	    json_get_bool(&composed, o, "normalized", !special, path, e))
		return -1;
	for (int i = 0; i < 3; i++)
		if (json_is_true(json_object_get(o, flags[i])))
			return err_set(e, "%s: the added token '%.60s' is `%s`, which is not supported", path,
				       name, flags[i]);
	return add_token(t, name, id, composed, path, e);
}

/* added_tokens_decoder of tokenizer_config.json: { "151644": { "content": ... } }. */
static int read_decoder(struct qwen_tokenizer *t, const json_t *config, const char *path, struct err *e)
{
	const char *key;
	json_t *o;
	int ret = 0;

	json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, o)
	{
		char *end;
		int64_t id = strtoll(key, &end, 10);
		if (!ret)
			ret = add_object(t, o, *end || end == key ? -1 : id, path, e);
	}
	return ret;
}

/* added_tokens.json: { "<|im_start|>": 151644 }. */
static int read_added(struct qwen_tokenizer *t, const char *path, struct err *e)
{
	json_t *o = json_read(path, e), *v;
	const char *name;
	int ret = o ? 0 : -1;

	json_object_foreach(o, name, v)
	{
		if (!ret && !find_added(t, name))
			ret = add_token(t, name, json_is_integer(v) ? json_integer_value(v) : -1, false, path,
					e);
	}
	json_decref(o);
	return ret;
}

/* The expression of tokenizer.json, where there is one, is Qwen's: Llama's and later ones differ in a few
 * characters. */
static int check_words(const json_t *whole, const char *path, struct err *e)
{
	const json_t *steps = json_object_get(json_object_get(whole, "pre_tokenizer"), "pretokenizers"), *x;
	size_t i;

	json_array_foreach(steps, i, x)
	{
		const char *words =
		    json_string_value(json_object_get(json_object_get(x, "pattern"), "Regex"));
		if (words && strcmp(words, WORDS_IN_FILE) != 0)
			return err_set(e, "%s: its pre_tokenizer does not cut words as Qwen2's and Qwen3's",
				       path);
	}
	return 0;
}

static int check_model(const json_t *whole, const char *path, struct err *e)
{
	static const struct json_known plain[] = {
		{ "type", "\"BPE\"" },
		{ "vocab", NULL },
		{ "merges", NULL },
		{ NULL, NULL },
	};
	const json_t *normal = json_object_get(json_object_get(whole, "normalizer"), "type");

	if (json_check_keys(json_object_get(whole, "model"), plain, NULL, path, e))
		return -1;
	if (json_is_string(normal) && strcmp(json_string_value(normal), "NFC") != 0)
		return err_set(e, "%s: its normalizer is %.60s, Qwen's is NFC", path,
			       json_string_value(normal));
	return check_words(whole, path, e);
}

static int read_tokenizer_json(struct qwen_tokenizer *t, struct err *e)
{
	const json_t *x;
	size_t i;

	if (check_model(t->pairs.whole, t->pairs.path, e))
		return -1;
	json_array_foreach(json_object_get(t->pairs.whole, "added_tokens"), i, x)
	{
		int64_t id;
		if (json_get_int(&id, x, "id", -1, t->pairs.path, e) ||
		    add_object(t, x, id, t->pairs.path, e))
			return -1;
	}
	return 0;
}

static int read_config(struct qwen_tokenizer *t, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	int ret = o ? 0 : -1;

	if (!ret && json_is_true(json_object_get(o, "add_prefix_space")))
		ret = err_set(e, "%s: add_prefix_space is not supported", path);
	if (!ret)
		ret = read_decoder(t, o, path, e);
	json_decref(o);
	return ret;
}

/* What the folder's files call special is found in prompts, too, where it is in the vocabulary. */
static int read_special(struct qwen_tokenizer *t, const char *dir, struct err *e)
{
	static const char *const keys[] = { "pad_token", "eos_token", "unk_token", "bos_token" };

	for (int i = 0; i < 4; i++) {
		char *name;
		if (byte_pairs_special(&name, dir, keys[i], e))
			return -1;
		if (!name && i < 3)
			name = mem_str(PAD);
		const struct added_token *known = name ? find_added(t, name) : NULL;
		int64_t id = known ? known->id : name ? byte_pairs_id(&t->pairs, name) : -1;
		int ret = id >= 0 ? add_token(t, name, id, false, t->pairs.path, e) : 0;
		if (i == 0)
			t->pad = id;
		if (!ret && i == 0 && id < 0)
			ret = err_set(e, "%s: the padding token '%.60s' is not in the vocabulary",
				      t->pairs.path, name);
		free(name);
		if (ret)
			return -1;
	}
	return 0;
}

static int read_files(struct qwen_tokenizer *t, const char *dir, struct err *e)
{
	char *config = file_join(dir, "tokenizer_config.json"), *added = file_join(dir, "added_tokens.json");
	int ret = byte_pairs_open(&t->pairs, dir, e);

	if (!ret && file_exists(config))
		ret = read_config(t, config, e);
	if (!ret && file_exists(added))
		ret = read_added(t, added, e);
	if (!ret && t->pairs.whole)
		ret = read_tokenizer_json(t, e);
	if (!ret)
		ret = read_special(t, dir, e);
	free(config);
	free(added);
	json_decref(t->pairs.whole); /* as large as the vocabulary; nothing else of it is needed */
	t->pairs.whole = NULL;
	return ret;
}

static int check_bytes(const struct qwen_tokenizer *t, struct err *e)
{
	for (int c = 0; c < 256; c++)
		if (t->byte_id[c] < 0)
			return err_set(e, "%s: the vocabulary lacks the byte %d", t->pairs.path, c);
	return 0;
}

int qwen_tokenizer_open(struct qwen_tokenizer **out, const char *dir, struct err *e)
{
	struct qwen_tokenizer *t = mem_zero(1, sizeof *t);
	int ret = read_files(t, dir, e);

	if (!ret) {
		byte_pairs_bytes(&t->pairs, "", t->byte_id);
		ret = check_bytes(t, e);
	}
	if (ret) {
		qwen_tokenizer_close(t);
		return -1;
	}
	t->words = byte_pairs_words(WORDS);
	*out = t;
	return 0;
}

void qwen_tokenizer_close(struct qwen_tokenizer *t)
{
	if (!t)
		return;
	for (int i = 0; i < t->n_added; i++)
		free(t->added[i].name);
	free(t->added);
	byte_pairs_release(&t->pairs);
	pcre2_code_free(t->words);
	free(t);
}

/* ---- Encoding ------------------------------------------------------------------------------------ */

struct ids {
	int64_t *id, n, room;
	int error; /* of PCRE2, whose memory and patience have limits; 0: none */
};

static void put(struct ids *out, int64_t id)
{
	if (out->n < out->room)
		out->id[out->n++] = id;
}

/* Text without added tokens, composed. */
static void put_words(const struct qwen_tokenizer *t, const char *s, size_t n, struct ids *out)
{
	pcre2_match_data *match = pcre2_match_data_create(1, NULL);
	const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
	int32_t *id = mem_zero(n + 1, sizeof *id);

	for (size_t at = 0; at < n && out->n < out->room; at = range[1]) {
		int found = pcre2_match(t->words, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK, match, NULL);
		if (found < 1) { /* every character is in some word */
			out->error = found;
			break;
		}
		size_t k = range[1] - range[0];
		for (size_t i = 0; i < k; i++)
			id[i] = t->byte_id[(uint8_t)s[at + i]];
		k = byte_pairs_merge(&t->pairs, id, k);
		for (size_t i = 0; i < k; i++)
			put(out, id[i]);
	}
	free(id);
	pcre2_match_data_free(match);
}

/* The first added token of the kind in s, the longest of those that begin there: its place, or n. */
static size_t first_added(const struct qwen_tokenizer *t, bool composed, const char *s, size_t n,
			  const struct added_token **which)
{
	size_t first = n;

	*which = NULL;
	for (int i = 0; i < t->n_added; i++) {
		const struct added_token *a = &t->added[i];
		const char *at = a->composed == composed ? memmem(s, n, a->name, a->size) : NULL;
		size_t place = at ? (size_t)(at - s) : n;
		if (at && (place < first || !*which || (place == first && a->size > (*which)->size))) {
			first = place;
			*which = a;
		}
	}
	return first;
}

/* Added tokens of a kind, and between them: those of the other kind, which are found in composed text. */
static void put_text(const struct qwen_tokenizer *t, bool composed, const char *s, size_t n, struct ids *out)
{
	while (n && out->n < out->room && !out->error) {
		const struct added_token *token;
		size_t k = first_added(t, composed, s, n, &token), size;

		if (composed) {
			put_words(t, s, k, out);
		} else {
			char *nfc = unicode_nfc(s, k, &size);
			put_text(t, true, nfc, size, out);
			free(nfc);
		}
		if (!token)
			break;
		put(out, token->id);
		s += k + token->size;
		n -= k + token->size;
	}
}

int qwen_tokenizer_encode(const struct qwen_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			  int64_t *count, struct err *e)
{
	struct ids out = { ids, 0, length, 0 };

	if (unicode_check(text, strlen(text), e))
		return -1;
	put_text(t, false, text, strlen(text), &out);
	if (out.error)
		return err_set(e, "the prompt of %zu bytes cannot be cut into words (PCRE2 error %d)",
			       strlen(text), out.error);
	if (count)
		*count = out.n;
	while (out.n < length)
		put(&out, t->pad);
	return 0;
}
