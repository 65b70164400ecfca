/* test_metrics.c -- metrics.jsonl: what a line holds, and what a resumed run finds; the checksum of event
 * files. */
#include "base/file.h"
#include "trainer/record/metrics.h"
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/test_metrics.XXXXXX";

static void expect_file(const char *want)
{
	char *path = file_join(dir, "metrics.jsonl"), *data;
	struct err e;
	size_t n;

	assert_int_equal(file_read(&data, &n, path, &e), 0);
	assert_string_equal(data, want);
	assert_int_equal(n, strlen(want));
	free(data);
	free(path);
}

static void put_file(const char *text, size_t n)
{
	char *path = file_join(dir, "metrics.jsonl");
	struct err e;

	assert_int_equal(file_write(path, text, n, &e), 0);
	free(path);
}

static struct metrics *open_at(int64_t step)
{
	struct metrics *m;
	struct err e;

	assert_int_equal(metrics_open(&m, dir, step, -1, false, &e), 0);
	return m;
}

static void test_line(void **state)
{
	struct metrics *m = open_at(0);
	struct err e;

	(void)state;
	metrics_add(m, "reward/mean", 0.1);
	metrics_add(m, "a", -3);
	metrics_add(m, "loss", NAN);
	metrics_add(m, "grad", -INFINITY);
	metrics_add(m, "say \"hi\"\n", 1e-300);
	assert_int_equal(metrics_write(m, 1, &e), 0);
	/* Not closed yet: a reader sees whole lines as they come. */
	expect_file("{\"step\": 1, \"reward/mean\": 0.1, \"a\": -3, \"loss\": null, \"grad\": null, "
		    "\"say \\\"hi\\\"\\n\": 1e-300}\n");
	metrics_add(m, "a", 1.0 / 3);
	assert_int_equal(metrics_write(m, 2, &e), 0);
	assert_int_equal(metrics_write(m, 3, &e), 0);
	metrics_close(m);
	expect_file("{\"step\": 1, \"reward/mean\": 0.1, \"a\": -3, \"loss\": null, \"grad\": null, "
		    "\"say \\\"hi\\\"\\n\": 1e-300}\n"
		    "{\"step\": 2, \"a\": 0.3333333333333333}\n{\"step\": 3}\n");
	metrics_close(NULL);
}

static void test_counts(void **state)
{
	const double v[] = { -1, NAN, 1, INFINITY, 0.99, -1 }, same[] = { 3, 3 }, none[] = { NAN };
	struct metrics *m;
	struct err e;

	(void)state;
	put_file("", 0);
	m = open_at(0);
	metrics_add_counts(m, "h", v, 6);
	metrics_add_counts(m, "s", same, 2);
	metrics_add_counts(m, "n", none, 1);
	assert_int_equal(metrics_write(m, 1, &e), 0);
	metrics_close(m);
#define ZEROS "0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "
	expect_file("{\"step\": 1, \"h\": {\"low\": -1, \"high\": 1, \"counts\": [2, " ZEROS
		    "2]}, \"s\": {\"low\": 3, \"high\": 3, \"counts\": [2, " ZEROS "0]}, \"n\": null}\n");
}

static void test_resume_cuts(void **state)
{
	struct err e;

	(void)state;
	put_file("{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n", 36);
	metrics_close(open_at(3));
	expect_file("{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n");
	struct metrics *m = open_at(1);
	expect_file("{\"step\": 1}\n");
	metrics_add(m, "again", 1);
	assert_int_equal(metrics_write(m, 2, &e), 0);
	metrics_close(m);
	expect_file("{\"step\": 1}\n{\"step\": 2, \"again\": 1}\n");
	metrics_close(open_at(0));
	expect_file("");
}

/* A step has several lines, and the checkpoint knows how many of them it has seen. */
static void test_resume_counts(void **state)
{
	static const char all[] =
	    "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 2, \"eval/soft\": 1}\n{\"step\": 3}\n";
	struct metrics *m;
	struct err e;

	(void)state;
	put_file(all, sizeof all - 1);
	assert_int_equal(metrics_open(&m, dir, 2, 2, false, &e), 0);
	assert_int_equal(metrics_rows(m), 2);
	expect_file("{\"step\": 1}\n{\"step\": 2}\n");
	metrics_add(m, "eval/soft", 2);
	assert_int_equal(metrics_write(m, 2, &e), 0);
	assert_int_equal(metrics_rows(m), 3);
	metrics_close(m);
	assert_int_equal(metrics_open(&m, dir, 2, 9, false, &e), 0); /* somebody has removed some */
	assert_int_equal(metrics_rows(m), 3);
	metrics_close(m);
	assert_int_equal(metrics_open(&m, dir, 0, 0, false, &e), 0);
	assert_int_equal(metrics_rows(m), 0);
	metrics_close(m);
	expect_file("");
}

static void test_resume_after_a_crash(void **state)
{
	static const char zeros[] = "{\"step\": 1}\n{\"step\": 2}\n\0\0\0\0";

	(void)state;
	/* Half a line, a whole line without its end (the next would be glued to it), what a file system left.
	 */
	put_file("{\"step\": 1}\n{\"step\": 2, \"lo", 28);
	metrics_close(open_at(5));
	expect_file("{\"step\": 1}\n");
	put_file("{\"step\": 1}\n{\"step\": 2}", 23);
	metrics_close(open_at(5));
	expect_file("{\"step\": 1}\n");
	put_file(zeros, sizeof zeros - 1);
	metrics_close(open_at(5));
	expect_file("{\"step\": 1}\n{\"step\": 2}\n");
}

