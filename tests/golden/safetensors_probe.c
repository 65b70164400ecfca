/*
 * safetensors_probe.c -- what tests/golden/test_safetensors.py runs.
 *
 *   golden_safetensors IN OUT
 *       every tensor and all metadata of IN, written again
 */
#include "aten/safetensors.h"
#include "base/mem.h"
#include <stdlib.h>

int main(int argc, char **argv)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct err e;
	struct st_file f;

	if (argc != 3)
		die("golden_safetensors: see the top of tests/golden/safetensors_probe.c");
	if (st_open(&f, argv[1], &e))
		die("%s", e.msg);
	struct st_item *item = mem_zero((size_t)f.n + 1, sizeof *item);
	struct st_meta_item *meta = mem_zero((size_t)f.n_meta + 1, sizeof *meta);
	for (int i = 0; i < f.n; i++)
		item[i] = (struct st_item) { f.entry[i].name, st_get(&f.entry[i]) };
	for (int i = 0; i < f.n_meta; i++)
		meta[i] = (struct st_meta_item) { f.meta_key[i], f.meta_value[i] };
	if (st_write(argv[2], item, f.n, meta, f.n_meta, &e))
		die("%s", e.msg);
	free(item);
	free(meta);
	st_close(&f);
	at_end(s);
	return 0;
}
