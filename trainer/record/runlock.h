/*
 * runlock.h -- one process a run directory.
 *
 * DIR/lock is locked by the kernel for as long as the process lives and no longer: one that was killed leaves
 * nothing behind that keeps others out.  In the file stands who has it ("HOST PID TIME"), for whoever is
 * refused; it is empty while nobody has.  On NFS the lock is the server's, and holds for all hosts (where it
 * is mounted with `nolock`: for this host's processes).  A file system without locks is warned of, and there
 * the file's words alone keep out a second process of this host.
 */
#ifndef RUNLOCK_H
#define RUNLOCK_H
#include "base/err.h"
#include <stdbool.h>

struct runlock {
	int fd; /* -1: not taken */
	char *path;
	bool made;        /* the file was not there before */
	char before[160]; /* who had it last and was killed, or "" */
	char old[160];    /* what stood in the file */
};

/* An error says who has it. */
int runlock_take(struct runlock *l, const char *dir, struct err *e);
/* `undo`: the file is as it was before, or gone.  Nothing when it was not taken. */
void runlock_drop(struct runlock *l, bool undo);
/* Whose name the file holds: who has the lock, or was killed with it.  False: nobody's. */
struct runlock_holder {
	char host[64], since[32];
	long pid;
};
bool runlock_holder(const char *dir, struct runlock_holder *h);
/* Whether a process works in this run now; nothing is changed.  False where that cannot be told. */
bool runlock_held(const char *dir);

#endif
