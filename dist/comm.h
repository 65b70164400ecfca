/* comm.h -- what dist's own files know of MPI; no other folder includes it. */
#ifndef COMM_H
#define COMM_H
#include "base/machine/gpus.h"
#include "dist/dist.h"
#include <mpi.h>

#define DIST_HOST 65

struct dist_comm {
	MPI_Comm group;          /* the ranks that work together: collectives */
	MPI_Comm link;           /* the whole job: messages; MPI_COMM_NULL before dist_split */
	MPI_Comm machine;        /* the job's ranks on this machine */
	MPI_Comm signs;          /* the whole job: signs of life (watch.c) */
	int ranks;               /* of the whole job */
	char (*host)[DIST_HOST]; /* of each of those */
	char (*gpu)[GPU_NAME];   /* of each of those, "" where it is not known; NULL: none has one */
	struct posted *posts;
};
#define DIST_PIECE (1 << 30) /* bytes a message: MPI counts are ints */

static inline MPI_Comm dist_group(const struct dist *d)
{
	return d->comm->group;
}

void dist_place_cores(struct dist *d); /* fills `cores` */
/* Waits for what has begun in the group; op names it in messages, and is as alive_mark's. */
void dist_wait(struct dist *d, const char *op, int n, MPI_Request *request);
/* Waits until all of comm (the group, or MPI_COMM_WORLD) have come to the same place: before a collective
 * that waits inside MPI, because there is no other or (of gradients) it takes a third of the time. */
void dist_come(struct dist *d, MPI_Comm comm, const char *op);
void dist_link_close(struct dist *d); /* waits until everything posted is taken */

#endif
