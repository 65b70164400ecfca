/*
 * decoder_text.c -- prompts as a decoder's hidden states.
 * Shapes: B prompts, L tokens, D width of a state, E = states * D.
 */
#include "models/text/decoder/decoder_text.h"
#include "models/content_hash.h"
#include "models/text/tokenizer.h"
#include "models/text/unicode.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

#define ENCODING  1 /* to be raised when the same files and prompts give other embeddings */
#define FOLDER    "text_encoder"
#define TOKENIZER "tokenizer"

struct decoder_text {
	const struct decoder_prompt *how;
	int64_t rows, tokens;
	int64_t before; /* tokens of an instruction, the first of all included */
	enum at_dtype dtype;
	struct qwen_tokenizer *qwen; /* one of them is open */
	struct gemma_tokenizer *gemma;
	struct decoder decoder;
};

static int64_t rows_of(const struct decoder_prompt *how, const struct text_options *o)
{
	return o->text_length ? o->text_length : how->rows;
}

/* ---- Files --------------------------------------------------------------------------------------- */

static int open_parts(struct decoder_text *t, const struct text_options *o, struct err *e)
{
	char *words = file_join(o->dir, TOKENIZER), *weights = file_join(o->dir, FOLDER);
	/* these models were trained in bfloat16; their states leave float16's range */
	enum at_dtype dt = o->dtype == AT_F16 ? AT_BF16 : o->dtype;
	int ret = (t->how->gemma ? gemma_tokenizer_open(&t->gemma, words, e)
				 : qwen_tokenizer_open(&t->qwen, words, e)) ||
			  decoder_open(&t->decoder, weights, t->how->states, t->how->state, dt, o->device, e)
		      ? -1
		      : 0;

	free(words);
	free(weights);
	return ret;
}

static int check_width(const struct decoder_text *t, const struct text_options *o, struct err *e)
{
	int64_t width = t->how->states * t->decoder.conf.hidden_size;

	if (o->width && o->width != width)
		return err_set(
		    e, "%s: %d hidden states of " FOLDER " have %lld channels, the transformer reads %lld",
		    o->dir, t->how->states, (long long)width, (long long)o->width);
	return 0;
}

static int ids_of(const struct decoder_text *t, const char *string, int64_t length, int64_t *ids,
		  int64_t *count, struct err *e)
{
	return t->gemma ? gemma_tokenizer_encode(t->gemma, string, length, ids, count, e)
			: qwen_tokenizer_encode(t->qwen, string, length, ids, count, e);
}

/* So many tokens as a prompt of `rows` - 2 has behind it. */
static int count_instruction(struct decoder_text *t, struct err *e)
{
	int64_t room = (int64_t)strlen(t->how->before) + 1, *ids = mem_zero((size_t)room, sizeof *ids);
	int ret = ids_of(t, t->how->before, room, ids, &t->before, e);

	t->tokens = t->before + t->rows - 2;
	free(ids);
	return ret;
}

int decoder_text_open(void **state, const struct decoder_prompt *how, const struct text_options *o,
		      struct err *e)
{
	struct decoder_text *t = mem_zero(1, sizeof *t);

	t->how = how;
	t->dtype = o->dtype;
	t->rows = rows_of(how, o);
	t->tokens = how->tokens ? how->tokens : t->rows;
	if (open_parts(t, o, e) || check_width(t, o, e) || (how->instructed && count_instruction(t, e))) {
		decoder_text_close(t);
		return -1;
	}
	*state = t;
	return 0;
}

void decoder_text_close(void *state)
{
	struct decoder_text *t = state;

	qwen_tokenizer_close(t->qwen);
	gemma_tokenizer_close(t->gemma);
	decoder_release(&t->decoder);
	free(t);
}

int decoder_text_hash(uint64_t *hash, const struct decoder_prompt *how, const struct text_options *o,
		      struct err *e)
{
	const int64_t as[] = { ENCODING,  rows_of(how, o), how->tokens,      how->drop,
			       how->fill, how->states,     (int64_t)o->dtype };

	*hash = file_hash(as, sizeof as, 0);
	*hash = file_hash(how->state, sizeof *how->state * (size_t)how->states, *hash);
	*hash = file_hash(how->before, strlen(how->before), *hash);
	*hash = file_hash(how->after, strlen(how->after), *hash);
	if (how->instructed)
		*hash = file_hash("instructed", strlen("instructed"), *hash);
	return content_hash_encoder(hash, o->dir, FOLDER, TOKENIZER, o->hashes, e);
}

/* ---- Use ----------------------------------------------------------------------------------------- */

static bool is_negative(const struct decoder_text *t, const char *prompt)
{
	return t->how->instructed && text_starts(prompt, TEXT_NEGATIVE);
}

