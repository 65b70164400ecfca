/* A prompt file: .jsonl when it begins with '{', else .txt. */
#include "data/prompts.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>

void fuzz_one(const uint8_t *data, size_t size)
{
	struct prompts p;
	struct err e;
	int64_t drawn[5];

	if (prompts_read(&p, fuzz_file(size && data[0] == '{' ? "input.jsonl" : "input.txt", data, size), &e))
		return;
	if (p.n < 1)
		abort();
	for (int by_tag = 0; by_tag < 2; by_tag++)
		prompts_draw(&p, 1, 2, 5, by_tag, drawn);
	for (int i = 0; i < 5; i++)
		if (drawn[i] < 0 || drawn[i] >= p.n)
			abort();
	prompts_free(&p);
}
