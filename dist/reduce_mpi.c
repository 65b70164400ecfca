/* reduce_mpi.c -- gradients summed by MPI, in one piece, the same bits on every rank. */
#include "base/log.h"
#include "dist/comm.h"

#define PIECE                                                                                                \
	(1 << 22) /* elements a call: MPI counts are ints, and a piece is broadcast while it is in the cache \
		   */

static void sum_mpi(struct dist *d, at_t x)
{
	if (d->ranks == 1) /* the tensor may be anywhere, and of any type */
		return;
	float *p = at_f32(x);
	int64_t left = at_numel(x);

	dist_come(d, dist_group(d), "all-reduce");
	while (left > 0) {
		int n = left < PIECE ? (int)left : PIECE;
		/* Reduce, then broadcast: an all-reduce may round differently from rank to rank, and replicas
		 * would drift. */
		if (d->rank == 0)
			MPI_Reduce(MPI_IN_PLACE, p, n, MPI_FLOAT, MPI_SUM, 0, dist_group(d));
		else
			MPI_Reduce(p, NULL, n, MPI_FLOAT, MPI_SUM, 0, dist_group(d));
		MPI_Bcast(p, n, MPI_FLOAT, 0, dist_group(d));
		p += n;
		left -= n;
	}
}

const struct dist_reducer dist_reduce_mpi = { .name = "mpi", .sum = sum_mpi };

void dist_sum_tensor(struct dist *d, at_t flat_P)
{
	double start = clock_now();
	d->reducer->sum(d, flat_P);
	d->reduce_seconds += clock_now() - start;
}
