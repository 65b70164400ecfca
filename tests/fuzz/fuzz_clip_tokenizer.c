/* CLIP's tokenizer: 'p' and a prompt for a fixed vocabulary, 'm' and a merges.txt for it, or a vocab.json. */
#include "base/text.h"
#include "models/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>

#define LENGTH 77

/* The printable name of a byte, as byte-level BPE has it, in UTF-8. */
static void add_name(struct text *t, int byte, int *other)
{
	int code =
	    byte >= 33 && byte != 127 && byte != 173 && (byte < 127 || byte > 160) ? byte : 256 + (*other)++;
	char utf8[3] = { (char)(0xc0 | code >> 6), (char)(0x80 | (code & 63)), 0 };

	if (code == '"' || code == '\\')
		text_printf(t, "\\%c", code);
	else if (code < 128)
		text_printf(t, "%c", code);
	else
		text_add(t, utf8);
}

static const char merges[] = "#version: 0.2\na b\nab c</w>\nr e\nre d</w>\n. .</w>\n";

static void write_vocabulary(void)
{
	static const char *const more[] = { "ab",     "abc</w>",         "re",           "red</w>",
					    "..</w>", "<|startoftext|>", "<|endoftext|>" };
	struct text t = { 0 };
	int id = 0;

	text_add(&t, "{");
	for (int end = 0; end < 2; end++)
		for (int b = 0, other = 0; b < 256; b++) {
			text_add(&t, id ? ", \"" : "\"");
			add_name(&t, b, &other);
			text_printf(&t, "%s\": %d", end ? "</w>" : "", id++);
		}
	for (size_t i = 0; i < sizeof more / sizeof *more; i++)
		text_printf(&t, ", \"%s\": %d", more[i], id++);
	text_add(&t, "}");
	fuzz_file("vocab.json", t.s, t.n);
	fuzz_file("merges.txt", merges, sizeof merges - 1);
	text_free(&t);
}

static void encode(const struct clip_tokenizer *t, const char *prompt)
{
	int64_t ids[2 * LENGTH];
	struct err e;

	if (clip_tokenizer_encode(t, prompt, LENGTH, ids, &e))
		return;
	if (clip_tokenizer_encode_open(t, prompt, LENGTH, ids + LENGTH, &e))
		abort();
	for (int i = 0; i < 2 * LENGTH; i++)
		if (ids[i] < 0 || ids[i] > 1 << 30)
			abort();
}

void fuzz_one(const uint8_t *data, size_t size)
{
	static struct clip_tokenizer *fixed;
	struct clip_tokenizer *t;
	struct err e;

	if (!fixed) {
		write_vocabulary();
		if (clip_tokenizer_open(&fixed, fuzz_dir(), &e))
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
		return;
	}
	fuzz_file(data[0] == 'm' ? "merges.txt" : "vocab.json", data + (data[0] == 'm'),
		  size - (data[0] == 'm'));
	if (!clip_tokenizer_open(&t, fuzz_dir(), &e)) {
		encode(t, "abc red a photo.. <|endoftext|> caf\xc3\xa9");
		clip_tokenizer_close(t);
	}
	write_vocabulary();
}
