#include "tests/fakenccl/fakenccl.h"
#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MOST  64        /* ranks */
#define PIECE (1 << 18) /* elements that a rank shows the others at once */

enum call { NONE, INIT, ALL_REDUCE, FINALIZE, DESTROY };
static const char *const name[] = { "", "init", "all-reduce", "finalize", "destroy" };

/* A file of zeros that all ranks map; behind it a piece of each rank. */
struct shared {
	struct seat {
		_Alignas(64) atomic_int calls; /* the last one it has come to */
		_Atomic int64_t wrote, read;   /* pieces */
		_Atomic int64_t numel;         /* of the sum that the piece is of */
	} seat[MOST];
};

struct ncclComm {
	struct shared *shared;
	float *pieces; /* PIECE a rank */
	size_t size;   /* of the mapping */
	char path[sizeof(ncclUniqueId)];
	int rank, ranks;
	enum call call; /* the last one */
	int polls;      /* since it began */
	bool under_way, never;
	const float *from; /* the sum under way */
	float *to;
	int64_t numel, at, piece; /* pieces are counted from 1 */
	bool written;
};

static bool on_stream;
static int64_t queued, made;
static struct ncclComm *streams; /* whose sum is queued and not made */
static char last_error[256];

#define FATAL(...) (fprintf(stderr, "fakenccl: " __VA_ARGS__), fputc('\n', stderr), fflush(stderr), abort())

/* Whether it befalls this rank's call; *poll: +N, or 0. */
static bool fault(const struct ncclComm *c, const char *which, enum call call, int *poll)
{
	const char *text = getenv(which);
	char at[16] = "all-reduce";
	int rank = -1, n = 0;

	if (!text)
		return false;
	if (sscanf(text, "%d:%15[^+]+%d", &rank, at, &n) < 1)
		FATAL("%s=%s: RANK[:CALL[+N]]", which, text);
	if (poll)
		*poll = n;
	return rank == c->rank && !strcmp(at, name[call]);
}

/* For so many polls nothing is through. */
static int in_progress(void)
{
	const char *n = getenv("FAKENCCL_IN_PROGRESS");

	return n ? atoi(n) : 0;
}

static ncclResult_t failed(const char *what, enum call call)
{
	snprintf(last_error, sizeof last_error, "fakenccl: %s %s", name[call], what);
	return ncclSystemError;
}

static bool all_came_to(const struct ncclComm *c, enum call call)
{
	for (int r = 0; r < c->ranks; r++)
		if (atomic_load(&c->shared->seat[r].calls) < (int)call)
			return false;
	return true;
}

/* ---- The sum: everyone writes a piece, then reads everyone's, in the same order ---------------------- */

static bool write_piece(struct ncclComm *c, int64_t n)
{
	struct seat *mine = &c->shared->seat[c->rank];

	for (int r = 0; r < c->ranks; r++)
		if (atomic_load(&c->shared->seat[r].read) < c->piece - 1)
			return false;
	memcpy(c->pieces + (int64_t)c->rank * PIECE, c->from + c->at, (size_t)n * sizeof(float));
	atomic_store(&mine->numel, c->numel);
	atomic_store(&mine->wrote, c->piece);
	return true;
}

static bool read_pieces(struct ncclComm *c, int64_t n)
{
	for (int r = 0; r < c->ranks; r++) {
		struct seat *seat = &c->shared->seat[r];
		if (atomic_load(&seat->wrote) < c->piece)
			return false;
		if (atomic_load(&seat->numel) != c->numel)
			FATAL("rank %d sums %lld elements, rank %d %lld", c->rank, (long long)c->numel, r,
			      (long long)atomic_load(&seat->numel));
	}
	memcpy(c->to + c->at, c->pieces, (size_t)n * sizeof(float));
	for (int r = 1; r < c->ranks; r++)
		for (int64_t i = 0; i < n; i++)
			c->to[c->at + i] += c->pieces[(int64_t)r * PIECE + i];
	atomic_store(&c->shared->seat[c->rank].read, c->piece);
	return true;
}

/* As far as the others let it: never waits.  Whether nothing is left of the sum. */
static bool add_up(struct ncclComm *c)
{
	while (c->at < c->numel) {
		int64_t n = c->numel - c->at < PIECE ? c->numel - c->at : PIECE;

		if (!c->written && !(c->written = write_piece(c, n)))
			return false;
		if (!read_pieces(c, n))
			return false;
		c->written = false;
		c->at += n;
		c->piece++;
	}
	return !c->never;
}

void fakenccl_stream(void)
{
	on_stream = true;
}

int64_t fakenccl_queued(void)
{
	return queued;
}

int64_t fakenccl_made(void)
{
	if (streams && add_up(streams)) {
		streams = NULL;
		made++;
	}
	return made;
}

/* ---- Calls: each begins, and is under way until it, or a poll, finds it through ----------------------- */

static ncclResult_t begin(struct ncclComm *c, enum call call)
{
	int poll;

	if (c->under_way) {
		snprintf(last_error, sizeof last_error, "fakenccl: %s while %s is in progress", name[call],
			 name[c->call]);
		return ncclInvalidArgument;
	}
	if (fault(c, "FAKENCCL_STOP", call, NULL))
		raise(SIGSTOP);
	if (fault(c, "FAKENCCL_KILL", call, NULL))
		raise(SIGKILL);
	while (fault(c, "FAKENCCL_HANGS", call, NULL))
		pause();
	if (fault(c, "FAKENCCL_ERROR", call, &poll) && !poll)
		return failed("fails", call);
	c->never = fault(c, "FAKENCCL_NEVER", call, NULL);
	c->call = call;
	c->polls = 0;
	c->under_way = true;
	atomic_store(&c->shared->seat[c->rank].calls, (int)call);
	return ncclSuccess;
}

