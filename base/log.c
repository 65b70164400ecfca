#include "base/host.h"
#include "base/io.h"
#include "base/log.h"
#include "base/alive.h"
#include "base/mem.h"
#include "base/text.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICK_TERMINAL 0.2  /* seconds between redraws */
#define TICK_PLAIN    10.0 /* seconds between lines of a log */
#define EARLY_LINES   64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int my_rank, all_ranks = 1;
static struct io_records *file;
static bool file_failed; /* that was said */
static bool quiet_mode, line_drawn;
/* What was said before the file was there: it belongs into it. */
static char *early[EARLY_LINES];
static int n_early;
static void (*taker)(void *ctx, enum host_level level, const char *line); /* of host_log */
static void *taker_ctx;
static char last_path[4096]; /* of last_words */

static int stamp(char *out, size_t size)
{
	time_t now = time(NULL);
	struct tm tm;

	return (int)strftime(out, size, "%Y-%m-%dT%H:%M:%S", localtime_r(&now, &tm));
}

void log_rank(int rank, int ranks)
{
	my_rank = rank;
	all_ranks = ranks;
}

/* Whoever dies may hold the lock or be out of memory, and the file may be on the disk that hangs: the message
 * has been printed, and the end waits no longer than an alarm for it. */
static void last_words(const char *message)
{
	char line[4352];
	sigset_t alarms;
	int fd;

	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	signal(SIGALRM, SIG_DFL);
	pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
	alarm(2);
	fd = io_open(last_path, O_WRONLY | O_APPEND, 0);
	if (fd >= 0) {
		int n = stamp(line, sizeof line);
		n += snprintf(line + n, sizeof line - (size_t)n, " ended by: %s\n", message);
		io_write(fd, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1, last_path);
		close(fd);
	}
	alarm(0);
}

void log_end_in(const char *path)
{
	snprintf(last_path, sizeof last_path, "%s", path);
	die_tells(last_words);
}

int log_file(const char *path, struct err *e)
{
	log_close();
	if (my_rank != 0)
		return 0;
	log_end_in(path);
	file = io_records_open(path, false);
	if (!file)
		return err_set(e, "cannot write %s: %s", path, strerror(errno));
	file_failed = false;
	struct text said = { 0 };
	for (int i = 0; i < n_early; i++) {
		text_add(&said, early[i]);
		free(early[i]);
	}
	n_early = 0;
	int ret = io_records_add(file, said.s, said.n)
		      ? err_set(e, "cannot write %s: %s", path, strerror(errno))
		      : 0;
	text_free(&said);
	return ret;
}

void log_close(void)
{
	die_tells(NULL);
	io_records_close(file);
	file = NULL;
}

void log_quiet(bool quiet)
{
	quiet_mode = quiet;
}

void host_log(void (*take)(void *ctx, enum host_level level, const char *line), void *ctx)
{
	pthread_mutex_lock(&lock);
	taker = take;
	taker_ctx = ctx;
	pthread_mutex_unlock(&lock);
}

/* Whether somebody has taken the line. */
static bool hand_over(enum host_level level, const char *line)
{
	pthread_mutex_lock(&lock);
	void (*take)(void *, enum host_level, const char *) = taker;
	void *ctx = taker_ctx;
	pthread_mutex_unlock(&lock);
	if (take)
		take(ctx, level, line);
	return take;
}

/* With the lock held. */
static void erase_line(void)
{
	if (line_drawn)
		fputs("\r\033[K", stderr);
	line_drawn = false;
}

/* With the lock held.  A run is worth more than its log: it goes on. */
static void write_file(const char *line)
{
	if (!io_records_add(file, line, strlen(line)) || file_failed)
		return;
	int code = errno;
	erase_line();
	fprintf(stderr, "warning: cannot write %s: %s; lines are missing there\n", io_records_path(file),
		strerror(code));
	file_failed = true;
}

