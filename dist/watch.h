/*
 * watch.h -- nobody waits for ever: who ends a job when one of its ranks does not come on.
 *
 * Two watch.  A rank that waits for others (for all to come to a collective, for NCCL) looks at the clock,
 * and half-way asks the others, by messages of their own, for a sign of life.  Those that wait as well
 * answer, and so do those that still work, at their next mark (base/alive.h): then the wait begins anew,
 * however long the work takes.  Who does not answer in time is missing: stopped, stuck, dead, or behind a
 * broken network.  A thread of each process looks after the rank itself: a judge, a file system or a GPU that
 * hangs is one that says nothing for so long; it has the last word as well where MPI itself hangs.  MPI
 * remains the main thread's; the watching thread calls nothing of it but MPI_Abort.
 *
 * Whoever finds that somebody is missing says who, on which host, in what and at which step, in one line, and
 * ends the whole job (dist_abort).
 */
#ifndef WATCH_H
#define WATCH_H
#include "dist/dist.h"

#define WATCH_OP 40

/* The ranks that a rank waits for, with what it has heard of them. */
struct watch {
	struct dist *dist;
	const char *op;   /* "all-reduce": borrowed */
	int first, count; /* of the job's ranks */
	double start, napped;
	int question;            /* 0: nobody has been asked since the last sign of life */
	char (*waits)[WATCH_OP]; /* [count]: what it has answered that it waits for; "": it has not */
};

void watch_open(struct dist *d); /* collective, right after MPI has started */
void watch_close(void);

void watch_begin(struct watch *w, struct dist *d, const char *op); /* for those of d's own part */
void watch_nap(struct watch *w);                                   /* between two looks at what is awaited */
void watch_end(struct watch *w);

#endif
