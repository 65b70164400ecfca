/* BERT's tokenizer: 'p' and a prompt for a fixed vocabulary, 'v' and a vocab.txt, 'c' and a
 * tokenizer_config.json beside the fixed vocabulary, or a tokenizer.json. */
#include "models/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH 35

static const char vocabulary[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\nphoto\nph\n##oto\n##o\n.\ncafe\n"
    "\xe6\x9d\xb1\nof\n-\n##t\n[ENC]\n";

static void encode(const struct tokenizer *t, const char *prompt)
{
	int64_t ids[LENGTH];
	struct err e;

	if (tokenizer_encode(t, prompt, LENGTH, ids, &e))
		return;
	for (int i = 0; i < LENGTH; i++)
		if (ids[i] < 0 || ids[i] > 1 << 30)
			abort();
}

static void drop(const char *name)
{
	remove(fuzz_file(name, "", 0));
}

/* A file of its own in the folder, opened and used. */
static void try_file(const char *name, const uint8_t *data, size_t size)
{
	struct tokenizer *t;
	struct err e;

	fuzz_file(name, data, size);
	if (!tokenizer_open(&t, fuzz_dir(), &e)) {
		encode(t, "A photo of caf\xc3\xa9. \xe6\x9d\xb1\xe4\xba\xac [MASK][ENC] ab\xcc\x81-bb");
		tokenizer_close(t);
	}
}

void fuzz_one(const uint8_t *data, size_t size)
{
	static struct tokenizer *fixed;
	struct err e;

	if (!fixed) {
		fuzz_file("vocab.txt", vocabulary, sizeof vocabulary - 1);
		if (tokenizer_open(&fixed, fuzz_dir(), &e))
			abort();
	}
	if (!size)
		return;
	if (data[0] == 'p') {
		char *prompt = malloc(size);
		memcpy(prompt, data + 1, size - 1);
		prompt[size - 1] = '\0';
		encode(fixed, prompt);
		free(prompt);
	} else if (data[0] == 'v') {
		try_file("vocab.txt", data + 1, size - 1);
		fuzz_file("vocab.txt", vocabulary, sizeof vocabulary - 1);
	} else if (data[0] == 'c') {
		try_file("tokenizer_config.json", data + 1, size - 1);
		drop("tokenizer_config.json");
	} else {
		drop("vocab.txt");
		try_file("tokenizer.json", data, size);
		drop("tokenizer.json");
		fuzz_file("vocab.txt", vocabulary, sizeof vocabulary - 1);
	}
}
