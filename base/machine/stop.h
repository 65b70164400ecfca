/*
 * stop.h -- a request to end early and keep the work: a first SIGTERM, SIGUSR1 or SIGINT, or a time that is
 * over (run.max_seconds).
 *
 * The request stays.  Whoever works for long asks stop_asked() or stop_check() between two pieces (a
 * micro-batch, a batch of images, a prompt), and leaves the rest.  On several ranks that is a rank's own
 * affair only up to the next collective: before it, all ask dist_stops() (dist/dist.h), which makes the
 * request everybody's.
 */
#ifndef STOP_H
#define STOP_H
#include "base/err.h"
#include <stdbool.h>

#define STOP_AGAIN 75 /* EX_TEMPFAIL: "run me again", where no other number is chosen */

/* From now on the first of the three signals is a request, of which `speaks` says a line on stderr; one that
 * comes a second or more later ends the process at once, as it would have before.  (Launchers send one signal
 * by several ways.)  A signal that was ignored stays so.  May be called again, for `speaks`. */
void stop_open(bool speaks);
/* The three signals do nothing any more: the process ends by itself. */
void stop_close(void);
/* A request after so many seconds of this process; 0: none.  Main thread, before others ask. */
void stop_after(double seconds);
/* Until then; infinite without such a time. */
double stop_left(void);
void stop_ask(const char *why); /* `why` lives as long as the program; the first reason stays */
bool stop_asked(void);
const char *stop_why(void); /* "SIGTERM", "run.max_seconds"; "": nobody asked */
/* 0, or where a request has come -1 and "stopped by SIGTERM". */
int stop_check(struct err *e);

/* The exit code of a process that was stopped and has kept its work. */
void stop_set_code(int code);
int stop_code(void);

#endif
