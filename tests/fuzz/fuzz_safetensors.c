/* The bytes of a safetensors file: opened, and every value read. */
#include "aten/safetensors.h"
#include "base/mem.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>

void fuzz_one(const uint8_t *data, size_t size)
{
	char *copy = mem_alloc(size);
	struct st_file f;
	struct err e;

	memcpy(copy, data, size);
	if (st_open_bytes(&f, copy, size, "input", &e))
		return;
	for (int i = 0; i < f.n; i++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		at_t t = st_get(&f.entry[i]), again;
		uint8_t *out = mem_alloc((size_t)at_numel(t) * at_dtype_size(at_dtype_of(t)));

		at_copy_out(t, out, at_dtype_of(t));
		if (st_find(&f, f.entry[i].name) != &f.entry[i] ||
		    st_take(&again, &f, f.entry[i].name, at_shape(t), &e))
			abort();
		free(out);
		at_end(s);
	}
	for (int i = 0; i < f.n_meta; i++)
		if (!st_meta(&f, f.meta_key[i]))
			abort();
	(void)st_hash(&f);
	st_close(&f);
}
