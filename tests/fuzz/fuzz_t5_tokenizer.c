/* T5's tokenizer: 'p' and a prompt for the corpus's own model, or a spiece.model. */
#include "base/file.h"
#include "models/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>

#define LENGTH 64

static struct t5_tokenizer *corpus_model(void)
{
	static struct t5_tokenizer *fixed;
	struct err e;
	char *data;
	size_t n;

	if (fixed)
		return fixed;
	if (file_read(&data, &n, CORPUS "/t5_tokenizer/model", &e))
		abort();
	fuzz_file("spiece.model", data, n);
	free(data);
	if (t5_tokenizer_open(&fixed, fuzz_dir(), &e))
		abort();
	return fixed;
}

static void encode(const struct t5_tokenizer *t, const char *prompt)
{
	int64_t ids[LENGTH];
	struct err e;

	if (t5_tokenizer_encode(t, prompt, LENGTH, ids, &e))
		return;
	for (int i = 0; i < LENGTH; i++)
		if (ids[i] < 0 || ids[i] > 1 << 30)
			abort();
}

void fuzz_one(const uint8_t *data, size_t size)
{
	struct t5_tokenizer *t;
	struct err e;

	if (size && data[0] == 'p') {
		char *prompt = malloc(size);
		memcpy(prompt, data + 1, size - 1);
		prompt[size - 1] = '\0';
		encode(corpus_model(), prompt);
		free(prompt);
		return;
	}
	fuzz_file("spiece.model", data, size);
	if (t5_tokenizer_open(&t, fuzz_dir(), &e))
		return;
	encode(t, "a photo of a caf\xc3\xa9 \xef\xac\x81 <extra_id_3></s>  x");
	t5_tokenizer_close(t);
}