static void test_open_errors(void **state)
{
	struct metrics *m;
	struct err e;

	(void)state;
	assert_int_equal(metrics_open(&m, "/nonexistent/dir", 0, -1, false, &e), -1);
	assert_null(m);
	assert_non_null(strstr(e.msg, "/nonexistent/dir/metrics.jsonl"));
}

/* As a full disk does: writes fail from the tenth byte of a file on. */
static void test_full_disk(void **state)
{
	struct rlimit old, tiny;
	struct metrics *m = open_at(0);
	struct tensorboard *tb;
	struct err line = { "" }, event = { "" };
	int wrote, flushed;

	(void)state;
	assert_int_equal(tb_open(&tb, dir, 0, &event), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tiny = (struct rlimit) { 10, old.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tiny), 0);
	metrics_add(m, "loss", 1);
	wrote = metrics_write(m, 1, &line);
	tb_scalar(tb, "loss", 1, 1, NULL);
	flushed = tb_flush(tb, &event);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(wrote, -1);
	assert_non_null(strstr(line.msg, "metrics.jsonl: File too large"));
	assert_int_equal(flushed, -1);
	assert_non_null(strstr(event.msg, "tfevents"));
	metrics_close(m);
	tb_close(tb);
}

/* Bytes of all event files. */
static long long size_of_events(void)
{
	char *events = file_join(dir, "tensorboard");
	DIR *d = opendir(events);
	long long size = 0;
	struct stat st;

	assert_non_null(d);
	for (struct dirent *x; (x = readdir(d));)
		if (x->d_type == DT_REG && !fstatat(dirfd(d), x->d_name, &st, 0))
			size += st.st_size;
	closedir(d);
	free(events);
	return size;
}

/* A row that cannot be written is kept, and has no events before it has its line. */
static void test_again(void **state)
{
	struct rlimit old, tiny;
	struct metrics *m;
	struct err e = { "" };

	(void)state;
	assert_int_equal(metrics_open(&m, dir, 0, -1, true, &e), 0);
	metrics_add(m, "loss", 1);
	assert_int_equal(metrics_write(m, 1, &e), 0);
	long long before = size_of_events();
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tiny = (struct rlimit) { 10, old.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tiny), 0);
	metrics_add(m, "loss", 2);
	int ret = metrics_write(m, 2, &e);
	long long during = size_of_events();
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(ret, -1);
	assert_int_equal(metrics_rows(m), 1);
	assert_int_equal(during, before);
	assert_int_equal(metrics_flush(m, &e), 0);
	assert_int_equal(metrics_rows(m), 2);
	long long after = size_of_events();
	assert_true(after > before);
	assert_int_equal(metrics_flush(m, &e), 0); /* once */
	assert_int_equal(size_of_events(), after);
	metrics_close(m);
	expect_file("{\"step\": 1, \"loss\": 1}\n{\"step\": 2, \"loss\": 2}\n");
}

static void test_bad_image(void **state)
{
	struct tensorboard *tb;
	struct err e = { "" };

	(void)state;
	assert_int_equal(tb_open(&tb, dir, 0, &e), 0);
	tb_image(tb, "bad", 1, 0, 3, (const uint8_t *)"");
	assert_int_equal(tb_flush(tb, &e), -1);
	assert_non_null(strstr(e.msg, "0 x 3"));
	tb_close(tb);
}

/* A run resumed by the same process within the second: no file is written twice. */
static void test_event_files_are_new(void **state)
{
	struct tensorboard *tb;
	struct err e;
	struct dirent *entry;
	int n = 0;

	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(tb_open(&tb, dir, i, &e), 0);
		tb_close(tb);
	}
	DIR *d = opendir(dir);
	assert_non_null(d);
	while ((entry = readdir(d)))
		n += !strncmp(entry->d_name, "events.out.tfevents.", 20);
	closedir(d);
	assert_int_equal(n, 3);
	assert_int_equal(tb_open(&tb, "/nonexistent/dir", 0, &e), -1);
	assert_non_null(strstr(e.msg, "/nonexistent/dir/events.out.tfevents."));
}

static void test_crc32c(void **state)
{
	uint8_t zeros[32] = { 0 }, ones[32], up[32];

	(void)state;
	memset(ones, 0xff, sizeof ones);
	for (int i = 0; i < 32; i++)
		up[i] = (uint8_t)i;
	assert_int_equal(tb_crc32c("123456789", 9), 0xe3069283u);
	assert_int_equal(tb_crc32c("", 0), 0);
	/* RFC 3720, B.4 */
	assert_int_equal(tb_crc32c(zeros, 32), 0x8a9136aau);
	assert_int_equal(tb_crc32c(ones, 32), 0x62a8ab43u);
	assert_int_equal(tb_crc32c(up, 32), 0x46dd794eu);
}

static int make_dir(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(dir, &e);
}

static int empty_dir(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(dir, &e) || file_mkdirs(dir, &e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_line, empty_dir),
		cmocka_unit_test_setup(test_counts, empty_dir),
		cmocka_unit_test_setup(test_resume_cuts, empty_dir),
		cmocka_unit_test_setup(test_resume_counts, empty_dir),
		cmocka_unit_test_setup(test_resume_after_a_crash, empty_dir),
		cmocka_unit_test(test_open_errors),
		cmocka_unit_test_setup(test_full_disk, empty_dir),
		cmocka_unit_test_setup(test_again, empty_dir),
		cmocka_unit_test_setup(test_bad_image, empty_dir),
		cmocka_unit_test_setup(test_event_files_are_new, empty_dir),
		cmocka_unit_test(test_crc32c),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
