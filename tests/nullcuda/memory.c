/* memory.c -- memory of devices, which is the host's, and copies, which are real. */
#include "tests/nullcuda/nullcuda.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	ROOM = 2 << 20
}; /* allocations begin at multiples of it, with at least as much unmapped between them */

struct block {
	uintptr_t at;
	size_t size, mapped;
};

/* One list a device and one of pinned memory: libtorch keeps few and large blocks. */
struct blocks {
	struct block *list;
	size_t n, room;
	uintptr_t next; /* address of a device's next allocation */
	size_t bytes, peak;
};

static struct blocks device_blocks[NC_DEVICES], pinned;

static void blocks_add(struct blocks *b, struct block x)
{
	if (b->n == b->room) {
		b->room = b->room ? 2 * b->room : 64;
		if (!(b->list = realloc(b->list, b->room * sizeof *b->list)))
			nc_fail("out of the host's memory");
	}
	b->list[b->n++] = x;
}

static struct block *blocks_find(struct blocks *b, const void *p)
{
	for (size_t i = b->n; i-- > 0;)
		if ((uintptr_t)p - b->list[i].at < b->list[i].size)
			return &b->list[i];
	return NULL;
}

int nc_device_of(const void *p)
{
	uintptr_t a = (uintptr_t)p;

	return a >= NC_BASE && a < NC_BASE + NC_DEVICES * NC_SPAN ? (int)((a - NC_BASE) / NC_SPAN) : -1;
}

bool nc_allocated(const void *p)
{
	int device = nc_device_of(p);

	nc_lock();
	bool found = device >= 0 && blocks_find(&device_blocks[device], p);
	nc_unlock();
	return found;
}

/* ---- Allocation ---- */
static void *map_at(struct blocks *b, int device, size_t size, size_t *mapped)
{
	*mapped = (size + 4095) / 4096 * 4096;
	if (!b->next)
		b->next = NC_BASE + (uintptr_t)device * NC_SPAN;
	if (b->next + *mapped + ROOM > NC_BASE + ((uintptr_t)device + 1) * NC_SPAN)
		nc_fail("device %d is out of addresses", device);
	void *p = mmap((void *)b->next, *mapped, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != (void *)b->next)
		nc_fail("the host has no memory at %#lx", (unsigned long)b->next);
	b->next += (*mapped + 2 * (size_t)ROOM - 1) / ROOM * ROOM;
	return p;
}

NC_API cudaError_t cudaMalloc(void **p, size_t size)
{
	if (!nc_visible())
		return nc_return(cudaErrorNoDevice);
	if (nc_forbidden("cudaMalloc"))
		return nc_return(cudaErrorStreamCaptureUnsupported);
	int device = nc_here();
	struct blocks *b = &device_blocks[device];
	cudaError_t r = cudaSuccess;

	*p = NULL;
	if (!size)
		return cudaSuccess;
	nc_count_device(device, NC_ALLOCATIONS);
	nc_lock();
	if (size > nc_memory_limit() - b->bytes)
		r = cudaErrorMemoryAllocation;
	else {
		struct block x = { .size = size };
		*p = map_at(b, device, size, &x.mapped);
		x.at = (uintptr_t)*p;
		blocks_add(b, x);
		b->bytes += size;
		b->peak = b->bytes > b->peak ? b->bytes : b->peak;
		nc_note_bytes(device, (int64_t)b->bytes, (int64_t)b->peak);
	}
	nc_unlock();
	if (r)
		nc_count(NC_ALLOCATIONS_FAILED);
	return nc_return(r);
}

NC_API cudaError_t cudaFree(void *p)
{
	int device = nc_device_of(p);
	struct block *x = NULL;

	nc_init();
	if (nc_forbidden("cudaFree"))
		return nc_return(cudaErrorStreamCaptureUnsupported);
	if (!p)
		return cudaSuccess;
	if (device >= 0) {
		struct blocks *b = &device_blocks[device];
		nc_lock();
		x = blocks_find(b, p);
		if (x && x->at == (uintptr_t)p) {
			munmap(p, x->mapped);
			b->bytes -= x->size;
			*x = b->list[--b->n];
			nc_note_bytes(device, (int64_t)b->bytes, (int64_t)b->peak);
		} else
			x = NULL;
		nc_unlock();
	}
	return nc_return(x ? cudaSuccess : cudaErrorInvalidValue);
}

NC_API cudaError_t cudaMemGetInfo(size_t *left, size_t *total)
{
	if (!nc_visible())
		return nc_return(cudaErrorNoDevice);
	nc_lock();
	*total = nc_memory_limit();
	*left = *total - device_blocks[nc_here()].bytes;
	nc_unlock();
	return cudaSuccess;
}

NC_API cudaError_t cudaHostAlloc(void **p, size_t size, unsigned flags)
{
	struct block x = { .size = size };

	(void)flags;
	nc_init();
	if (nc_forbidden("cudaHostAlloc"))
		return nc_return(cudaErrorStreamCaptureUnsupported);
	*p = NULL;
	if (size && posix_memalign(p, 4096, size))
		return nc_return(cudaErrorMemoryAllocation);
	x.at = (uintptr_t)*p;
	nc_lock();
	blocks_add(&pinned, x);
	nc_unlock();
	return cudaSuccess;
}

NC_API cudaError_t cudaHostRegister(void *p, size_t size, unsigned flags)
{
	(void)flags;
	nc_init();
	nc_lock();
	blocks_add(&pinned, (struct block) { .at = (uintptr_t)p, .size = size });
	nc_unlock();
	return cudaSuccess;
}

