/*
 * checkpoints.h -- the folder RUN/checkpoints: which checkpoints there are, the newest, how one is replaced
 * and old ones go.  What is in them is checkpoint.c's.
 *
 * step-00000123 is a checkpoint, whole from the moment that it has this name; step-00000123.tmp is being
 * written, or has been replaced and goes; step-00000123.old has been set aside for a moment, where two
 * folders cannot change places in one step.  `latest` holds the newest one's name.  These names are the
 * run's own; whatever else lies there, copies of checkpoints too, is somebody's and is never touched.
 */
#ifndef CHECKPOINTS_H
#define CHECKPOINTS_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

char *checkpoints_name(int64_t step); /* "step-00000123"; free() */
/* The folder of the one that `latest` names, or where that file is missing, of the highest step; free().
 * NULL: there is none, or, with *failed, it cannot be told (e). */
char *checkpoints_newest(const char *run, bool *failed, struct err *e);
/* The name of the one before that folder, for somebody who cannot use it; free(); NULL: none. */
char *checkpoints_before(const char *dir);

/* Of what a killed run left in the folder `all`, which need not be there: what it had set aside is back, and
 * the rest goes.  Not being able to remove something is a warning. */
int checkpoints_sweep(const char *all, struct err *e);
/* In the folder `all`, made if need be: where step's is to be written.  What a killed run left of that step
 * is removed, and what it had set aside is back. */
int checkpoints_begin(const char *all, int64_t step, char **temp, struct err *e);
/* temp, whole and synced, becomes step's and the newest, and all but the `keep` newest up to it go.  Not
 * being able to remove something is a warning. */
int checkpoints_put(const char *all, int64_t step, const char *temp, int64_t keep, struct err *e);

#endif
