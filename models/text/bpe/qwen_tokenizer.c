/*
 * qwen_tokenizer.c -- the byte-level BPE of Qwen2, Qwen2.5 and Qwen3.
 *
 * Added tokens ("<|im_start|>", "<think>") are found in the prompt before anything else; the text between
 * them is composed (NFC) and cut by the original's expression, and the bytes of each piece are merged.
 */
#include "models/text/bpe/added_tokens.h"
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

struct qwen_tokenizer {
	struct byte_pairs pairs;
	int32_t byte_id[256];
	int64_t pad;
	struct added_tokens added;
	pcre2_code *words;
};

/* ---- Files --------------------------------------------------------------------------------------- */

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
	return check_model(t->pairs.whole, t->pairs.path, e) ||
		       added_tokens_list(&t->added, json_object_get(t->pairs.whole, "added_tokens"),
					 t->pairs.path, e)
		   ? -1
		   : 0;
}

static int read_config(struct qwen_tokenizer *t, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	int ret = o ? 0 : -1;

	if (!ret && json_is_true(json_object_get(o, "add_prefix_space")))
		ret = err_set(e, "%s: add_prefix_space is not supported", path);
	if (!ret)
		ret = added_tokens_decoder(&t->added, o, path, e);
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
		const struct added_token *known = name ? added_tokens_find(&t->added, name) : NULL;
		int64_t id = known ? known->id : name ? byte_pairs_id(&t->pairs, name) : -1;
		int ret = id >= 0 ? added_tokens_add(&t->added, name, id, false, t->pairs.path, e) : 0;
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
		ret = added_tokens_file(&t->added, added, e);
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
	added_tokens_release(&t->added);
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

/* Added tokens of a kind, and between them: those of the other kind, which are found in composed text. */
static void put_text(const struct qwen_tokenizer *t, bool composed, const char *s, size_t n, struct ids *out)
{
	while (n && out->n < out->room && !out->error) {
		const struct added_token *token;
		size_t k = added_tokens_first(&t->added, composed, s, n, &token), size;

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