static void write_line(const char *prefix, const char *msg, bool screen)
{
	char when[32];

	if (hand_over(*prefix ? HOST_WARNING : HOST_INFO, msg))
		return;
	pthread_mutex_lock(&lock);
	if (screen) {
		erase_line();
		fprintf(stderr, "%s%s\n", prefix, msg);
	}
	stamp(when, sizeof when);
	char *line = mem_printf("%s %s%s\n", when, prefix, msg);
	if (file) {
		write_file(line);
	} else if (my_rank == 0 && n_early < EARLY_LINES) {
		early[n_early++] = line;
		line = NULL;
	}
	free(line);
	pthread_mutex_unlock(&lock);
}

void log_info(const char *fmt, ...)
{
	char msg[2048];
	va_list ap;

	if (my_rank != 0)
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	write_line("", msg, !quiet_mode);
}

void log_note(const char *fmt, ...)
{
	char msg[8192];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	write_line("", msg, false);
}

void log_warn(const char *fmt, ...)
{
	char msg[2048], prefix[64] = "warning: ";
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	if (all_ranks > 1)
		snprintf(prefix, sizeof prefix, "warning: rank %d: ", my_rank);
	write_line(prefix, msg, true);
}

static bool said_before(const char *msg)
{
	static struct {
		char **v;
		int n, cap;
	} said;
	bool before = false;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < said.n && !before; i++)
		before = !strcmp(said.v[i], msg);
	if (!before)
		MEM_PUSH(said.v, said.n, said.cap) = mem_str(msg);
	pthread_mutex_unlock(&lock);
	return before;
}

void log_warn_once(const char *fmt, ...)
{
	char msg[2048];
	va_list ap;

	if (my_rank != 0)
		return;
	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	if (!said_before(msg))
		write_line("warning: ", msg, true);
}

/* ---- Progress -------------------------------------------------------------------------------- */

static void duration(char *out, size_t n, double s)
{
	long v = (long)(s + 0.5);

	if (v < 60)
		snprintf(out, n, "%lds", v);
	else if (v < 3600)
		snprintf(out, n, "%ldm%02lds", v / 60, v % 60);
	else
		snprintf(out, n, "%ldh%02ldm", v / 3600, v / 60 % 60);
}

void progress_begin(struct progress *p, const char *what, int64_t done, int64_t total)
{
	double now = clock_now();
	*p = (struct progress) {
		.what = what, .total = total, .done = done, .base = done, .start = now, .last = now
	};
}

static void draw(const struct progress *p, const char *note, bool terminal)
{
	char eta[32] = "", took[32], line[2300];
	double spent = clock_now() - p->start;
	int64_t made = p->done - p->base;

	duration(took, sizeof took, spent);
	if (made > 0 && p->done < p->total)
		duration(eta, sizeof eta, spent / (double)made * (double)(p->total - p->done));
	snprintf(line, sizeof line, "%s %lld/%lld  %s%s%s%s%s", p->what, (long long)p->done,
		 (long long)p->total, took, *eta ? ", " : "", *eta ? eta : "", *eta ? " left" : "", note);
	pthread_mutex_lock(&lock);
	if (terminal) {
		erase_line();
		fprintf(stderr, "%.160s", line);
		line_drawn = true;
	} else {
		fprintf(stderr, "%s\n", line);
	}
	fflush(stderr);
	pthread_mutex_unlock(&lock);
}

void progress_tick(struct progress *p, int64_t done, const char *note_fmt, ...)
{
	double now = clock_now();
	bool terminal = isatty(STDERR_FILENO);
	char note[1024], padded[1032];
	va_list ap;

	p->done = done;
	alive_mark(p->what);
	if (my_rank != 0 || quiet_mode || now - p->last < (terminal ? TICK_TERMINAL : TICK_PLAIN))
		return;
	p->last = now;
	va_start(ap, note_fmt);
	vsnprintf(note, sizeof note, note_fmt, ap);
	va_end(ap);
	snprintf(padded, sizeof padded, "%s%s", *note ? "  " : "", note);
	draw(p, padded, terminal);
}

void progress_end(struct progress *p)
{
	(void)p;
	pthread_mutex_lock(&lock);
	erase_line();
	fflush(stderr);
	pthread_mutex_unlock(&lock);
}

static double read_clock(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

double clock_now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

double clock_cpu(void)
{
	return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

void clock_sleep(double seconds)
{
	struct timespec t = { .tv_sec = (time_t)seconds };

	t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
	nanosleep(&t, NULL);
}
