/* data/clauses.h: what is read of GenEval's metadata, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "data/clauses.h"

#define MOST 3

static int read_text(struct clause *c, int *n, const char *text, const char *section, struct err *e,
		     json_t **o)
{
	*o = json_parse(text, strlen(text), "text", e);
	assert_non_null(*o);
	return clauses_read(c, MOST, n, *o, section, e);
}

static void reads(void **state)
{
	static const char text[] =
	    "{\"include\": [{\"class\": \"dog\", \"count\": 2, \"color\": \"red\"}, {\"class\": "
	    "\"cat\", \"position\": [\"above\", 0]}]}";
	struct clause c[MOST];
	struct err e = { "" };
	json_t *o;
	int n;

	(void)state;
	assert_int_equal(read_text(c, &n, text, "include", &e, &o), 0);
	assert_int_equal(n, 2);
	assert_string_equal(c[0].class_name, "dog");
	assert_string_equal(c[0].color, "red");
	assert_true(c[0].count == 2 && c[0].relation == -1);
	assert_string_equal(c[1].class_name, "cat");
	assert_true(!c[1].color && c[1].count == 1 && c[1].relation == RELATION_ABOVE && c[1].target == 0);
	assert_int_equal(clauses_read(c, MOST, &n, o, "exclude", &e), 0);
	assert_int_equal(n, 0);
	json_decref(o);
}

static void refuses(void **state)
{
	static const struct {
		const char *text, *said;
	} bad[] = {
		{ "{\"include\": 1}", "include: not an array" },
		{ "{\"include\": [{}]}", "include[0]: no \"class\"" },
		{ "{\"include\": [{\"class\": \"a\", \"count\": 1001}]}",
		  "include[0]: count = 1001: wanted 1 to 1000" },
		{ "{\"include\": [{\"class\": \"a\", \"colr\": \"b\"}]}",
		  "include[0]: unknown key 'colr' (did you mean 'color'?)" },
		{ "{\"include\": [{\"class\": \"a\"}, {\"class\": \"b\", \"position\": [\"above\", 1]}]}",
		  "include[1]: position: 1 is not the index of an earlier clause" },
		{ "{\"include\": [{\"class\": \"a\"}, {\"class\": \"b\", \"position\": [\"inside of it\", "
		  "0]}]}",
		  "include[1]: unknown relation 'inside of it' (known: left of, right of, above, below)" },
		{ "{\"include\": [{\"class\": \"a\"}, {\"class\": \"a\"}, {\"class\": \"a\"}, {\"class\": "
		  "\"a\"}]}",
		  "include: 4 clauses, at most 3 can be read" },
	};
	struct clause c[MOST];
	struct err e;
	json_t *o;
	int n;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(read_text(c, &n, bad[i].text, "include", &e, &o), -1);
		assert_string_equal(e.msg, bad[i].said);
		json_decref(o);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(reads), cmocka_unit_test(refuses) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
