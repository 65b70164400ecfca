/*
 * gemma_tokenizer.c -- Gemma's BPE: over characters, with blanks as U+2581, and the bytes of those that the
 * vocabulary lacks.
 *
 * Added tokens are found in the prompt before anything else.  The text between them is one word: merges go
 * across blanks.
 */
#include "models/text/bpe/added_tokens.h"
#include "models/text/bpe/byte_pairs.h"
#include "models/text/tokenizer.h"
#include "models/text/unicode.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

#define BLANK "\xE2\x96\x81"

struct gemma_tokenizer {
	struct byte_pairs pairs;
	int32_t byte_id[256];
	char *first; /* the token that every text begins with, "<bos>"; NULL: none */
	int64_t bos, pad;
	struct added_tokens added;
};

/* ---- Files --------------------------------------------------------------------------------------- */

static int check_model(const json_t *whole, const char *path, struct err *e)
{
	static const struct json_known plain[] = {
		{ "type", "\"BPE\"" },       { "vocab", NULL },    { "merges", NULL }, { "unk_token", NULL },
		{ "byte_fallback", "true" }, { "fuse_unk", NULL }, { NULL, NULL },
	};
	const json_t *model = json_object_get(whole, "model"), *normal = json_object_get(whole, "normalizer");
	const char *from = json_string_value(json_object_get(json_object_get(normal, "pattern"), "String"));
	const char *to = json_string_value(json_object_get(normal, "content"));

	if (json_check_keys(model, plain, NULL, path, e))
		return -1;
	if (!json_is_true(json_object_get(model, "byte_fallback")))
		return err_set(e, "%s: model.byte_fallback is not true, Gemma's is", path);
	if (!from || strcmp(from, " ") != 0 || !to || strcmp(to, BLANK) != 0)
		return err_set(e, "%s: its normalizer does not replace blanks with U+2581, Gemma's does",
			       path);
	return 0;
}

/* There is nothing left to cut at where words are cut at blanks. */
static int check_words(const json_t *whole, const char *path, struct err *e)
{
	const json_t *words = json_object_get(whole, "pre_tokenizer");
	const char *at = json_string_value(json_object_get(json_object_get(words, "pattern"), "String"));

	if (!words || json_is_null(words) || (at && !strcmp(at, " ")))
		return 0;
	return err_set(e, "%s: its pre_tokenizer cuts words otherwise than at blanks", path);
}

static int check_added(const struct gemma_tokenizer *t, struct err *e)
{
	for (int i = 0; i < t->added.n; i++)
		if (t->added.token[i].normal && strchr(t->added.token[i].name, ' '))
			return err_set(
			    e,
			    "%s: the added token '%.60s' is `normalized` and has a blank, which is "
			    "not supported",
			    t->pairs.path, t->added.token[i].name);
	return 0;
}

/* post_processor puts the first token before every text, or nothing. */
static int read_template(struct gemma_tokenizer *t, const json_t *whole, const char *path, struct err *e)
{
	const json_t *single = json_object_get(json_object_get(whole, "post_processor"), "single"), *x;
	size_t i;

	json_array_foreach(single, i, x)
	{
		const json_t *token = json_object_get(x, "SpecialToken");
		const char *name = json_string_value(json_object_get(token, "id"));

		if (name && !i)
			t->first = mem_str(name);
		else if (token || !json_object_get(x, "Sequence"))
			return err_set(e,
				       "%s: post_processor.single[%zu] is not supported: there is a token "
				       "before the text, and nothing behind it",
				       path, i);
	}
	return 0;
}

static int read_config(struct gemma_tokenizer *t, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	int ret = o ? added_tokens_decoder(&t->added, o, path, e) : -1;

	json_decref(o);
	return ret;
}

static int find_id(int64_t *id, const struct gemma_tokenizer *t, const char *name, struct err *e)
{
	const struct added_token *known = added_tokens_find(&t->added, name);

	*id = known ? known->id : byte_pairs_id(&t->pairs, name);
	return *id >= 0 ? 0
			: err_set(e, "%s: the token '%.60s' is not in the vocabulary", t->pairs.path, name);
}

static int read_special(struct gemma_tokenizer *t, const char *dir, struct err *e)
{
	char *name;

	if (byte_pairs_special(&name, dir, "pad_token", e))
		return -1;
	int ret =
	    find_id(&t->pad, t, name ? name : "<pad>", e) || (t->first && find_id(&t->bos, t, t->first, e))
		? -1
		: 0;
	free(name);
	return ret;
}

