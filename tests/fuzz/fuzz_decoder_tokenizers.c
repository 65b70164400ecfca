/* Qwen's and Gemma's tokenizers: 'q' or 'g' and a prompt for the corpus's own tokenizer.json, or 'Q' or 'G'
 * and such a file. */
#include "base/file.h"
#include "models/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>

#define LENGTH 64

static const char prompt[] = "a photo of\n\n a caf\xc3\xa9's 12 \xef\xac\x81 <|im_end|><bos> \xe2\x96\x81 x ";

/* As many as count says; the rest is padding. */
static void check(const int64_t *ids, int64_t count)
{
	if (count < 0 || count > LENGTH)
		abort();
	for (int i = 0; i < LENGTH; i++)
		if (ids[i] < 0 || ids[i] > 1 << 30)
			abort();
}

static void encode_qwen(const struct qwen_tokenizer *t, const char *text)
{
	int64_t ids[LENGTH], count;
	struct err e;

	if (!qwen_tokenizer_encode(t, text, LENGTH, ids, &count, &e))
		check(ids, count);
}

static void encode_gemma(const struct gemma_tokenizer *t, const char *text)
{
	int64_t ids[LENGTH], count;
	struct err e;

	if (!gemma_tokenizer_encode(t, text, LENGTH, ids, &count, &e))
		check(ids, count);
}

/* The corpus's file NAME, but for its first byte, as tokenizer.json. */
static void take_corpus(const char *name)
{
	struct err e;
	char *path = file_join(CORPUS "/decoder_tokenizers", name), *data;
	size_t n;

	if (file_read(&data, &n, path, &e))
		abort();
	fuzz_file("tokenizer.json", data + 1, n - 1);
	free(data);
	free(path);
}

static const struct qwen_tokenizer *own_qwen(void)
{
	static struct qwen_tokenizer *fixed;
	struct err e;

	if (!fixed) {
		take_corpus("qwen");
		if (qwen_tokenizer_open(&fixed, fuzz_dir(), &e))
			abort();
	}
	return fixed;
}

static const struct gemma_tokenizer *own_gemma(void)
{
	static struct gemma_tokenizer *fixed;
	struct err e;

	if (!fixed) {
		take_corpus("gemma");
		if (gemma_tokenizer_open(&fixed, fuzz_dir(), &e))
			abort();
	}
	return fixed;
}

static void open_and_encode(uint8_t kind, const uint8_t *data, size_t size)
{
	struct err e;

	fuzz_file("tokenizer.json", data, size);
	if (kind == 'Q') {
		struct qwen_tokenizer *t;
		if (qwen_tokenizer_open(&t, fuzz_dir(), &e))
			return;
		encode_qwen(t, prompt);
		qwen_tokenizer_close(t);
	} else {
		struct gemma_tokenizer *t;
		if (gemma_tokenizer_open(&t, fuzz_dir(), &e))
			return;
		encode_gemma(t, prompt);
		gemma_tokenizer_close(t);
	}
}

void fuzz_one(const uint8_t *data, size_t size)
{
	if (!size)
		return;
	if (data[0] != 'q' && data[0] != 'g') {
		open_and_encode(data[0], data + 1, size - 1);
		return;
	}
	char *text = malloc(size);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (data[0] == 'q')
		encode_qwen(own_qwen(), text);
	else
		encode_gemma(own_gemma(), text);
	free(text);
}
