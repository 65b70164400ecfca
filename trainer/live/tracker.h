/*
 * tracker.h -- a program that is told of the run, a line of JSON at a time on its standard input.
 *
 * Lines wait in a queue, and a thread of their own writes them: whoever tells never waits.  A program that
 * ends, or leaves a line unread for `timeout` seconds, is warned of once, and told nothing more; where it
 * falls behind by more than the queue holds, lines are lost, and that is warned of once.
 */
#ifndef TRACKER_H
#define TRACKER_H
#include "base/conf/conf.h"
#include "base/err.h"

struct tracker;
int tracker_start(struct tracker **out, const struct conf_list *command, double timeout, struct err *e);
/* A line, without its end. */
void tracker_tell(struct tracker *t, const char *line, size_t n);
/* Writes what waits, closes its standard input, and gives it `wait` seconds for all that to end; then it is
 * killed, with a warning.  NULL is fine. */
void tracker_close(struct tracker *t, double wait);

#endif