static bool ready(struct ncclComm *c)
{
	if (c->call == ALL_REDUCE)
		return on_stream || add_up(c);
	return !c->never && !streams && all_came_to(c, c->call);
}

static ncclResult_t look(struct ncclComm *c)
{
	if (c->under_way && ready(c) && c->polls >= in_progress()) {
		c->under_way = false;
		if (c->call == INIT)
			unlink(c->path); /* all have it; the first to do so removes it */
		if (c->call == ALL_REDUCE && on_stream) {
			streams = c;
			queued++;
		}
	}
	return c->under_way ? ncclInProgress : ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state)
{
	int poll;

	c->polls++;
	if (fault(c, "FAKENCCL_ERROR", c->call, &poll) && poll && c->polls >= poll)
		*state = failed("has failed", c->call);
	else
		*state = look(c);
	return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
	const char *folder = getenv("FAKENCCL_DIR");
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	memset(id, 0, sizeof *id);
	if (snprintf(id->internal, sizeof id->internal, "%s/fakenccl-%d-%lld-%ld",
		     folder ? folder : "/dev/shm", (int)getpid(), (long long)now.tv_sec,
		     now.tv_nsec) >= (int)sizeof id->internal)
		FATAL("FAKENCCL_DIR is too long a path");
	return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
				    ncclConfig_t *config)
{
	struct ncclComm *c;
	ncclResult_t r;
	int fd;

	if (!config || config->blocking)
		FATAL("communicators that block are not in it");
	if (ranks > MOST || rank < 0 || rank >= ranks)
		FATAL("rank %d of %d: at most %d", rank, ranks, MOST);
	if (!(*comm = c = calloc(1, sizeof *c)))
		FATAL("no memory");
	c->rank = rank;
	c->ranks = ranks;
	c->piece = 1;
	memcpy(c->path, id.internal, sizeof c->path);
	c->size = sizeof *c->shared + (size_t)ranks * PIECE * sizeof(float);
	if ((fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0 || ftruncate(fd, (off_t)c->size))
		FATAL("%s: %s", c->path, strerror(errno));
	c->shared = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (c->shared == MAP_FAILED)
		FATAL("%s: %s", c->path, strerror(errno));
	close(fd);
	c->pieces = (float *)(c->shared + 1);
	if ((r = begin(c, INIT)))
		return r;
	return look(c);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
			   ncclComm_t c, cudaStream_t stream)
{
	ncclResult_t r;

	(void)stream;
	if (type != ncclFloat32 || op != ncclSum)
		FATAL("all-reduce of type %d with operation %d: it sums float32", type, op);
	if ((r = begin(c, ALL_REDUCE)))
		return r;
	if (streams)
		FATAL("all-reduce while another is on the stream: one at a time");
	c->from = from;
	c->to = to;
	c->numel = (int64_t)count;
	c->at = 0;
	c->written = false;
	return look(c);
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
	ncclResult_t r = begin(c, FINALIZE);

	return r ? r : look(c);
}

/* Blocks, whatever the communicator was asked to, as NCCL's does. */
ncclResult_t ncclCommDestroy(ncclComm_t c)
{
	ncclResult_t r = begin(c, DESTROY);

	if (r)
		return r;
	while (c->never)
		pause();
	munmap(c->shared, c->size);
	free(c);
	return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
	(void)c; /* others may still read what it shares */
	while (getenv("FAKENCCL_ABORT_HANGS"))
		pause();
	return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r)
{
	static const char *const text[] = {
		[ncclSuccess] = "no error",
		[ncclSystemError] = "unhandled system error",
		[ncclInvalidArgument] = "invalid argument",
		[ncclInProgress] = "NCCL operation in progress",
	};

	return (size_t)r < sizeof text / sizeof *text && text[r] ? text[r] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t c)
{
	(void)c;
	return last_error;
}

ncclResult_t ncclGetVersion(int *version)
{
	*version = NCCL_VERSION_CODE;
	return ncclSuccess;
}

/* ---- What libtorch imports besides: it must be there, and is not called ------------------------------- */

#define ABSENT(function)                                                                                     \
	_Noreturn void fakenccl_##function(void) __asm__(#function);                                         \
	_Noreturn void fakenccl_##function(void)                                                             \
	{                                                                                                    \
		FATAL(#function " is not in it");                                                            \
	}
ABSENT(ncclAllGather)
ABSENT(ncclAlltoAll)
ABSENT(ncclBcast)
ABSENT(ncclBroadcast)
ABSENT(ncclCommCount)
ABSENT(ncclCommDeregister)
ABSENT(ncclCommInitAll)
ABSENT(ncclCommInitRank)
ABSENT(ncclCommInitRankScalable)
ABSENT(ncclCommRegister)
ABSENT(ncclCommShrink)
ABSENT(ncclCommSplit)
ABSENT(ncclCommUserRank)
ABSENT(ncclCommWindowDeregister)
ABSENT(ncclCommWindowRegister)
ABSENT(ncclDevCommCreate)
ABSENT(ncclDevCommDestroy)
ABSENT(ncclGroupEnd)
ABSENT(ncclGroupSimulateEnd)
ABSENT(ncclGroupStart)
ABSENT(ncclMemAlloc)
ABSENT(ncclMemFree)
ABSENT(ncclRecv)
ABSENT(ncclRedOpCreatePreMulSum)
ABSENT(ncclRedOpDestroy)
ABSENT(ncclReduce)
ABSENT(ncclReduceScatter)
ABSENT(ncclSend)
