/*
 * fakenccl.h -- a libnccl.so.2 for machines without a GPU: the ranks, all on one machine, sum float32 in
 * memory that they share.  Device memory must be memory of the host, as under a null CUDA.
 *
 * What it is strict about: a call before the last one is through is an error, as in NCCL; sums of different
 * sizes, other types and functions that contraflow does not use end the process with a line that says so.
 *
 * Faults, from the environment.  CALL is init, all-reduce (the one meant without CALL), finalize or destroy;
 * a fault befalls one rank, at every such call:
 *   FAKENCCL_IN_PROGRESS=N          every rank: each result is in progress for N polls
 *   FAKENCCL_ERROR=RANK[:CALL[+N]]  the call fails; with N: it is fine, and the Nth poll behind it fails
 *   FAKENCCL_NEVER=RANK[:CALL]      the call returns, and is never through
 *   FAKENCCL_HANGS=RANK[:CALL]      the call does not return
 *   FAKENCCL_STOP, FAKENCCL_KILL=RANK[:CALL]  the process stops, or dies, in the call
 *   FAKENCCL_ABORT_HANGS=1          every rank: ncclCommAbort does not return
 * FAKENCCL_DIR (/dev/shm) is where the shared files lie until all ranks have them.
 */
#ifndef FAKENCCL_H
#define FAKENCCL_H
#include <stdint.h>

/*
 * Where events cannot wait for a sum (a null CUDA), it is under way until it is made.  After
 * fakenccl_stream() it is as on a GPU: once it is queued the communicator is through with it, and the sums
 * that were queued are made, in order, while somebody asks how many there are.
 */
void fakenccl_stream(void);
int64_t fakenccl_queued(void);
int64_t fakenccl_made(void);

#endif
