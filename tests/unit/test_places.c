/* base/file.h: temporary folders, and what is asked of a place before the work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/file.h"
#include "base/text.h"

static char folder[] = "/tmp/test-places-XXXXXX";

static int make_folder(void **state)
{
	(void)state;
	return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
	struct err e;
	(void)state;
	return file_remove_tree(folder, &e);
}

/* Temporary folders are new ones, of names that nobody guesses. */
static void test_new_trees(void **state)
{
	char *path = file_join(folder, "made/also/model"), *one, *two = NULL;
	struct err e;

	(void)state;
	assert_int_equal(file_begin_tree(&one, path, &e) || file_begin_tree(&two, path, &e), 0);
	assert_string_not_equal(one, two);
	assert_true(file_is_dir(one) && file_is_dir(two) && !file_exists(path));
	const char *const both[] = { one, two };
	for (int i = 0; i < 2; i++) {
		const char *number = both[i] + strlen(path) + strlen(".tmp-");
		assert_memory_equal(both[i], path, strlen(path));
		assert_true(strlen(number) > 9 && strspn(number, "0123456789") == strlen(number));
	}
	free(one);
	free(two);
	free(path);
	char *file = file_join(folder, "a-file");
	path = file_join(file, "model");
	assert_int_equal(file_write(file, "", 0, &e), 0);
	assert_int_equal(file_begin_tree(&one, path, &e), -1);
	assert_null(one);
	free(file);
	free(path);
}

static void can(int (*ask)(const char *, struct err *), const char *name, int refused)
{
	char *path = name ? file_join(folder, name) : NULL;
	struct err e = { "" };

	assert_int_equal(ask(path, &e), refused ? -1 : 0);
	if (refused && (!strstr(e.msg, path) || !strstr(e.msg, strerror(refused))))
		fail_msg("%s", e.msg);
	assert_true(!path || !strstr(path, "new") || !file_exists(path)); /* asking makes nothing */
	free(path);
}

/* Where something cannot be written is said before the work. */
static void test_before_work(void **state)
{
	char *dir = file_join(folder, "there"), *file = file_join(folder, "there/x"),
	     *link = file_join(folder, "link");
	struct err e;

	(void)state;
	assert_int_equal(file_mkdirs(dir, &e) || file_write(file, "", 0, &e) || symlink(dir, link), 0);
	can(file_can_write, NULL, 0);
	can(file_can_write, "/dev/null", 0);
	can(file_can_write, "there/x", 0);
	can(file_can_write, "there/new", 0);
	can(file_can_write, "link/new", 0);
	can(file_can_write, "there", EISDIR);
	can(file_can_write, "none/new", ENOENT);
	can(file_can_write, "there/x/new", ENOTDIR);
	can(file_can_fill, NULL, 0);
	can(file_can_fill, "there", 0);
	can(file_can_fill, "none/of/these/new", 0);
	can(file_can_fill, "there/x", ENOTDIR);
	can(file_can_fill, "there/x/new", ENOTDIR);
	free(dir);
	free(file);
	free(link);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_new_trees),
		cmocka_unit_test(test_before_work),
	};
	return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
