#include "dist/dist.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "dist/comm.h"
#include "dist/watch.h"
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Set by a launcher for every rank it starts: mpirun, srun with PMI or PMIx. */
static bool launched(void)
{
	static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE" };

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (getenv(names[i]))
			return true;
	return false;
}

/* How many ranks the launcher says it started, and which this is; 0 when it does not say.  mpirun first:
 * inside a job it is itself a step of srun's, of one task a machine.  SLURM_NTASKS is the job's, which a
 * batch script of one process has as well. */
static int promised_ranks(int *rank)
{
	static const char *const names[][2] = { { "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK" },
						{ "PMI_SIZE", "PMI_RANK" },
						{ "SLURM_STEP_NUM_TASKS", "SLURM_PROCID" } };

	*rank = 0;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const char *n = getenv(names[i][0]), *mine = getenv(names[i][1]);

		if (!n)
			continue;
		*rank = mine ? atoi(mine) : 0;
		return atoi(n);
	}
	return 0;
}

/* Where MPI does not hear of the others, each process would be a job of its own: N equal runs that write into
 * one directory. */
static int alone_of_many(struct dist *d, int ranks, int rank, struct err *e)
{
	dist_close(d);
	d->rank = rank;
	return err_set(e,
		       "the launcher started %d ranks but MPI sees only one: "
		       "use the mpirun of the MPI that contraflow is linked with, or srun --mpi=pmix",
		       ranks);
}

static int mpi_up(void)
{
	int up = 0, down = 0;
	MPI_Initialized(&up);
	if (up)
		MPI_Finalized(&down);
	return up && !down;
}

/* Those of this communicator on this machine. */
static MPI_Comm of_machine(MPI_Comm comm, int *rank, int *ranks)
{
	MPI_Comm machine;

	MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
	MPI_Comm_rank(machine, rank);
	MPI_Comm_size(machine, ranks);
	return machine;
}

void dist_mpi_version(char *out, size_t size)
{
	char all[MPI_MAX_LIBRARY_VERSION_STRING];
	int n;

	if (MPI_Get_library_version(all, &n) != MPI_SUCCESS)
		n = 0;
	all[n] = '\0';
	snprintf(out, size, "%.*s", (int)strcspn(all, ",\n"), all);
}

void dist_alone(struct dist *d)
{
	*d = (struct dist) { .ranks = 1, .local_ranks = 1, .machine_ranks = 1, .reducer = &dist_reduce_mpi };
	dist_place_cores(d);
}

static atomic_int abort_code; /* of dist_abort */

/* quick_exit's last handler: those that end children come before it. */
static void abort_mpi(void)
{
	if (mpi_up())
		MPI_Abort(MPI_COMM_WORLD, atomic_load(&abort_code));
}

int dist_open(struct dist *d, struct err *e)
{
	int provided, rank, promised = promised_ranks(&rank);

	dist_alone(d);
	if (!launched())
		return promised > 1 ? alone_of_many(d, promised, rank, e) : 0;
	if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
		return err_set(
		    e, "MPI cannot start; was contraflow built against the MPI whose mpirun started it?");
	d->mpi = true;
	d->comm = mem_zero(1, sizeof *d->comm);
	*d->comm = (struct dist_comm) { .group = MPI_COMM_WORLD, .link = MPI_COMM_NULL };
	MPI_Comm_rank(MPI_COMM_WORLD, &d->rank);
	MPI_Comm_size(MPI_COMM_WORLD, &d->ranks);
	if (promised > 1 && d->ranks == 1)
		return alone_of_many(d, promised, rank, e);
	watch_open(d);
	at_quick_exit(abort_mpi);
	die_by(dist_abort);
	d->comm->machine = of_machine(MPI_COMM_WORLD, &d->machine_rank, &d->machine_ranks);
	d->local_rank = d->machine_rank;
	d->local_ranks = d->machine_ranks;
	dist_place_cores(d);
	return 0;
}

