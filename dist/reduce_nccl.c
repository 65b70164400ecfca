/*
 * reduce_nccl.c -- gradients summed by NCCL, over the links between GPUs; only in builds with CUDA.
 *
 * MPI carries the communicator's id and every control message, NCCL the data.  NCCL reduces each element on
 * one rank and hands that result to the others, so all ranks get the same bits.  A rank that died or hangs
 * would leave the others waiting for ever: they watch (watch.h).  Nothing here waits inside NCCL or CUDA: a
 * communicator that does not block answers at once and works in threads of its own, events are asked, and
 * ncclCommDestroy, which blocks all the same, is called by a thread of ours.
 */
#include "base/log.h"
#include "base/mem.h"
#include "dist/watch.h"
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct nccl {
	ncclComm_t comm;
	cudaEvent_t done;
	struct watch watch; /* what is under way */
	ncclResult_t destroy;
	atomic_bool destroyed;
};

static void begin(struct dist *d, const char *op)
{
	watch_begin(&((struct nccl *)d->nccl)->watch, d, op);
}

static void end(struct dist *d)
{
	watch_end(&((struct nccl *)d->nccl)->watch);
}

/*
 * Ends the job: the communicator cannot be used after a failure, and the others wait in theirs.  It is not
 * aborted first: ncclCommAbort joins NCCL's threads, which wait for the connections of other ranks, so it
 * hangs exactly when one of those has died or stopped.  Nothing is lost by that: MPI ends every process, and
 * with the process go its kernels.
 */
static _Noreturn void fail(struct dist *d, const char *why, const char *more)
{
	struct nccl *n = d->nccl;
	char host[65] = "";

	gethostname(host, sizeof host - 1);
	at_panic("%s: rank %d of %d (on %s) waited %.1f s: %s%s%s", n->watch.op, d->rank, d->ranks, host,
		 clock_now() - n->watch.start, why, *more ? ": " : "", more);
}

static void check(struct dist *d, ncclResult_t r)
{
	if (r != ncclSuccess && r != ncclInProgress)
		fail(d, ncclGetErrorString(r), ncclGetLastError(NULL));
}

static void check_cuda(struct dist *d, cudaError_t r)
{
	if (r != cudaSuccess)
		fail(d, cudaGetErrorString(r), "");
}

/* Sleeps for a short step: what is waited for takes milliseconds, and the core has rewards to score. */
static void wait_on(struct dist *d)
{
	watch_nap(&((struct nccl *)d->nccl)->watch);
}

/* Whether the communicator itself is through with what it began. */
static bool settled(struct dist *d)
{
	struct nccl *n = d->nccl;
	ncclResult_t state = ncclSuccess;

	check(d, ncclCommGetAsyncError(n->comm, &state));
	check(d, state);
	return state == ncclSuccess;
}

static void settle(struct dist *d)
{
	while (!settled(d))
		wait_on(d);
}

/* Until the stream has run it. */
static void wait_done(struct dist *d, cudaStream_t stream)
{
	struct nccl *n = d->nccl;
	cudaError_t r;

	check_cuda(d, cudaEventRecord(n->done, stream));
	while ((r = cudaEventQuery(n->done)) == cudaErrorNotReady) {
		settled(d); /* for its errors */
		wait_on(d);
	}
	check_cuda(d, r);
}

static void sum_nccl(struct dist *d, at_t x)
{
	struct nccl *n = d->nccl;
	cudaStream_t stream = at_cuda_stream();
	float *p = at_cuda_f32(x);

	begin(d, "all-reduce over NCCL");
	check(d, ncclAllReduce(p, p, (size_t)at_numel(x), ncclFloat, ncclSum, n->comm, stream));
	settle(d);
	wait_done(d, stream);
	end(d);
}

static const struct dist_reducer reduce_nccl = { .name = "nccl", .sum = sum_nccl };

int dist_use_nccl(struct dist *d, struct err *e)
{
	struct nccl *n = mem_zero(1, sizeof *n);
	ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
	ncclUniqueId id;
	int ret = 0;

	if (d->nccl) { /* of a run before, in the same job */
		d->reducer = &reduce_nccl;
		free(n);
		return 0;
	}
	d->nccl = n;
	config.blocking = 0; /* so that a missing rank is an error and not a hang */
	if (d->rank == 0 && ncclGetUniqueId(&id) != ncclSuccess)
		ret = err_set(e, "NCCL cannot make an id: %s", ncclGetLastError(NULL));
	if (dist_agree(d, ret, e)) {
		dist_close_nccl(d);
		return -1;
	}
	dist_broadcast(d, &id, sizeof id, 0);
	begin(d, "init over NCCL");
	check(d, ncclCommInitRankConfig(&n->comm, d->ranks, id, d->rank, &config));
	settle(d);
	end(d);
	check_cuda(d, cudaEventCreateWithFlags(&n->done, cudaEventDisableTiming));
	d->reducer = &reduce_nccl;
	return 0;
}

static void *destroy(void *arg)
{
	struct nccl *n = arg;

	n->destroy = ncclCommDestroy(n->comm);
	atomic_store(&n->destroyed, true);
	return NULL;
}

/* ncclCommDestroy blocks whatever the communicator was asked to: it joins the thread that serves the other
 * ranks of the machine until they have hung up. */
static void destroy_in_time(struct dist *d)
{
	struct nccl *n = d->nccl;
	pthread_t thread;
	int r;

	begin(d, "destroy over NCCL");
	if ((r = pthread_create(&thread, NULL, destroy, n)))
		fail(d, "no thread", strerror(r));
	while (!atomic_load(&n->destroyed))
		wait_on(d);
	pthread_join(thread, NULL);
	check(d, n->destroy);
	end(d);
}

void dist_close_nccl(struct dist *d)
{
	struct nccl *n = d->nccl;

	if (!n)
		return;
	if (n->done)
		cudaEventDestroy(n->done);
	if (n->comm) {
		begin(d, "finalize over NCCL");
		check(d, ncclCommFinalize(n->comm));
		settle(d);
		end(d);
		destroy_in_time(d);
	}
	free(n);
	d->nccl = NULL;
	d->reducer = &dist_reduce_mpi;
}