static int read_bytes(struct gemma_tokenizer *t, struct err *e)
{
	for (int c = 0; c < 256; c++) {
		char *name = mem_printf("<0x%02X>", c);

		t->byte_id[c] = (int32_t)byte_pairs_id(&t->pairs, name);
		free(name);
		if (t->byte_id[c] < 0)
			return err_set(e, "%s: the vocabulary lacks the byte <0x%02X>", t->pairs.path, c);
	}
	return 0;
}

static int read_files(struct gemma_tokenizer *t, const char *dir, struct err *e)
{
	char *config = file_join(dir, "tokenizer_config.json");
	int ret = byte_pairs_open(&t->pairs, dir, e);
	const json_t *whole = t->pairs.whole;

	if (!ret && !whole)
		ret = err_set(e, "%s: Gemma's tokenizer is read from tokenizer.json alone, without this file",
			      t->pairs.path);
	if (!ret && (check_model(whole, t->pairs.path, e) || check_words(whole, t->pairs.path, e) ||
		     read_template(t, whole, t->pairs.path, e) ||
		     added_tokens_list(&t->added, json_object_get(whole, "added_tokens"), t->pairs.path, e)))
		ret = -1;
	if (!ret && file_exists(config))
		ret = read_config(t, config, e);
	if (!ret && (check_added(t, e) || read_bytes(t, e) || read_special(t, dir, e)))
		ret = -1;
	free(config);
	json_decref(t->pairs.whole); /* as large as the vocabulary; nothing else of it is needed */
	t->pairs.whole = NULL;
	return ret;
}

int gemma_tokenizer_open(struct gemma_tokenizer **out, const char *dir, struct err *e)
{
	struct gemma_tokenizer *t = mem_zero(1, sizeof *t);

	if (read_files(t, dir, e)) {
		gemma_tokenizer_close(t);
		return -1;
	}
	*out = t;
	return 0;
}

void gemma_tokenizer_close(struct gemma_tokenizer *t)
{
	if (!t)
		return;
	free(t->first);
	added_tokens_release(&t->added);
	byte_pairs_release(&t->pairs);
	free(t);
}

/* ---- Encoding ------------------------------------------------------------------------------------ */

struct ids {
	int64_t *id, n, room;
};

static void put(struct ids *out, int64_t id)
{
	if (out->n < out->room)
		out->id[out->n++] = id;
}

/* Text without added tokens, blanks replaced: characters, or their bytes, and then merges. */
static void put_word(const struct gemma_tokenizer *t, const char *s, size_t n, struct ids *out)
{
	int32_t *id = mem_zero(n + 1, sizeof *id);
	size_t k = 0;

	for (size_t at = 0; at < n;) {
		int32_t c;
		char name[5] = "";
		size_t size = unicode_next(s + at, n - at, &c);

		memcpy(name, s + at, size);
		int64_t whole = byte_pairs_id(&t->pairs, name);
		if (whole >= 0)
			id[k++] = (int32_t)whole;
		for (size_t i = 0; i < size && whole < 0; i++)
			id[k++] = t->byte_id[(uint8_t)s[at + i]];
		at += size;
	}
	k = byte_pairs_merge(&t->pairs, id, k);
	for (size_t i = 0; i < k; i++)
		put(out, id[i]);
	free(id);
}

/* Added tokens of a kind, and between them those of the other, which are found where blanks are replaced. */
static void put_text(const struct gemma_tokenizer *t, bool normal, const char *s, size_t n, struct ids *out)
{
	while (n && out->n < out->room) {
		const struct added_token *token;
		size_t k = added_tokens_first(&t->added, normal, s, n, &token);

		if (normal) {
			put_word(t, s, k, out);
		} else {
			struct text plain = { 0 };
			for (size_t i = 0; i < k; i++)
				if (s[i] == ' ')
					text_add(&plain, BLANK);
				else
					text_add_bytes(&plain, s + i, 1);
			put_text(t, true, plain.s, plain.n, out);
			text_free(&plain);
		}
		if (!token)
			break;
		put(out, token->id);
		s += k + token->size;
		n -= k + token->size;
	}
}

int gemma_tokenizer_encode(const struct gemma_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			   int64_t *count, struct err *e)
{
	struct ids out = { ids, 0, length };

	if (unicode_check(text, strlen(text), e))
		return -1;
	if (t->first)
		put(&out, t->bos);
	put_text(t, false, text, strlen(text), &out);
	if (count)
		*count = out.n;
	while (out.n < length)
		put(&out, t->pad);
	return 0;
}