static bool unpin(const void *p)
{
	nc_lock();
	struct block *x = blocks_find(&pinned, p);
	bool found = x && x->at == (uintptr_t)p;
	if (found)
		*x = pinned.list[--pinned.n];
	nc_unlock();
	return found;
}

NC_API cudaError_t cudaHostUnregister(void *p)
{
	return nc_return(unpin(p) ? cudaSuccess : cudaErrorHostMemoryNotRegistered);
}

NC_API cudaError_t cudaFreeHost(void *p)
{
	if (nc_forbidden("cudaFreeHost"))
		return nc_return(cudaErrorStreamCaptureUnsupported);
	if (p && !unpin(p))
		return nc_return(cudaErrorInvalidValue);
	free(p);
	return cudaSuccess;
}

static bool is_pinned(const void *p)
{
	nc_lock();
	bool found = blocks_find(&pinned, p);
	nc_unlock();
	return found;
}

NC_API cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p)
{
	int device = nc_device_of(p);

	memset(a, 0, sizeof *a);
	a->device = -2;
	if (device >= 0) {
		a->type = cudaMemoryTypeDevice;
		a->device = nc_logical(device);
		a->devicePointer = (void *)(uintptr_t)p;
	} else if (is_pinned(p)) {
		a->type = cudaMemoryTypeHost;
		a->device = nc_device();
		a->devicePointer = a->hostPointer = (void *)(uintptr_t)p;
	} else {
		a->type = cudaMemoryTypeUnregistered;
		a->hostPointer = (void *)(uintptr_t)p;
	}
	return cudaSuccess;
}

/* ---- Copies and fills ---- */
static void check_range(const char *what, const void *p, size_t n)
{
	int device = nc_device_of(p);

	if (device < 0 || !n)
		return;
	nc_lock();
	struct block *x = blocks_find(&device_blocks[device], p);
	bool whole = x && (uintptr_t)p + n <= x->at + x->size;
	nc_unlock();
	if (!whole)
		nc_fail("a %s of %zu bytes at %p of device %d leaves what was allocated", what, n, p, device);
}

/* Kernels compute nothing, so comparisons would all be false: a byte that the host reads alone is such a
 * result. */
void nc_copy(void *to, const void *from, size_t n)
{
	if (n == 1 && nc_device_of(to) < 0 && nc_device_of(from) >= 0 && nc_bytes_are_true())
		*(char *)to = 1;
	else
		memmove(to, from, n);
}

/* Whole pages of zeros are given back instead of written. */
void nc_fill(void *to, int value, size_t n)
{
	uintptr_t first = ((uintptr_t)to + 4095) & ~(uintptr_t)4095,
		  last = ((uintptr_t)to + n) & ~(uintptr_t)4095;

	if (value || last <= first) {
		memset(to, value, n);
		return;
	}
	memset(to, 0, first - (uintptr_t)to);
	madvise((void *)first, last - first, MADV_DONTNEED);
	memset((void *)last, 0, (uintptr_t)to + n - last);
}

static cudaError_t copy(void *to, const void *from, size_t n, cudaStream_t stream, bool waits)
{
	struct nc_stream *s = nc_stream_of(stream);
	struct nc_node node = { .kind = NC_NODE_COPY, .to = to, .from = from, .n = n };
	int a = nc_device_of(to), b = nc_device_of(from);
	bool captured = false;

	check_range("copy", to, n);
	check_range("copy", from, n);
	cudaError_t r = nc_captured(s, &node, &captured);
	if (r)
		return nc_return(r);
	if (a >= 0)
		nc_count_device(a, NC_COPIES);
	if (b >= 0 && b != a)
		nc_count_device(b, NC_COPIES);
	if (captured)
		return cudaSuccess;
	if (n)
		nc_copy(to, from, n);
	if (waits)
		nc_count(NC_HOST_SYNCS);
	return cudaSuccess;
}

NC_API cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind)
{
	(void)kind;
	return copy(to, from, n, NULL, true);
}

NC_API cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
				   cudaStream_t s)
{
	(void)kind;
	return copy(to, from, n, s, false);
}

NC_API cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t n,
				       cudaStream_t s)
{
	if (nc_device_of(to) != nc_physical(to_device) || nc_device_of(from) != nc_physical(from_device))
		nc_fail("cudaMemcpyPeerAsync from device %d to %d: the pointers are of %d and %d",
			nc_physical(from_device), nc_physical(to_device), nc_device_of(from),
			nc_device_of(to));
	return copy(to, from, n, s, false);
}

static cudaError_t fill(void *to, int value, size_t n, cudaStream_t stream)
{
	struct nc_stream *s = nc_stream_of(stream);
	struct nc_node node = { .kind = NC_NODE_SET, .to = to, .n = n, .value = value };
	bool captured = false;

	check_range("fill", to, n);
	cudaError_t r = nc_captured(s, &node, &captured);
	if (r)
		return nc_return(r);
	if (nc_device_of(to) >= 0)
		nc_count_device(nc_device_of(to), NC_SETS);
	if (!captured)
		nc_fill(to, value, n);
	return cudaSuccess;
}

NC_API cudaError_t cudaMemset(void *to, int value, size_t n)
{
	return fill(to, value, n, NULL);
}

NC_API cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t s)
{
	return fill(to, value, n, s);
}
