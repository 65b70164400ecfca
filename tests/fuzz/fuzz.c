/* fuzz.c -- the temporary folder, and libFuzzer's entry. */
#include "tests/fuzz/fuzz.h"
#include "base/file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char dir[] = "/tmp/fuzz.XXXXXX";
static char path[512];

static void clean_up(void)
{
	struct err ignored;

	file_remove_tree(dir, &ignored);
}

const char *fuzz_dir(void)
{
	static int made;

	if (!made) {
		if (!mkdtemp(dir))
			abort();
		atexit(clean_up);
		made = 1;
	}
	return dir;
}

/* Without file_write's syncs: this is called millions of times. */
const char *fuzz_file(const char *name, const void *data, size_t size)
{
	FILE *f;

	snprintf(path, sizeof path, "%s/%s", fuzz_dir(), name);
	f = fopen(path, "wbe");
	if (!f || fwrite(data, 1, size, f) != size || fclose(f))
		abort();
	return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_one(data, size);
	return 0;
}
