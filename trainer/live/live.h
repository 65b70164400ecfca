/*
 * live.h -- who else gets what rank 0 records, while the run goes on: Prometheus, which asks
 * (log.metrics_port), and a program, which is told (log.exec).  Neither can keep the run waiting, or change a
 * bit of it.
 *
 * NULL is a run that has neither: every function takes it.
 */
#ifndef LIVE_H
#define LIVE_H
#include "trainer/experiment.h"

struct live;
/* Before anything is loaded: the port is opened, and the program looked for.  x is borrowed.  *out NULL:
 * nothing is asked for. */
int live_open(struct live **out, const struct experiment *x, struct err *e);
/* The run in `dir` begins, or goes on from `step` (resumed): starts the program. */
int live_begin(struct live *l, const char *dir, bool resumed, int64_t step, struct err *e);
void live_row(void *live, const char *json, size_t n); /* metrics_listen's */
/* An image that was written, with the JSON file that says what is on it. */
void live_image(struct live *l, int64_t step, const char *image, const char *words);
/* The run went back to the checkpoint of a step; its rows come anew. */
void live_back(struct live *l, int64_t step);
/* How it ended: "finished", "stopped" or "failed", and why ("").  Waits for the program, log.exec_wait
 * seconds. */
void live_close(struct live *l, const char *how, const char *why);

#endif
