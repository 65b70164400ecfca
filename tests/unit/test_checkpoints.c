/* test_checkpoints.c -- the folder of checkpoints: replacing one, at every rename that a kill could come
 * before or after; what is removed, and what is not.
 *
 * The linker leads the program's renames through here (--wrap). */
#include "base/file.h"
#include "base/mem.h"
#include "trainer/record/checkpoints.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

int __real_rename(const char *from, const char *to);
int __real_renameat2(int fd, const char *from, int fd2, const char *to, unsigned flags);
int __wrap_rename(const char *from, const char *to);
int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
int __wrap_renameat2(int fd, const char *from, int fd2, const char *to, unsigned flags);

static char run[] = "/tmp/test_checkpoints.XXXXXX";
static char *all;
static bool watched, exchanges = true;
static int looks;
static const char *stuck; /* nothing with this in its path is removed */

int __wrap_unlink(const char *path)
{
	if (!stuck || !strstr(path, stuck))
		return __real_unlink(path);
	errno = EPERM;
	return -1;
}

/* What a kill would leave right now: the newest checkpoint is there and whole, its text being one of those.
 */
static void look(void)
{
	struct err e;
	bool failed;
	char *dir = checkpoints_newest(run, &failed, &e), *state, *text;
	size_t n;

	assert_non_null(dir);
	state = file_join(dir, "state.json");
	assert_int_equal(file_read(&text, &n, state, &e), 0);
	assert_true(!strcmp(text, "old") || !strcmp(text, "new"));
	free(text);
	free(state);
	free(dir);
	looks++;
}

int __wrap_rename(const char *from, const char *to)
{
	if (watched)
		look();
	int ret = __real_rename(from, to);
	if (watched)
		look();
	return ret;
}

int __wrap_renameat2(int fd, const char *from, int fd2, const char *to, unsigned flags)
{
	if (watched)
		look();
	if (!exchanges) {
		errno = EINVAL;
		return -1;
	}
	int ret = __real_renameat2(fd, from, fd2, to, flags);
	if (watched)
		look();
	return ret;
}

/* A checkpoint as the program writes it. */
static void save(int64_t step, const char *text, int64_t keep)
{
	char *temp;
	struct err e;

	assert_int_equal(checkpoints_begin(all, step, &temp, &e), 0);
	char *state = file_join(temp, "state.json");
	assert_int_equal(file_mkdirs(temp, &e), 0);
	assert_int_equal(file_write(state, text, strlen(text), &e), 0);
	assert_int_equal(checkpoints_put(all, step, temp, keep, &e), 0);
	free(state);
	free(temp);
}

static bool is_there(const char *name)
{
	return file_is_in(all, name);
}

static void expect_newest(const char *name, const char *text)
{
	struct err e;
	bool failed;
	char *dir = checkpoints_newest(run, &failed, &e), *want = file_join(all, name);
	size_t n;

	assert_false(failed);
	assert_non_null(dir);
	assert_string_equal(dir, want);
	if (text) {
		char *state = file_join(dir, "state.json"), *data;
		assert_int_equal(file_read(&data, &n, state, &e), 0);
		assert_string_equal(data, text);
		free(data);
		free(state);
	}
	free(want);
	free(dir);
}

/* The only one (keep: 1) is replaced by another of its step: at no moment is there none. */
static void replace(void)
{
	save(4, "old", 1);
	watched = true;
	looks = 0;
	save(4, "new", 1);
	watched = false;
	expect_newest("step-00000004", "new");
	assert_false(is_there("step-00000004.tmp"));
	assert_false(is_there("step-00000004.old"));
}

static void test_exchange(void **state)
{
	(void)state;
	exchanges = true;
	replace();
	assert_true(looks >= 2);
}

static void test_aside(void **state)
{
	(void)state;
	exchanges = false;
	replace();
	exchanges = true;
	assert_true(looks >= 5);
}

/* A kill between the two renames: what was set aside is read, has its name again when the next is written,
 * and counts as one to keep. */
static void test_killed_in_between(void **state)
{
	char *final = file_join(all, "step-00000004"), *aside = file_join(all, "step-00000004.old");

	(void)state;
	save(4, "old", 2);
	assert_int_equal(rename(final, aside), 0);
	expect_newest("step-00000004.old", "old");
	char *before = checkpoints_before(aside);
	assert_null(before);
	save(6, "new", 2);
	assert_true(is_there("step-00000004"));
	assert_false(is_there("step-00000004.old"));
	expect_newest("step-00000006", "new");
	free(final);
	free(aside);
}

/* Killed after its last checkpoint, while the one before went: who resumes it writes none, but nothing stays.
 */
