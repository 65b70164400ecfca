/* The JSON index of weights in shards, beside two shards. */
#include "aten/safetensors.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>

static void shard(const char *name, const char *tensor, const char *other)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_item item[2] = { { tensor, at_zeros(DIMS(2, 3), AT_F32, AT_CPU) },
				   { other, at_zeros(DIMS(4), AT_BF16, AT_CPU) } };
	struct err e;

	if (st_write(fuzz_file(name, "", 0), item, 2, NULL, 0, &e))
		abort();
	at_end(s);
}

void fuzz_one(const uint8_t *data, size_t size)
{
	static int made;
	struct st_file f;
	struct err e;

	if (!made) {
		shard("model-1.safetensors", "a", "b");
		shard("model-2.safetensors", "c", "d");
		made = 1;
	}
	fuzz_file("model.safetensors.index.json", data, size);
	if (st_open_model(&f, fuzz_dir(), "model", NULL, &e))
		return;
	for (int i = 0; i < f.n; i++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);

		if (!at_finite(st_get(&f.entry[i])))
			abort();
		at_end(s);
	}
	st_close(&f);
}
