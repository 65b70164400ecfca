/*
 * err.h -- one error message, carried by value, context added once on the way out.
 *
 * Functions that can fail because of the user (files, configs, rewards) return int, 0 or -1,
 * and take a `struct err *e` last.  On -1, e->msg is one line: what, where, what to do.
 * Nothing else reports: the caller decides whether to print, add context or try again.
 */
#ifndef ERR_H
#define ERR_H

#ifdef __cplusplus
extern "C" {
#endif

struct err {
	char msg[1024];
};

/* Sets the message.  Always returns -1, so that `return err_set(e, ...)` reads well. */
int err_set(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "CONTEXT: " before the message that is there.  Always returns -1. */
int err_in(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For an unusable environment only (out of memory, a broken invariant of the machine):
 * prints "contraflow: MESSAGE" on stderr and exits with 1, or ends as die_by() says. */
void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* How die() ends from now on, in place of exit(); NULL: by exit().  A rank that merely exits would leave the
 * others waiting: `srun` does not end a job for it. */
void die_by(void (*end)(int code));

/* Who also gets die()'s message, after it was printed; it may be told in any thread, with any lock held. */
void die_tells(void (*tell)(const char *message));

#ifdef __cplusplus
}
#endif

#endif