static void test_swept(void **state)
{
	static const char *const left[] = { "step-00000003.tmp", "step-00000004.old" }, *const others[] = {
		"step-00000003.tmp.bak", "mine.tmp"
	};
	struct err e;

	(void)state;
	assert_int_equal(checkpoints_sweep(all, &e), 0); /* there is none yet */
	save(4, "new", 2);
	for (int i = 0; i < 2; i++) {
		char *lora = mem_printf("%s/%s/lora", all, left[i]), *other = file_join(all, others[i]);
		assert_int_equal(file_mkdirs(lora, &e) || file_mkdirs(other, &e), 0);
		free(lora);
		free(other);
	}
	assert_int_equal(checkpoints_sweep(all, &e), 0);
	assert_false(is_there(left[0]) || is_there(left[1]));
	assert_true(is_there(others[0]) && is_there(others[1]));
	expect_newest("step-00000004", "new");

	char *final = file_join(all, "step-00000004"), *aside = file_join(all, left[1]);
	assert_int_equal(rename(final, aside), 0);
	assert_int_equal(checkpoints_sweep(all, &e), 0);
	expect_newest("step-00000004", "new");
	free(final);
	free(aside);
}

/* Copies that somebody made, whatever they are called, and other things stay. */
static void test_prune(void **state)
{
	static const char *const others[] = { "step-00000001-best",
					      "step-1",
					      "step-000000001",
					      "step-00000001 copy",
					      "step-+0000001",
					      "step-",
					      "step-0000000a",
					      "step-00000001.bak",
					      "best" };
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		char *path = file_join(all, others[i]);
		assert_int_equal(file_mkdirs(path, &e), 0);
		free(path);
	}
	char *left = file_join(all, "step-00000002.tmp");
	assert_int_equal(file_mkdirs(left, &e), 0);
	for (int step = 1; step <= 5; step++)
		save(step, "new", 2);
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		assert_true(is_there(others[i]));
	assert_false(is_there("step-00000002.tmp"));
	assert_false(is_there("step-00000003"));
	assert_true(is_there("step-00000004") && is_there("step-00000005"));
	/* more digits than names have by default */
	save(99999999, "new", 2);
	save(100000000, "new", 2);
	expect_newest("step-100000000", "new");
	assert_true(is_there("step-99999999") && is_there("step-100000000"));
	assert_false(is_there("step-00000005"));
	free(left);
}

/* Somebody went back to an earlier one: what is written then stays, though later steps lie beside it. */
static void test_went_back(void **state)
{
	char *latest = file_join(all, "latest");
	struct err e;

	(void)state;
	save(1, "old", 9);
	save(5, "old", 9);
	assert_int_equal(file_write(latest, "step-00000001\n", 14, &e), 0);
	expect_newest("step-00000001", "old");
	save(2, "new", 1);
	expect_newest("step-00000002", "new");
	assert_false(is_there("step-00000001"));
	assert_true(is_there("step-00000005"));
	/* the file itself lost: the highest */
	assert_int_equal(unlink(latest), 0);
	expect_newest("step-00000005", NULL);
	char *dir = file_join(all, "step-00000005"), *before = checkpoints_before(dir);
	assert_string_equal(before, "step-00000002");
	free(before);
	free(dir);
	free(latest);
}

/* What cannot be removed is a warning: the new one is written, and others go. */
static void test_stuck(void **state)
{
	(void)state;
	for (int step = 1; step <= 3; step++)
		save(step, "old", 3);
	stuck = "step-00000001";
	save(4, "new", 1);
	stuck = NULL;
	expect_newest("step-00000004", "new");
	assert_true(is_there("step-00000001.tmp")); /* without the name of one that is whole */
	assert_false(is_there("step-00000001") || is_there("step-00000002") || is_there("step-00000003"));
	save(5, "new", 1); /* and goes when it can */
	assert_false(is_there("step-00000001.tmp") || is_there("step-00000004"));
}

/* No run, and one whose newest cannot be told. */
static void test_none(void **state)
{
	struct err e;
	bool failed;

	(void)state;
	assert_null(checkpoints_newest(run, &failed, &e));
	assert_false(failed);
	char *latest = file_join(all, "latest");
	assert_int_equal(file_mkdirs(latest, &e), 0); /* no file: it cannot be told */
	assert_null(checkpoints_newest(run, &failed, &e));
	assert_true(failed);
	assert_non_null(strstr(e.msg, "latest"));
	free(latest);
}

static int make(void **state)
{
	(void)state;
	snprintf(run, sizeof run, "/tmp/test_checkpoints.XXXXXX");
	if (!mkdtemp(run))
		return -1;
	all = file_join(run, "checkpoints");
	return 0;
}

static int drop(void **state)
{
	struct err e;

	(void)state;
	free(all);
	return file_remove_tree(run, &e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_exchange, make, drop),
		cmocka_unit_test_setup_teardown(test_aside, make, drop),
		cmocka_unit_test_setup_teardown(test_killed_in_between, make, drop),
		cmocka_unit_test_setup_teardown(test_swept, make, drop),
		cmocka_unit_test_setup_teardown(test_prune, make, drop),
		cmocka_unit_test_setup_teardown(test_went_back, make, drop),
		cmocka_unit_test_setup_teardown(test_stuck, make, drop),
		cmocka_unit_test_setup_teardown(test_none, make, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
