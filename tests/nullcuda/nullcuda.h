/*
 * nullcuda.h -- what the parts of the stand-in for CUDA share.  README.md says what it is for.
 *
 * A device has two numbers: the one the program uses (its place in CUDA_VISIBLE_DEVICES) and the one of the
 * machine, which is also its place in memory: device p's memory lies in [NC_BASE + p * NC_SPAN, + NC_SPAN),
 * so that a pointer tells its device.  All functions are safe from any thread.
 */
#pragma once
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define NC_API __attribute__((visibility("default")))

enum { NC_DEVICES = 16, NC_THREADS = 256 };
#define NC_BASE ((uintptr_t)0x213740000000) /* two sizes side by side hardly look like it */
#define NC_SPAN ((uintptr_t)1 << 41)

/* Counted for each device and thread; nc_device_counters has their names in the log. */
enum nc_device_counter {
	NC_LAUNCHES,
	NC_ALLOCATIONS,
	NC_COPIES,
	NC_SETS,
	NC_BLAS,
	NC_DNN,
	NC_DEVICE_COUNTERS
};

/* Counted for the process. */
enum nc_counter {
	NC_HOST_SYNCS,
	NC_CAPTURES_BEGUN,
	NC_CAPTURES_ENDED,
	NC_CAPTURES_INVALIDATED,
	NC_CAPTURED_LAUNCHES,
	NC_ESCAPES, /* launches of a capturing thread that went to another stream */
	NC_GRAPH_LAUNCHES,
	NC_ALLOCATIONS_FAILED,
	NC_CHECKED, /* launches whose pointers were looked at */
	NC_UNCHECKED,
	NC_COUNTERS
};

/* A distinct pair of handle and stream that cuBLAS makes a workspace for, and the streams of captures. */
enum nc_set { NC_SET_WORKSPACES, NC_SET_CAPTURE_STREAMS, NC_SET_LAUNCH_STREAMS, NC_SETS_OF_PAIRS };

struct nc_graph;
struct nc_stream;

struct nc_capture {
	unsigned long long id;
	enum cudaStreamCaptureMode mode;
	struct nc_stream *origin;
	int thread; /* that began it */
	bool invalid;
	struct nc_graph *graph;
	struct nc_capture *next;
};

struct nc_stream {
	int device; /* of the machine */
	unsigned flags;
	int priority;
	bool destroyed;
	struct nc_capture *capture; /* it takes part in, or NULL */
	unsigned long work, joined; /* what was captured here, and how much of it another stream waited for */
	struct nc_stream *next;
};

/* What a graph does again: kernels are empty, copies and fills are not. */
struct nc_node {
	enum { NC_NODE_KERNEL, NC_NODE_COPY, NC_NODE_SET } kind;
	const char *kernel;
	void *to;
	const void *from;
	size_t n;
	int value;
};

/* state.c */
void nc_lock(void);
void nc_unlock(void);
NC_API void nc_init(void);           /* reads the environment, at the first call of CUDA */
NC_API int nc_machine_devices(void); /* NULLCUDA_DEVICES; asks for nothing else */
NC_API int nc_visible(void);         /* how many the program may use */
NC_API int nc_physical(int device);  /* the machine's number of a visible device */
int nc_logical(int physical);        /* the other way round, or -1 */
int nc_device(void);                 /* the calling thread's current one, by the program's number */
void nc_set_device(int device);
NC_API int nc_here(void); /* the same, by the machine's number; from then on it has a context */
NC_API bool nc_has_context(int physical);
int nc_thread(void);
NC_API _Noreturn void nc_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
NC_API _Noreturn void nc_missing(const char *function);
NC_API void nc_count_device(int physical, enum nc_device_counter c);
NC_API void nc_count(enum nc_counter c);
void nc_count_illegal(const char *call);
NC_API void nc_note_pair(enum nc_set set, const void *a, const void *b);
void nc_note_bytes(int physical, int64_t bytes, int64_t peak);
cudaError_t nc_return(cudaError_t r); /* remembers an error for cudaGetLastError */
size_t nc_memory_limit(void);
bool nc_breaks(unsigned long long capture, size_t operation); /* by order of NULLCUDA_BREAK_CAPTURE */
bool nc_bytes_are_true(void);

/* device.c */
void nc_uuid(int physical, unsigned char uuid[16]);
NC_API void nc_uuid_text(int physical, char text[48]);
NC_API void nc_pci_text(int physical, char *text, size_t size);
NC_API cudaError_t nc_attribute(int *value, int attribute, int device);

/* memory.c */
NC_API int nc_device_of(const void *p); /* the machine's number, or -1 for memory of the host */
bool nc_allocated(const void *p);       /* on a device, and not freed */
void nc_copy(void *to, const void *from, size_t n);
void nc_fill(void *to, int value, size_t n);

/* stream.c */
NC_API struct nc_stream *nc_stream_of(cudaStream_t s);
bool nc_forbidden(const char *call); /* during a capture; what is, makes it invalid */
bool nc_refuse_capture(struct nc_stream *s, const char *call); /* s is captured: that is over */
bool nc_capturing_here(const char *call); /* any stream of the thread's device; likewise */
cudaError_t nc_captured(struct nc_stream *s, const struct nc_node *n, bool *captured);
NC_API cudaError_t nc_work(const char *what, cudaStream_t stream); /* a kernel of a library */
/* The same for a library: its handle's device and what it reads and writes must be of the current device. */
NC_API cudaError_t nc_library_work(const char *what, int handle_device, cudaStream_t stream,
				   enum nc_device_counter c, const void *const *operand, int operands);

/* graphs.c */
struct nc_graph *nc_graph_new(void);
void nc_graph_free(struct nc_graph *g);
size_t nc_graph_size(const struct nc_graph *g);
void nc_graph_add(struct nc_graph *g, const struct nc_node *n);

/* kernel.c */
void nc_log_kernels(FILE *f);
