/* test_runlock.c -- one process a run directory: who is refused and who is not, with and without locks of the
 * file system (the linker leads fcntl through here). */
#include "base/file.h"
#include "base/mem.h"
#include "trainer/record/runlock.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

int __real_fcntl64(int fd, int what, void *arg);
int __wrap_fcntl64(int fd, int what, void *arg);

static char dir[] = "/tmp/test_runlock.XXXXXX";
static bool no_locks;

int __wrap_fcntl64(int fd, int what, void *arg)
{
	if (what == F_OFD_SETLK && no_locks) {
		errno = ENOLCK;
		return -1;
	}
	return __real_fcntl64(fd, what, arg);
}

static char *words(void)
{
	char *path = file_join(dir, "lock"), *data;
	struct err e;
	size_t n;

	assert_int_equal(file_read(&data, &n, path, &e), 0);
	free(path);
	return data;
}

static void expect_words(const char *want)
{
	char *data = words();

	assert_string_equal(data, want);
	free(data);
}

static void put_words(const char *text)
{
	char *path = file_join(dir, "lock");
	struct err e;

	assert_int_equal(file_write(path, text, strlen(text), &e), 0);
	free(path);
}

/* A second one is told who has it; afterwards nobody's name is in the file. */
static void test_refused(void **state)
{
	struct runlock a, b;
	struct err e;
	char pid[32];

	(void)state;
	assert_int_equal(runlock_take(&a, dir, &e), 0);
	assert_true(a.made);
	assert_string_equal(a.before, "");
	snprintf(pid, sizeof pid, "pid %ld on ", (long)getpid());
	assert_int_equal(runlock_take(&b, dir, &e), -1);
	assert_non_null(strstr(e.msg, "another process works in this folder"));
	assert_non_null(strstr(e.msg, pid));
	runlock_drop(&b, true); /* not taken: nothing */
	runlock_drop(&a, false);
	expect_words("");
	assert_int_equal(runlock_take(&b, dir, &e), 0);
	assert_false(b.made);
	runlock_drop(&b, true); /* somebody else's file stays */
	expect_words("");
}

/* Undone, the file goes. */
static void test_undone(void **state)
{
	struct runlock a;
	struct err e;

	(void)state;
	assert_int_equal(runlock_take(&a, dir, &e), 0);
	runlock_drop(&a, true);
	assert_false(file_is_in(dir, "lock"));
}

/* One that ended without a word, as after a kill: its name stays, and keeps nobody out. */
static void test_killed(void **state)
{
	struct runlock a;
	struct err e;
	char before[64];
	int status;
	pid_t child = fork();

	(void)state;
	if (!child)
		_exit(runlock_take(&a, dir, &e) ? 1 : 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	snprintf(before, sizeof before, "pid %ld on ", (long)child);
	assert_int_equal(runlock_take(&a, dir, &e), 0);
	assert_non_null(strstr(a.before, before));
	runlock_drop(&a, true); /* refused for another reason: whoever comes next is told the same */
	assert_int_equal(runlock_take(&a, dir, &e), 0);
	assert_non_null(strstr(a.before, before));
	runlock_drop(&a, false);
	expect_words("");
}

/* A file system without locks: this host's living processes are found by their names, others are not. */
static void test_no_locks(void **state)
{
	struct runlock a;
	struct err e;
	char host[64] = "", line[128];

	(void)state;
	gethostname(host, sizeof host - 1);
	no_locks = true;
	snprintf(line, sizeof line, "%s %ld 2026-01-01T00:00:00\n", host, (long)getppid());
	put_words(line);
	assert_int_equal(runlock_take(&a, dir, &e), -1);
	assert_non_null(strstr(e.msg, "since 2026-01-01T00:00:00"));
	snprintf(line, sizeof line, "%s 2147483646 2026-01-01T00:00:00\n", host); /* no such process */
	put_words(line);
	assert_int_equal(runlock_take(&a, dir, &e), 0);
	runlock_drop(&a, false);
	snprintf(line, sizeof line, "another-%s %ld 2026-01-01T00:00:00\n", host, (long)getppid());
	put_words(line);
	assert_int_equal(runlock_take(&a, dir, &e), 0);
	runlock_drop(&a, false);
	no_locks = false;
}

static void test_nowhere(void **state)
{
	struct runlock a;
	struct err e;

	(void)state;
	assert_int_equal(runlock_take(&a, "/nonexistent/run", &e), -1);
	assert_non_null(strstr(e.msg, "/nonexistent/run/lock"));
	put_words("neither host nor process");
	assert_int_equal(runlock_take(&a, dir, &e), 0);
	assert_string_equal(a.before, "");
	runlock_drop(&a, false);
}

static int make(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/test_runlock.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int drop(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(dir, &e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_refused, make, drop),
		cmocka_unit_test_setup_teardown(test_undone, make, drop),
		cmocka_unit_test_setup_teardown(test_killed, make, drop),
		cmocka_unit_test_setup_teardown(test_no_locks, make, drop),
		cmocka_unit_test_setup_teardown(test_nowhere, make, drop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
