/* test_faults.c -- every call on files that writing a run's records makes fails once, with every errno, or is
 * the moment of a kill: what has a final name is whole, the message tells the errno and the file, temporaries
 * are gone, and whoever writes again ends where nothing had happened.
 *
 * Each trial is a process of its own (fork), in a folder of its own. */
#include "base/file.h"
#include "base/io.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "trainer/record/checkpoints.h"
#include "trainer/record/metrics.h"
#include "trainer/record/runlock.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define PAYLOAD 3000 /* bytes of a file of state: a short write leaves a visible half */

static char base[] = "/dev/shm/test_faults.XXXXXX"; /* thousands of fsyncs: of memory, where there is such */

static int make_folder(void **state)
{
	(void)state;
	if (mkdtemp(base))
		return 0;
	strcpy(base, "/tmp/test_faults.XXXXXX");
	return mkdtemp(base) ? 0 : -1;
}

static int drop_folder(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(base, &e);
}

/* ---- What a run writes ----------------------------------------------------------------------- */

static char *payload(int64_t step, char mark)
{
	char *s = mem_alloc(PAYLOAD + 1);

	memset(s, mark, PAYLOAD);
	s[PAYLOAD] = '\0';
	snprintf(s, 32, "%lld", (long long)step);
	return s;
}

/* As trainer/record/checkpoint.c does it. */
static int save(const char *all, int64_t step, char mark, struct err *e)
{
	char *temp, *data = payload(step, mark);

	if (checkpoints_begin(all, step, &temp, e)) {
		free(data);
		return -1;
	}
	char *lora = file_join(temp, "lora"), *packed = file_join(temp, "state.zst"),
	     *meta = file_join(temp, "state.json");
	json_t *j = json_pack("{s:I, s:s}", "step", (json_int_t)step, "data", data);
	int ret = file_mkdirs(lora, e) || file_write_zstd(packed, data, PAYLOAD, 3, e) ||
			  json_write(meta, j, e) || file_sync_tree(temp, e) ||
			  checkpoints_put(all, step, temp, 1, e)
		      ? -1
		      : 0;
	struct err ignored;

	if (ret)
		file_remove_tree(temp, &ignored);
	json_decref(j);
	free(lora);
	free(packed);
	free(meta);
	free(temp);
	free(data);
	return ret;
}

/* A step, its row and checkpoint; the same checkpoint once more, as at the border of two stages; a step of
 * the next stage. */
static int run(const char *dir, struct err *e)
{
	char *all = file_join(dir, "checkpoints"), *config = file_join(dir, "config.yaml");
	struct metrics *m = NULL;
	struct runlock lock = { .fd = -1 };
	int ret = file_mkdirs(dir, e) || runlock_take(&lock, dir, e) ? -1 : 0;

	if (!ret) {
		file_sweep(dir, (const char *const[]) { "config", "metrics.jsonl", NULL });
		file_sweep(all, (const char *const[]) { "latest", NULL });
		ret = file_write(config, "a: 1\n", 5, e) || metrics_open(&m, dir, 0, -1, true, e);
	}
	for (int i = 1; i <= 2 && !ret; i++) {
		metrics_add(m, "loss", i);
		ret = metrics_write(m, i, e) || save(all, i, 'a', e) || (i == 1 && save(all, i, 'b', e));
	}
	metrics_close(m);
	if (lock.path)
		runlock_drop(&lock, false);
	free(all);
	free(config);
	return ret ? -1 : 0;
}

/* ---- What is there afterwards ---------------------------------------------------------------- */

/* Below `dir`, names of temporaries. */
static int temporaries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	for (struct dirent *x; d && (x = readdir(d));) {
		if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, ".."))
			continue;
		char *path = file_join(dir, x->d_name);
		n += strstr(x->d_name, ".tmp") != NULL;
		n += file_is_dir(path) ? temporaries(path) : 0;
		free(path);
	}
	if (d)
		closedir(d);
	return n;
}

static void check_whole(const char *dir, const char *what)
{
	char *path = file_join(dir, "state.zst"), *meta = file_join(dir, "state.json"), *data = NULL;
	struct err e = { "" };
	size_t n = 0;
	int bad = file_read_zstd(&data, &n, path, &e);
	json_t *j = json_read(meta, &e);

	if (bad || n != PAYLOAD || !j || strcmp(json_string_value(json_object_get(j, "data")), data) != 0)
		fail_msg("%s: %s is not whole: %s", what, dir, e.msg);
	json_decref(j);
	free(data);
	free(path);
	free(meta);
}

/* Every checkpoint that has its name, and the newest is there where one ever was. */
static void check_checkpoints(const char *dir, const char *what, bool must)
{
	char *all = file_join(dir, "checkpoints");
	struct err e;
	bool failed;
	DIR *d = opendir(all);

	for (struct dirent *x; d && (x = readdir(d));)
		if (text_starts(x->d_name, "step-") && !strchr(x->d_name, '.')) {
			char *path = file_join(all, x->d_name);
			check_whole(path, what);
			free(path);
		}
	if (d)
		closedir(d);
	char *newest = checkpoints_newest(dir, &failed, &e);
	if (failed || (must && !newest))
		fail_msg("%s: the newest checkpoint is gone", what);
	if (newest)
		check_whole(newest, what);
	free(newest);
	free(all);
}