/* As Python's str.strip has them. */
static bool is_blank(int32_t c)
{
	return unicode_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

/* As Python's lower().strip(), appended. */
static void add_cleaned(struct text *out, const char *prompt)
{
	struct text lower = { 0 };
	size_t first = 0, end = 0;

	unicode_lower(&lower, prompt, strlen(prompt));
	for (size_t at = 0; at < lower.n;) {
		int32_t c;
		size_t size = unicode_next(lower.s + at, lower.n - at, &c);

		if (!is_blank(c))
			end = at + size;
		else if (!end)
			first = at + size;
		at += size;
	}
	if (end)
		text_add_bytes(out, lower.s + first, end - first);
	text_free(&lower);
}

/* What is tokenized. */
static int string_of(struct text *out, const struct decoder_text *t, const char *prompt, struct err *e)
{
	const struct decoder_prompt *how = t->how;
	bool alone = is_negative(t, prompt);

	if (!how->instructed) {
		text_printf(out, "%s%s%s", how->before, prompt, how->after);
		return 0;
	}
	prompt += alone ? strlen(TEXT_NEGATIVE) : 0;
	if (unicode_check(prompt, strlen(prompt), e))
		return -1;
	text_add(out, alone ? "" : how->before);
	add_cleaned(out, prompt);
	return 0;
}

/* The ids of a prompt's string, t->tokens of them with padding, and how many are no padding. */
static int tokenize_one(const struct decoder_text *t, const char *prompt, int64_t *ids, int64_t *count,
			struct err *e)
{
	struct text string = { 0 };
	int ret = string_of(&string, t, prompt, e) || ids_of(t, string.s, t->tokens, ids, count, e) ? -1 : 0;
	int64_t words = t->decoder.conf.vocab_size;

	text_free(&string);
	for (int64_t i = 0; i < t->tokens && !ret; i++)
		if (ids[i] >= words)
			ret = err_set(e, TOKENIZER " knows more tokens than the vocab_size %lld of " FOLDER,
				      (long long)words);
	if (!ret && *count <= t->how->drop)
		ret = err_set(e,
			      TOKENIZER " makes %lld tokens of the prompt and what stands around it: more "
					"than %lld are needed",
			      (long long)*count, (long long)t->how->drop);
	if (!ret && is_negative(t, prompt) && *count > t->rows)
		*count = t->rows;
	return ret;
}

int decoder_text_tokenize(void *state, const char *const *prompts, int n, at_t ids_BL[TEXT_TOKENIZERS],
			  struct err *e)
{
	const struct decoder_text *t = state;
	at_t ids = at_zeros(DIMS(n, t->tokens), AT_I64, AT_CPU);

	for (int i = 0; i < TEXT_TOKENIZERS; i++)
		ids_BL[i] = NULL;
	for (int i = 0; i < n; i++) {
		int64_t count;
		if (tokenize_one(t, prompts[i], at_i64(ids) + i * t->tokens, &count, e))
			return err_in(e, "prompt %d ('%.60s')", i + 1, prompts[i]);
	}
	ids_BL[0] = ids;
	return 0;
}

static at_t without_instruction(const struct decoder_text *t, at_t x_1LE)
{
	int64_t drop = t->before - 1, rows = at_size(x_1LE, 1) - drop;
	at_t first = at_narrow(x_1LE, 1, 0, 1);

	return rows > 0 ? at_cat2(first, at_narrow(x_1LE, 1, drop, rows), 1) : first;
}

/* Rows of one prompt: (1, L, E). */
static int encode_one(const struct decoder_text *t, const char *prompt, at_t *rows_1LE, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t ids_1L = at_zeros(DIMS(1, t->tokens), AT_I64, AT_CPU), state[DECODER_STATES];
	int64_t count, drop = t->how->drop;

	if (tokenize_one(t, prompt, at_i64(ids_1L), &count, e)) {
		at_end(s);
		return -1;
	}
	if (!t->how->fill)
		ids_1L = at_narrow(ids_1L, 1, 0, count);
	decoder_forward(&t->decoder, at_to(ids_1L, AT_I64, at_device_of(t->decoder.token_VD)), &count, state);
	at_t x_1LE = at_cat(t->how->states, state, -1);
	if (t->how->instructed && !is_negative(t, prompt)) {
		x_1LE = without_instruction(t, x_1LE);
	} else {
		int64_t rows = at_size(x_1LE, 1) - drop;
		x_1LE = at_narrow(x_1LE, 1, drop, rows < t->rows ? rows : t->rows);
	}
	*rows_1LE = at_escape(s, at_cast(at_contiguous(x_1LE), t->dtype));
	at_end(s);
	return 0;
}

int decoder_text_encode(void *state, const char *const *prompts, int n, struct cond *out, struct err *e)
{
	const struct decoder_text *t = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond *row = mem_zero((size_t)n, sizeof *row);
	int ret = 0;

	for (int i = 0; i < n && !ret; i++) {
		at_t rows_1LE;
		ret = encode_one(t, prompts[i], &rows_1LE, e);
		if (ret)
			err_in(e, "prompt %d ('%.60s')", i + 1, prompts[i]);
		else
			cond_add(&row[i], COND_TEXT, rows_1LE, NULL);
	}
	if (!ret) {
		*out = cond_cat(row, n);
		cond_escape(s, out);
	}
	free(row);
	at_end(s);
	return ret;
}
