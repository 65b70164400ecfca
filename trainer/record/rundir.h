/*
 * rundir.h -- the run directory: claimed before anything is loaded, begun or taken up again when everything
 * that could refuse the run has passed.
 *
 * Rank 0 alone looks at it and writes there (but for archives); the others need not see it.  Until
 * rundir_open has begun it, nothing in it changes but the lock, and a directory that was made for a run which
 * does not come about goes again.
 */
#ifndef RUNDIR_H
#define RUNDIR_H
#include "trainer/record/runlock.h"
#include "trainer/trainer.h"

enum rundir_want {
	RUNDIR_NEW,    /* a directory that holds a run already is an error */
	RUNDIR_RESUME, /* one that holds none is */
	RUNDIR_AUTO    /* whichever it is, for jobs that are started again and again */
};

struct rundir {
	char *path;
	bool resumes; /* it holds a run, which goes on */
	/* Of rank 0. */
	struct runlock lock;
	char *made; /* the topmost of the folders that were made for it; NULL: it was there */
	bool begun;
};

/* run, or runs/<name> when NULL; free(). */
char *rundir_path(const struct experiment *x, const char *run);
/* Whether something of a run is in the folder.  Rank 0's to ask. */
bool rundir_holds_run(const char *path);
/* Collective.  Makes the directory if need be, locks it, and sees that it can be written and has room. */
int rundir_claim(struct rundir *r, const char *path, enum rundir_want want, struct dist *d, struct err *e);
/* Collective.  Sets t->dir, reads the newest checkpoint of a run that goes on, enters its stage, and then
 * opens log and metrics and writes config.yaml; what a run had there before, and is another, is kept as
 * config-until-STEP.yaml, and said key by key.  `command` is the command line with the program's version, for
 * the log. */
int rundir_open(struct trainer *t, struct rundir *r, const char *command, struct err *e);
/* config.yaml of t->dir, as rundir_open writes it. */
int rundir_write_config(const struct trainer *t, struct err *e);
/* What a resolved configuration would be if nobody had said anything but which model and which prompts; NULL
 * where it is none.  conf_node_free the result. */
struct conf_node *rundir_defaults(const struct conf_node *resolved);
/* Of any state. */
void rundir_release(struct rundir *r);

#endif
