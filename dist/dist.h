/*
 * dist.h -- the ranks of a job: MPI for control and, on CPU, for gradients.
 *
 * Started without mpirun (or srun) the job is one rank and MPI is never initialised.  Every function below is
 * a collective unless it says otherwise: all ranks call it, in the same order.  MPI belongs to the main
 * thread.
 */
#ifndef DIST_H
#define DIST_H
#include "aten/at.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dist {
	int rank, ranks;
	int local_rank, local_ranks; /* on this machine */
	int machine_ranks;           /* of the job on this machine, servers included */
	int machine_rank;            /* among those */
	int cores;                   /* threads for this rank's share of the machine, at least 1 */
	int held, held_of;           /* CPUs that its launcher bound it to, and had; 0: all that it had */
	/* From dist_split: the job's last ranks serve the others.  Each part then has collectives, ranks and
	 * local ranks of its own, as if the other were not there. */
	int servers, first_server; /* ranks of the job first_server .. first_server + servers - 1; 0: none */
	bool serves;               /* this is one of them */
	bool mpi;
	struct dist_comm *comm;             /* communicators; NULL without MPI */
	const struct dist_reducer *reducer; /* how gradients are summed: MPI here; NCCL slots in beside it */
	double reduce_seconds;              /* spent in dist_sum_tensor since the caller last zeroed it */
	void *nccl;                         /* NULL: not in use */
};
struct dist_reducer {
	const char *name;
	void (*sum)(struct dist *d, at_t x); /* in place over all ranks, the same bits on every rank */
};
extern const struct dist_reducer dist_reduce_mpi; /* contiguous float32 on CPU */

#define DIST_TIMEOUT 1800 /* s: dist_watch's until it is called */

/* "Open MPI v4.1.4, ..." up to the first comma; not a collective, and before dist_open as well. */
void dist_mpi_version(char *out, size_t size);
/* After an error nothing is open, and d->rank is the one that the launcher gave this process: each of those
 * that it started may have had the same error. */
int dist_open(struct dist *d, struct err *e);
void dist_alone(struct dist *d); /* in place of dist_open: one rank, whoever started it; not a collective */
/*
 * Every rank its GPU, right after dist_open and before the first call of CUDA, which from then on sees that
 * one alone: it is device 0 in every thread.  Where the job has several ranks on this machine and a rank sees
 * several GPUs, rank i of those ranks, servers included, takes GPU i modulo their number; a launcher that
 * shows each rank one GPU of its own has chosen already.  A job's only rank on a machine keeps what it sees,
 * and uses the first.
 */
void dist_place_gpu(struct dist *d);
/* The same before dist_open, where the launcher says which of its machine's ranks this is: an MPI that can
 * send from a GPU starts CUDA itself.  dist_place_gpu then finds the GPU chosen.  Not a collective. */
void dist_place_gpu_early(void);
/* The number of different GPUs that this machine's ranks have, those that serve left out: where it is less
 * than local_ranks, two ranks share one.  Not a collective; not for servers to call. */
int dist_gpus(const struct dist *d);
/* From now on tensors are summed over the GPUs, one a rank, chosen before; a build without CUDA refuses. */
int dist_use_nccl(struct dist *d, struct err *e);
/* Makes the last `servers` ranks servers, 0 < servers < ranks; before dist_use_nccl, at most once. */
void dist_split(struct dist *d, int servers);
/* From now on no rank waits for another, and no rank works, for longer than this without a sign of life
 * (base/alive.h): watch.h says what happens then.  0: they wait for ever.  Not a collective; main thread,
 * after dist_open or dist_alone, until dist_close. */
void dist_watch(double timeout);
void dist_close_nccl(struct dist *d); /* before MPI goes; nothing when it is not in use */
void dist_close(struct dist *d);
/* Not a collective: ends the whole job at once, from any thread (panic handlers, die). Prints nothing of its
 * own.  Runs the handlers of quick_exit, and never takes longer than two seconds. */
_Noreturn void dist_abort(int code);

/* ret and e of the worst rank become everyone's ("rank 2: ..."): makes one rank's error all ranks' before the
 * next collective.  Returns 0 when every rank passed 0. */
int dist_agree(struct dist *d, int ret, struct err *e);
/* Has any rank been asked to stop (base/machine/stop.h)?  All have, then. */
bool dist_stops(struct dist *d);
/* An error on all ranks where one has another value than rank 0: "rank 1: WHAT is not what rank 0 has". */
int dist_same(struct dist *d, uint64_t value, const char *what, struct err *e);
void dist_barrier(struct dist *d);
void dist_broadcast(struct dist *d, void *data, size_t size, int root);
void dist_sum_f64(struct dist *d, double *v, int n); /* in place; the same bits on every rank */
void dist_max_f64(struct dist *d, double *v, int n);
/* Rank r contributes count[r] doubles; all ranks get all, in rank order. */
void dist_gather_f64(struct dist *d, const double *mine, double *all, const int64_t *count);
/* Rank r hands size[r] bytes to rank to[r] (-1: to nobody); into `in` go those meant for this rank, in the
 * order of the ranks they come from.  A rank needs to know the sizes that concern it alone. */
void dist_hand_over(struct dist *d, const int *to, const int64_t *size, const void *out, void *in);
/*
 * After dist_split: messages of any length between ranks of the job (which for those that do not serve are
 * their ranks).  Not collectives.  Two messages from one rank to another arrive in order.
 */
void dist_send(struct dist *d, int to, const void *data, size_t size); /* returns when it was taken */
void dist_post(struct dist *d, int to, char *data, size_t size); /* returns at once, and frees data later */
/* The next message, whole, if one is there: *data is the caller's to free, with a zero byte behind its end.
 * Never waits for a message to begin. */
bool dist_receive(struct dist *d, int *from, char **data, size_t *size);
void dist_sum_tensor(struct dist *d, at_t flat_P); /* one fused all-reduce, float32, in place */

#endif
