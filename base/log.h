/*
 * log.h -- what a user sees while the program works.
 *
 * Rank 0 speaks: log_info() prints on stderr and, once log_file() has named one, into the run's log.txt with
 * a time stamp.  log_warn() speaks from every rank, with the rank.  A progress line is redrawn on a terminal
 * and is a plain line every so many seconds elsewhere.
 */
#ifndef LOG_H
#define LOG_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

void log_rank(int rank, int ranks); /* once, after the ranks are known */
/* Append, first what was said until now, and the message of die(); rank 0's alone. */
int log_file(const char *path, struct err *e);
/* Of another rank: if it dies, and finds the file, it says so there. */
void log_end_in(const char *path);
void log_close(void);
void log_quiet(bool quiet); /* no info, no progress on stderr (errors stay) */

void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Into the file alone, where there is one: what somebody wants to know afterwards. */
void log_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What all ranks find alike, and perhaps several times: rank 0 says each line once. */
void log_warn_once(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A long phase: begin, tick with what is done so far and a short note, end.  ETA from the mean pace. */
struct progress {
	const char *what; /* "train", "rollout", "evaluate": borrowed */
	int64_t total, done, base;
	double start, last;
};
void progress_begin(struct progress *p, const char *what, int64_t done, int64_t total);
void progress_tick(struct progress *p, int64_t done, const char *note_fmt, ...)
    __attribute__((format(printf, 3, 4)));
void progress_end(struct progress *p);

double clock_now(void); /* seconds, monotonic */
double clock_cpu(void); /* CPU seconds of this process, all threads */
void clock_sleep(double seconds);

#endif
