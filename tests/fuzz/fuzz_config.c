/* An experiment's YAML file; what is accepted is written out and read again to the same. */
#include "base/text.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/experiment.h"
#include <stdlib.h>
#include <string.h>

static int resolve(struct text *out, const char *path)
{
	struct conf_node *tree;
	struct experiment x;
	struct err e;

	if (experiment_read(&x, path, NULL, 0, &e))
		return -1;
	tree = conf_empty();
	experiment_store(&x, tree);
	conf_emit(out, tree);
	conf_node_free(tree);
	experiment_release(&x);
	return 0;
}

void fuzz_one(const uint8_t *data, size_t size)
{
	struct text once = { 0 }, twice = { 0 };

	if (!resolve(&once, fuzz_file("input.yaml", data, size)) &&
	    (resolve(&twice, fuzz_file("input.yaml", once.s, once.n)) || strcmp(once.s, twice.s)))
		abort();
	text_free(&once);
	text_free(&twice);
}