void dist_split(struct dist *d, int servers)
{
	struct dist_comm *c = d->comm;

	d->servers = servers;
	d->first_server = d->ranks - servers;
	d->serves = d->rank >= d->first_server;
	dist_come(d, MPI_COMM_WORLD, "division of the ranks");
	MPI_Comm_dup(MPI_COMM_WORLD, &c->link);
	MPI_Comm_split(MPI_COMM_WORLD, d->serves, d->rank, &c->group);
	MPI_Comm_rank(c->group, &d->rank);
	MPI_Comm_size(c->group, &d->ranks);
	MPI_Comm machine = of_machine(c->group, &d->local_rank, &d->local_ranks);
	MPI_Comm_free(&machine);
}

#ifndef CONTRAFLOW_CUDA
int dist_use_nccl(struct dist *d, struct err *e)
{
	(void)d;
	return err_set(e, "this build has no CUDA, and so no NCCL (meson -Dcuda=enabled)");
}

void dist_close_nccl(struct dist *d)
{
	(void)d;
}
#endif

void dist_close(struct dist *d)
{
	dist_close_nccl(d);
	if (d->mpi && mpi_up()) {
		dist_link_close(d);
		/* Not one by one: a rank that fails before this ends the job, and the mpirun of Open MPI 4.1
		 * may crash or hang when others are in MPI_Finalize by then. */
		dist_come(d, MPI_COMM_WORLD, "end of the job");
		MPI_Finalize();
	}
	watch_close();
	if (d->comm) {
		free(d->comm->gpu);
		free(d->comm->host);
	}
	free(d->comm);
	*d = (struct dist) { .ranks = 1, .local_ranks = 1, .machine_ranks = 1 };
}

void dist_abort(int code)
{
	sigset_t alarms;

	/* Should a handler or MPI_Abort itself hang, because the network or the launcher has gone. */
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	signal(SIGALRM, SIG_DFL);
	pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
	alarm(2);
	/* Not every stream: another thread may sit in a read with its stream locked, and the job would never
	 * end. */
	fflush(stdout);
	fflush(stderr);
	atomic_store(&abort_code, code);
	quick_exit(code);
}

int dist_agree(struct dist *d, int ret, struct err *e)
{
	int mine = ret ? d->rank : d->ranks, worst = mine;
	MPI_Request r;
	struct err said;

	if (d->ranks == 1)
		return ret ? -1 : 0;
	MPI_Iallreduce(&mine, &worst, 1, MPI_INT, MPI_MIN, dist_group(d), &r);
	dist_wait(d, "agreement", 1, &r);
	if (worst == d->ranks)
		return 0;
	said = *e;
	MPI_Ibcast(said.msg, sizeof said.msg, MPI_CHAR, worst, dist_group(d), &r);
	dist_wait(d, "agreement", 1, &r);
	said.msg[sizeof said.msg - 1] = '\0';
	return err_set(e, "rank %d: %.1000s", worst, said.msg);
}

bool dist_stops(struct dist *d)
{
	double asked = stop_asked();

	dist_max_f64(d, &asked, 1);
	if (asked > 0)
		stop_ask("a signal to another rank");
	return asked > 0;
}

int dist_same(struct dist *d, uint64_t value, const char *what, struct err *e)
{
	uint64_t first = value;

	dist_broadcast(d, &first, sizeof first, 0);
	return dist_agree(d, first == value ? 0 : err_set(e, "%s is not what rank 0 has", what), e);
}

void dist_barrier(struct dist *d)
{
	MPI_Request r;

	if (d->ranks == 1)
		return;
	MPI_Ibarrier(dist_group(d), &r);
	dist_wait(d, "barrier", 1, &r);
}

