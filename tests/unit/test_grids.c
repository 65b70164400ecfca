/* trainer/grids.h: which prompts a grid shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "trainer/evaluation/grids.h"

static void check(const char *tags, int n, const char *want)
{
	struct prompt v[32];
	char text[32][2], got[64] = "";
	struct prompts p = { .v = v };
	int64_t prompt[32];

	for (; tags[p.n]; p.n++) {
		text[p.n][0] = tags[p.n];
		text[p.n][1] = '\0';
		v[p.n] = (struct prompt) { .tag = text[p.n] };
	}
	int k = grid_choose(&p, n, prompt);
	for (int i = 0; i < k; i++)
		got[i] = (char)('0' + prompt[i]);
	assert_string_equal(got, want);
}

/* The first of each tag, then the second of each, in the file's order. */
static void choose(void **state)
{
	(void)state;
	check("aabac", 5, "02413");
	check("aabac", 3, "024");
	check("aaaa", 2, "01");
	check("ab", 9, "01");
	check("", 3, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(choose) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