/* Lines of metrics.jsonl: all whole. */
static int rows(const char *dir, const char *what)
{
	char *path = file_join(dir, "metrics.jsonl"), *data;
	struct err e;
	size_t n;
	int count = 0;

	if (!file_exists(path)) {
		free(path);
		return 0;
	}
	assert_int_equal(file_read(&data, &n, path, &e), 0);
	for (size_t i = 0; i < n; i++)
		count += data[i] == '\n';
	if (n && data[n - 1] != '\n')
		fail_msg("%s: half a line in metrics.jsonl", what);
	free(data);
	free(path);
	return count;
}

/* ---- Trials ---------------------------------------------------------------------------------- */

struct outcome {
	bool fired;
	int ret;
	char msg[sizeof(struct err)];
};

/* In a process of its own; its wait status. */
static int trial(const char *dir, const char *fault, struct outcome *o)
{
	int ends[2], status;

	memset(o, 0, sizeof *o);
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	if (!pid) {
		struct err e = { "" };
		int null = open("/dev/null", O_WRONLY);

		dup2(null, STDERR_FILENO);
		die_by(_exit); /* what is left in memory is no leak */
		if (!io_set_fault(fault))
			_exit(9);
		o->ret = run(dir, &e);
		o->fired = io_fault_done();
		snprintf(o->msg, sizeof o->msg, "%s", e.msg);
		_exit(write(ends[1], o, sizeof *o) == sizeof *o ? 0 : 8);
	}
	close(ends[1]);
	if (read(ends[0], o, sizeof *o) != sizeof *o)
		o->fired = true; /* it has gone */
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void check_trial(const char *dir, const char *fault, const char *kind, int status,
			const struct outcome *o)
{
	bool dies = !strcmp(kind, "kill"), alloc = text_starts(fault, "alloc");
	struct err e = { "" };

	if (dies)
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	else if (!WIFEXITED(status) || WEXITSTATUS(status) != alloc)
		fail_msg("%s: status %d, %s", fault, status, o->msg);
	if (!strcmp(kind, "EINTR") || !strcmp(kind, "short")) {
		if (o->ret)
			fail_msg("%s ended it: %s", fault, o->msg);
	} else if (!dies && !alloc && o->ret) {
		static const struct {
			const char *name;
			int code;
		} codes[] = {
			{ "ENOSPC", ENOSPC }, { "EFBIG", EFBIG }, { "EIO", EIO }, { "EINVAL", EINVAL }
		};
		const char *why = NULL;
		for (int i = 0; i < 4; i++)
			if (!strcmp(kind, codes[i].name))
				why = strerror(codes[i].code);
		if (!strstr(o->msg, why) || !strstr(o->msg, dir))
			fail_msg("%s: the message is '%s'", fault, o->msg);
	}
	/* The one call that may leave a temporary is its own removal. */
	if (!dies && !alloc && !text_starts(fault, "unlink") && temporaries(dir))
		fail_msg("%s: a temporary is left", fault);
	if (!dies)
		rows(dir, fault);
	check_checkpoints(dir, fault, rows(dir, fault) > 1);
	/* and again, without a fault: from the beginning, as the run of this test has no state to go on from
	 */
	if (run(dir, &e))
		fail_msg("%s: afterwards: %s", fault, e.msg);
	check_checkpoints(dir, fault, true);
	assert_int_equal(rows(dir, fault), 2);
	if (temporaries(dir))
		fail_msg("%s: a temporary is left in the end", fault);
}

/* n = 1, 2, ... until a run passes. */
static int all_of(const char *call, const char *kind, long stride)
{
	struct outcome o;
	struct err e;
	int fired = 0;

	for (long n = 1;; n += stride) {
		char *dir = mem_printf("%s/%s-%s-%ld", base, call, kind, n),
		     *fault = mem_printf("%s:%ld:%s", call, n, kind);
		int status = trial(dir, fault, &o);
		if (o.fired)
			check_trial(dir, fault, kind, status, &o);
		fired += o.fired;
		assert_int_equal(file_remove_tree(dir, &e), 0);
		free(dir);
		free(fault);
		if (!o.fired)
			break;
	}
	return fired;
}

static void test_every_call(void **state)
{
	static const char *const calls[] = { "open", "write", "fsync", "rename", "unlink", "mkdir" };
	static const char *const kinds[] = { "ENOSPC", "EIO", "EFBIG", "EINTR", "kill" };
	int n = 0;

	(void)state;
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
			n += all_of(calls[i], kinds[k], 1);
	n += all_of("write", "short", 1);
	n +=
	    all_of("rename", "EINVAL", 1); /* a file system that cannot exchange; one rename fails for good */
	assert_true(n > 300);
	printf("%d faults\n", n);
}

static void test_every_allocation(void **state)
{
	(void)state;
	json_set_alloc_funcs(mem_alloc, free);
	assert_true(all_of("alloc", "ENOMEM", 7) > 20);
	json_set_alloc_funcs(malloc, free);
}

/* ---- What `-o` may name ---------------------------------------------------------------------- */

static void test_in_place(void **state)
{
	char *fifo = file_join(base, "fifo"), *file = file_join(base, "file"),
	     *link = file_join(base, "link"), *second = file_join(base, "second"),
	     *dangling = file_join(base, "dangling"), *circle = file_join(base, "circle"), *data,
	     got[16] = "";
	struct err e = { "" };
	struct stat st;
	size_t n;

	(void)state;
	assert_int_equal(mkfifo(fifo, 0600), 0);
	int fd = open(fifo, O_RDWR);
	assert_int_equal(file_write(fifo, "through", 7, &e), 0);
	assert_int_equal(read(fd, got, sizeof got), 7);
	assert_string_equal(got, "through");
	assert_true(!lstat(fifo, &st) && S_ISFIFO(st.st_mode));
	close(fd);
	assert_int_equal(file_write("/dev/null", "gone", 4, &e), 0);
	assert_true(!lstat("/dev/null", &st) && S_ISCHR(st.st_mode));

	/* a link to a link: the file behind both is replaced, as a whole */
	assert_int_equal(file_write(file, "old", 3, &e), 0);
	assert_int_equal(symlink("file", link), 0);
	assert_int_equal(symlink(link, second), 0);
	assert_int_equal(symlink("made", dangling), 0);
	assert_int_equal(symlink("circle", circle), 0);
	ino_t before = stat(file, &st) ? 0 : st.st_ino;
	assert_int_equal(file_write(second, "new", 3, &e), 0);
	assert_true(!lstat(second, &st) && S_ISLNK(st.st_mode));
	assert_true(!lstat(file, &st) && S_ISREG(st.st_mode) && st.st_ino != before);
	assert_int_equal(file_read(&data, &n, link, &e), 0);
	assert_string_equal(data, "new");
	free(data);
	assert_int_equal(file_write(dangling, "x", 1, &e), 0);
	assert_true(file_is_in(base, "made"));
	assert_int_equal(file_write(circle, "x", 1, &e), -1);
	assert_non_null(strstr(e.msg, "circle"));
	assert_int_equal(file_write(base, "x", 1, &e), -1);
	assert_non_null(strstr(e.msg, strerror(EISDIR)));

	/* what a process has open: a shell's >> is not cut off, >(...) is a pipe */
	fd = open(file, O_WRONLY | O_APPEND);
	char *own = mem_printf("/dev/fd/%d", fd), *proc = mem_printf("/proc/self/fd/%d", fd);
	assert_int_equal(file_write(own, "er", 2, &e), 0);
	assert_int_equal(file_write(proc, "!", 1, &e), 0);
	close(fd);
	assert_int_equal(file_read(&data, &n, file, &e), 0);
	assert_string_equal(data, "newer!");
	free(data);
	assert_int_equal(file_write(own, "x", 1, &e), -1);
	free(own);
	free(proc);
	free(fifo);
	free(file);
	free(link);
	free(second);
	free(dangling);
	free(circle);
}

static void test_size_limit(void **state)
{
	struct rlimit old, tiny;
	char *path = file_join(base, "large"), *data = payload(1, 'x');
	struct err e;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tiny = (struct rlimit) { 1000, old.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tiny), 0);
	int ret = file_write(path, data, PAYLOAD, &e);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(ret, -1);
	assert_non_null(strstr(e.msg, "large: File too large"));
	assert_false(file_exists(path));
	assert_int_equal(temporaries(base), 0);
	free(path);
	free(data);
}

/* A record that does not fit: nothing of it stays, and the next may. */
static void test_whole_records(void **state)
{
	enum { RECORD = 200000 };
	struct rlimit old, tight;
	struct stat st;
	char *path = file_join(base, "records"), *record = mem_zero(RECORD, 1);

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tight = (struct rlimit) { 2 * RECORD - 2000, old.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	struct io_records *r = io_records_open(path, true);
	assert_non_null(r);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
	int first = io_records_add(r, record, RECORD), second = io_records_add(r, record, RECORD),
	    code = errno, third = io_records_add(r, record, RECORD / 2);
	setrlimit(RLIMIT_FSIZE, &old);
	io_records_close(r);
	assert_int_equal(first, 0);
	assert_int_equal(second, -1);
	assert_int_equal(code, EFBIG);
	assert_int_equal(third, 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, RECORD + RECORD / 2);
	assert_null(io_records_open(path, true)); /* it is there */
	assert_int_equal(errno, EEXIST);
	free(path);
	free(record);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_call),
					    cmocka_unit_test(test_every_allocation),
					    cmocka_unit_test(test_in_place),
					    cmocka_unit_test(test_size_limit),
					    cmocka_unit_test(test_whole_records) };

	return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
