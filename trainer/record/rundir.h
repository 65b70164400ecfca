/*
 * rundir.h -- the run directory: made by a fresh run, taken up again by a resumed one.
 */
#ifndef RUNDIR_H
#define RUNDIR_H
#include "trainer/trainer.h"

/* run, or runs/<name> when NULL; free(). */
char *rundir_path(const struct experiment *x, const char *run);
/* Collective.  Sets t->dir (rundir_path), opens log and metrics, and with `resume` reads
 * the newest checkpoint.  A directory that holds a run already is an error without `resume`. */
int rundir_open(struct trainer *t, const char *run, bool resume, struct err *e);

#endif
