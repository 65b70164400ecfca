/*
 * word_encoder.c -- prompts of a small vocabulary: a learned vector a word and a position, and their mean.
 * Shapes: B prompts, L positions, E channels (= P, the pooled channels), V words.
 */
#include "models/encoder.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include <stdlib.h>
#include <string.h>

#define PAD "<pad>"

/* ---- The vocabulary -------------------------------------------------------------------------- */

/* ASCII only: the vocabulary decides what other bytes a word may have. */
static bool is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static char lower(char c)
{
	return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

static int64_t find_word(const struct word_encoder *w, const char *word)
{
	for (int i = 0; i < w->n_words; i++)
		if (!strcmp(w->word[i], word))
			return i;
	return -1;
}

static int add_word(struct word_encoder *w, const char *word, const char *what, struct err *e)
{
	for (const char *c = word; *c; c++)
		if (is_blank(*c) || lower(*c) != *c)
			return err_set(e, "%s: word '%s' is not lower-case without blanks", what, word);
	if (!*word || find_word(w, word) >= 0)
		return err_set(e, "%s: word '%s' %s", what, word, *word ? "is there twice" : "is empty");
	w->word[w->n_words++] = mem_str(word);
	return 0;
}

static int lay_out(struct word_encoder *w, const char *what, struct err *e)
{
	if (w->dim < 1 || w->dim > 1 << 16 || w->length < 1 || w->length > 1 << 16)
		return err_set(e, "%s: dim = %lld and length = %lld: must be 1 to 65536", what,
			       (long long)w->dim, (long long)w->length);
	nn_add_tensor(&w->net, &w->token_VE, "token_embedding.weight", DIMS(w->n_words, w->dim), true);
	nn_add_tensor(&w->net, &w->position_LE, "position_embedding.weight", DIMS(w->length, w->dim), true);
	return 0;
}

static void draw_normal(at_t t, uint64_t seed, uint64_t which)
{
	struct rng r = rng_make(seed, RNG_MODEL_INIT, 0, which);

	rng_normals(&r, at_f32(t), (size_t)at_numel(t));
}

int word_encoder_new(struct word_encoder *w, const char *const *words, int n, int64_t dim, int64_t length,
		     uint64_t seed, struct err *e)
{
	bool padded = n > 0 && !strcmp(words[0], PAD);
	int ret;

	*w = (struct word_encoder) { .dim = dim, .length = length };
	w->word = mem_zero((size_t)n + 2, sizeof *w->word);
	ret = padded ? 0 : add_word(w, PAD, "vocabulary", e);
	for (int i = 0; i < n && !ret; i++)
		ret = add_word(w, words[i], "vocabulary", e);
	if (ret || lay_out(w, "text encoder", e)) {
		word_encoder_release(w);
		return -1;
	}
	nn_init(&w->net, seed);
	draw_normal(w->token_VE, seed, 0);
	draw_normal(w->position_LE, seed, 1);
	return 0;
}

void word_encoder_release(struct word_encoder *w)
{
	for (int i = 0; i < w->n_words; i++)
		free(w->word[i]);
	free(w->word);
	nn_release(&w->net);
	*w = (struct word_encoder) { 0 };
}

/* ---- Files ----------------------------------------------------------------------------------- */

static int read_vocabulary(struct word_encoder *w, const char *path, struct err *e)
{
	json_t *list = json_read(path, e), *x;
	size_t i;
	int ret = 0;

	if (!list)
		return -1;
	if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > 1 << 20)
		ret = err_set(e, "%s: must be a list of words", path);
	else
		w->word = mem_zero(json_array_size(list) + 1, sizeof *w->word);
	json_array_foreach(list, i, x)
	{
		if (!ret && !json_is_string(x))
			ret = err_set(e, "%s: entry %zu is not a word", path, i);
		if (!ret)
			ret = add_word(w, json_string_value(x), path, e);
	}
	if (!ret && strcmp(w->word[0], PAD) != 0)
		ret = err_set(e, "%s: the first word is '%s': must be \"" PAD "\"", path, w->word[0]);
	json_decref(list);
	return ret;
}

static int read_config(struct word_encoder *w, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	int ret = !o || json_get_int(&w->dim, o, "dim", 0, path, e) ||
			  json_get_int(&w->length, o, "length", 0, path, e) || lay_out(w, path, e)
		      ? -1
		      : 0;

	json_decref(o);
	return ret;
}

int word_encoder_open(struct word_encoder *w, const char *dir, enum at_dtype dt, enum at_device dev,
		      struct err *e)
{
	char *config = file_join(dir, "config.json"), *vocab = file_join(dir, "vocab.json");
	int ret;