void dist_broadcast(struct dist *d, void *data, size_t size, int root)
{
	char *p = data;

	while (d->ranks > 1 && size) {
		int n = size < 1u << 30 ? (int)size : 1 << 30;
		MPI_Request r;

		MPI_Ibcast(p, n, MPI_BYTE, root, dist_group(d), &r);
		dist_wait(d, "broadcast", 1, &r);
		p += n;
		size -= (size_t)n;
	}
}

/* Reducing to one rank and telling the others, rather than an all-reduce, gives all of them the same bits. */
static void reduce(struct dist *d, double *v, int n, MPI_Op op)
{
	double *all;
	MPI_Request r;

	if (d->ranks == 1 || !n)
		return;
	all = mem_zero((size_t)n, sizeof *all);
	MPI_Ireduce(v, all, n, MPI_DOUBLE, op, 0, dist_group(d), &r);
	dist_wait(d, "sum of statistics", 1, &r);
	memcpy(v, all, (size_t)n * sizeof *v);
	MPI_Ibcast(v, n, MPI_DOUBLE, 0, dist_group(d), &r);
	dist_wait(d, "sum of statistics", 1, &r);
	free(all);
}

void dist_sum_f64(struct dist *d, double *v, int n)
{
	reduce(d, v, n, MPI_SUM);
}

void dist_max_f64(struct dist *d, double *v, int n)
{
	reduce(d, v, n, MPI_MAX);
}

void dist_gather_f64(struct dist *d, const double *mine, double *all, const int64_t *count)
{
	int *n = mem_zero((size_t)d->ranks, sizeof *n), *at = mem_zero((size_t)d->ranks, sizeof *at), sum = 0;

	for (int r = 0; r < d->ranks; r++) {
		n[r] = (int)count[r];
		at[r] = sum;
		if (count[r] > INT_MAX - sum)
			die("dist_gather_f64: more than %d values", INT_MAX);
		sum += n[r];
	}
	if (d->ranks == 1)
		memcpy(all, mine, (size_t)n[0] * sizeof *all);
	else {
		MPI_Request r;

		MPI_Iallgatherv(mine, n[d->rank], MPI_DOUBLE, all, n, at, MPI_DOUBLE, dist_group(d), &r);
		dist_wait(d, "gathering of scores", 1, &r);
	}
	free(n);
	free(at);
}

/* One piece after the other, under way at once; returns how many requests that makes. */
static int begin_pieces(struct dist *d, MPI_Request *request, char *data, int64_t size, int rank, bool send)
{
	int n = 0;

	for (int64_t at = 0; at < size; at += DIST_PIECE, n++) {
		int k = (int)(size - at < DIST_PIECE ? size - at : DIST_PIECE);

		if (send)
			MPI_Isend(data + at, k, MPI_BYTE, rank, 0, dist_group(d), &request[n]);
		else
			MPI_Irecv(data + at, k, MPI_BYTE, rank, 0, dist_group(d), &request[n]);
	}
	return n;
}

void dist_hand_over(struct dist *d, const int *to, const int64_t *size, const void *out, void *in)
{
	int64_t most = 0, at = 0;
	int n = 0;

	for (int r = 0; r < d->ranks; r++)
		if (to[r] == d->rank || r == d->rank)
			most += size[r] / DIST_PIECE + 1;
	MPI_Request *request = mem_zero((size_t)most, sizeof *request);
	for (int r = 0; r < d->ranks; r++)
		if (r != d->rank && to[r] == d->rank) {
			n += begin_pieces(d, request + n, (char *)in + at, size[r], r, false);
			at += size[r];
		} else if (r == d->rank && to[r] == r) {
			memcpy((char *)in + at, out, (size_t)size[r]);
			at += size[r];
		}
	if (to[d->rank] >= 0 && to[d->rank] != d->rank)
		n += begin_pieces(d, request + n, (char *)(uintptr_t)out, size[d->rank], to[d->rank], true);
	if (n)
		dist_wait(d, "handing over of images", n, request);
	free(request);
}
