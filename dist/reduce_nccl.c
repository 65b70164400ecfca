/*
 * reduce_nccl.c -- gradients summed by NCCL, over the links between GPUs; only in builds with CUDA.
 *
 * MPI carries the communicator's id and every control message, NCCL the data.  NCCL reduces each element on
 * one rank and hands that result to the others, so all ranks get the same bits.  A rank that died or hangs
 * would leave the others in the kernel for ever: they watch, and after dist->timeout end the job with who
 * waited for what.
 */
#include "base/log.h"
#include "base/mem.h"
#include "dist/dist.h"
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdlib.h>
#include <time.h>

struct nccl {
	ncclComm_t comm;
	cudaEvent_t done;
};

/* Ends the job: the communicator cannot be used after a failure, and the others wait in theirs. */
static _Noreturn void fail(struct dist *d, const char *op, const char *why)
{
	struct nccl *n = d->nccl;

	if (n && n->comm)
		ncclCommAbort(n->comm);
	at_panic("%s over NCCL (rank %d of %d): %s", op, d->rank, d->ranks, why);
}

static void check(struct dist *d, const char *op, ncclResult_t r)
{
	if (r != ncclSuccess && r != ncclInProgress)
		fail(d, op, ncclGetErrorString(r));
}

static void check_cuda(struct dist *d, const char *op, cudaError_t r)
{
	if (r != cudaSuccess)
		fail(d, op, cudaGetErrorString(r));
}

/* Sleeps in short steps: what is waited for takes milliseconds, and the core has rewards to score. */
static void nap(void)
{
	nanosleep(&(struct timespec) { .tv_nsec = 50000 }, NULL);
}

/* Until the communicator itself is through with what it began (it does not block). */
static void settle(struct dist *d, const char *op)
{
	struct nccl *n = d->nccl;
	double start = clock_now();
	ncclResult_t state = ncclInProgress;

	while (state == ncclInProgress) {
		check(d, op, ncclCommGetAsyncError(n->comm, &state));
		check(d, op, state);
		if (clock_now() - start > d->timeout)
			fail(d, op,
			     "no answer from the other ranks in time: is one dead, or behind another "
			     "network?");
		if (state == ncclInProgress)
			nap();
	}
}

/* Until the stream has run it. */
static void wait_done(struct dist *d, const char *op, cudaStream_t stream)
{
	struct nccl *n = d->nccl;
	double start = clock_now();
	ncclResult_t state;
	cudaError_t r;

	check_cuda(d, op, cudaEventRecord(n->done, stream));
	while ((r = cudaEventQuery(n->done)) == cudaErrorNotReady) {
		check(d, op, ncclCommGetAsyncError(n->comm, &state));
		check(d, op, state);
		if (clock_now() - start > d->timeout)
			fail(d, op, "the other ranks did not join in time: one is dead, or far behind");
		nap();
	}
	check_cuda(d, op, r);
}

static void sum_nccl(struct dist *d, at_t x)
{
	struct nccl *n = d->nccl;
	cudaStream_t stream = at_cuda_stream();
	float *p = at_cuda_f32(x);

	check(d, "all-reduce", ncclAllReduce(p, p, (size_t)at_numel(x), ncclFloat, ncclSum, n->comm, stream));
	settle(d, "all-reduce");
	wait_done(d, "all-reduce", stream);
}

static const struct dist_reducer reduce_nccl = { .name = "nccl", .sum = sum_nccl };

int dist_use_nccl(struct dist *d, struct err *e)
{
	struct nccl *n = mem_zero(1, sizeof *n);
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	ncclUniqueId id;
	int ret = 0;

	d->nccl = n;
	config.blocking = 0; /* so that a missing rank is an error and not a hang */
	if (d->rank == 0 && ncclGetUniqueId(&id) != ncclSuccess)
		ret = err_set(e, "NCCL cannot make an id: %s", ncclGetLastError(NULL));
	if (dist_agree(d, ret, e)) {
		dist_close_nccl(d);
		return -1;
	}
	dist_broadcast(d, &id, sizeof id, 0);
	check(d, "init", ncclCommInitRankConfig(&n->comm, d->ranks, id, d->rank, &config));
	settle(d, "init");
	check_cuda(d, "init", cudaEventCreateWithFlags(&n->done, cudaEventDisableTiming));
	d->reducer = &reduce_nccl;
	return 0;
}

void dist_close_nccl(struct dist *d)
{
	struct nccl *n = d->nccl;

	if (!n)
		return;
	if (n->done)
		cudaEventDestroy(n->done);
	if (n->comm) {
		ncclCommFinalize(n->comm);
		settle(d, "finalize");
		ncclCommDestroy(n->comm);
	}
	free(n);
	d->nccl = NULL;
	d->reducer = &dist_reduce_mpi;
}