	*w = (struct word_encoder) { 0 };
	ret = read_vocabulary(w, vocab, e) || read_config(w, config, e) ||
		      nn_load_dir(&w->net, dir, NN_TRANSFORMERS, NULL, dt, dev, e)
		  ? -1
		  : 0;
	if (ret)
		word_encoder_release(w);
	free(config);
	free(vocab);
	return ret;
}

int word_encoder_save(const struct word_encoder *w, const char *dir, struct err *e)
{
	char *config = file_join(dir, "config.json"), *vocab = file_join(dir, "vocab.json");
	char *weights = file_join(dir, "model.safetensors");
	json_t *list = json_array(), *o = json_object();
	int ret;

	for (int i = 0; i < w->n_words; i++)
		json_array_append_new(list, json_string(w->word[i]));
	json_object_set_new(o, "_class_name", json_string("WordTextEncoder"));
	json_object_set_new(o, "dim", json_integer(w->dim));
	json_object_set_new(o, "length", json_integer(w->length));
	ret = file_mkdirs(dir, e) || json_write(config, o, e) || json_write(vocab, list, e) ||
		      nn_save(&w->net, NULL, weights, AT_F32, e)
		  ? -1
		  : 0;
	json_decref(list);
	json_decref(o);
	free(config);
	free(vocab);
	free(weights);
	return ret;
}

/* ---- Use ------------------------------------------------------------------------------------- */

static int unknown(const struct word_encoder *w, const char *prompt, const char *word, struct err *e)
{
	const char *near = text_nearest(word, (const char *const *)w->word);

	err_set(e, "prompt '%s': word '%s' is not in the vocabulary of %d words", prompt, word,
		w->n_words - 1);
	if (near) {
		struct err first = *e;

		err_set(e, "%s; did you mean '%s'?", first.msg, near);
	}
	return -1;
}

int word_encoder_tokenize(const struct word_encoder *w, const char *prompt, int64_t *ids, struct err *e)
{
	char *word = mem_alloc(strlen(prompt) + 1);
	int64_t n = 0;
	int ret = 0;

	for (const char *c = prompt; !ret;) {
		size_t k = 0;
		int64_t id;

		while (is_blank(*c))
			c++;
		if (!*c)
			break;
		while (*c && !is_blank(*c))
			word[k++] = lower(*c++);
		word[k] = 0;
		id = find_word(w, word);
		if (id <= 0) /* nobody writes the padding word */
			ret = unknown(w, prompt, word, e);
		else if (n == w->length)
			ret = err_set(e, "prompt '%s': more than %lld words: '%s' is one too many", prompt,
				      (long long)w->length, word);
		else
			ids[n++] = id;
	}
	while (!ret && n < w->length)
		ids[n++] = 0;
	free(word);
	return ret;
}

void word_encoder_forward(const struct word_encoder *w, at_t ids_BL, struct cond *out)
{
	at_t text_BLE = at_add(at_embedding(w->token_VE, ids_BL), w->position_LE);

	*out = (struct cond) { 0 };
	cond_add(out, COND_TEXT, text_BLE, NULL);
	cond_add(out, COND_POOLED, at_mean_dim(text_BLE, 1, false), NULL);
}

/* ---- As a text_encoder_type ------------------------------------------------------------------ */

static int open_type(void **state, const struct text_options *o, struct err *e)
{
	struct word_encoder *w = mem_zero(1, sizeof *w);
	char *dir = file_join(o->dir, "text_encoder");
	int ret = word_encoder_open(w, dir, o->dtype, o->device, e);

	free(dir);
	if (ret)
		free(w);
	else
		*state = w;
	return ret;
}

static int tokenize_type(void *state, const char *const *prompts, int n, at_t ids_BL[TEXT_TOKENIZERS],
			 struct err *e)
{
	const struct word_encoder *w = state;
	int ret = 0;

	ids_BL[0] = at_zeros(DIMS(n, w->length), AT_I64, AT_CPU);
	ids_BL[1] = ids_BL[2] = NULL;
	for (int i = 0; i < n && !ret; i++)
		ret = word_encoder_tokenize(w, prompts[i], at_i64(ids_BL[0]) + i * w->length, e);
	return ret;
}

static int encode_type(void *state, const char *const *prompts, int n, struct cond *out, struct err *e)
{
	const struct word_encoder *w = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t ids_BL[TEXT_TOKENIZERS];
	int ret = tokenize_type(state, prompts, n, ids_BL, e);

	if (!ret) {
		word_encoder_forward(w, at_to(ids_BL[0], AT_I64, at_device_of(w->token_VE)), out);
		cond_escape(s, out);
	}
	at_end(s);
	return ret;
}

static void close_type(void *state)
{
	word_encoder_release(state);
	free(state);
}

const struct text_encoder_type word_text_encoder = {
	.class_name = "WordTextEncoder",
	.open = open_type,
	.encode = encode_type,
	.tokenize = tokenize_type,
	.close = close_type,
};
