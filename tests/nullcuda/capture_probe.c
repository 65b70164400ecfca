/*
 * capture_probe.c -- what CUDA answers to calls made during a capture: one line a call.
 *
 * Linked with the real runtime, on a GPU, it wrote capture_h100.txt; linked with the stand-in it must say the
 * same.  A line: the mode, who calls (the capturing thread or another), the call, its result, the capture's
 * state after it, what cudaStreamEndCapture says and how many nodes the graph has.
 */
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIZE = 4096 };

struct world {
	cudaStream_t s, t, blocking; /* s is captured; the first two do not wait for the legacy stream */
	cudaEvent_t before, inside,
	    timed; /* before was recorded on t ahead of the capture, inside on s in it */
	cudaGraphExec_t exec;
	char *device, *spare, *host, *pinned;
};

#define OP(name, expression)                                                                                 \
	static cudaError_t op_##name(struct world *w)                                                        \
	{                                                                                                    \
		(void)w;                                                                                     \
		return expression;                                                                           \
	}

static cudaError_t op_malloc(struct world *w)
{
	void *p = NULL;
	cudaError_t r = cudaMalloc(&p, SIZE);

	(void)w;
	return r;
}
static cudaError_t op_host_alloc(struct world *w)
{
	void *p = NULL;
	cudaError_t r = cudaHostAlloc(&p, SIZE, cudaHostAllocDefault);

	(void)w;
	return r;
}
static cudaError_t op_stream_create(struct world *w)
{
	cudaStream_t x;

	(void)w;
	return cudaStreamCreateWithFlags(&x, cudaStreamNonBlocking);
}
static cudaError_t op_event_create(struct world *w)
{
	cudaEvent_t x;

	(void)w;
	return cudaEventCreateWithFlags(&x, cudaEventDisableTiming);
}
static cudaError_t op_mem_info(struct world *w)
{
	size_t a, b;

	(void)w;
	return cudaMemGetInfo(&a, &b);
}
static cudaError_t op_attributes(struct world *w)
{
	struct cudaPointerAttributes a;

	return cudaPointerGetAttributes(&a, w->device);
}
static cudaError_t op_relaxed_malloc(struct world *w)
{
	enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
	cudaThreadExchangeStreamCaptureMode(&mode);
	cudaError_t r = op_malloc(w);
	cudaThreadExchangeStreamCaptureMode(&mode);
	return r;
}
static cudaError_t op_fork(struct world *w) /* and no way back */
{
	cudaError_t r = cudaStreamWaitEvent(w->t, w->inside, 0);
	return r ? r : cudaMemsetAsync(w->device, 0, SIZE, w->t);
}
static cudaError_t op_fork_and_join(struct world *w)
{
	cudaError_t r = op_fork(w);
	if (!r)
		r = cudaEventRecord(w->timed, w->t);
	return r ? r : cudaStreamWaitEvent(w->s, w->timed, 0);
}
static cudaError_t op_begin_again(struct world *w)
{
	return cudaStreamBeginCapture(w->s, cudaStreamCaptureModeThreadLocal);
}
static cudaError_t op_end(struct world *w)
{
	cudaGraph_t g;

	return cudaStreamEndCapture(w->s, &g);
}
static cudaError_t op_elapsed(struct world *w)
{
	float ms;

	return cudaEventElapsedTime(&ms, w->before, w->before);
}
static cudaError_t op_after_invalid(struct world *w)
{
	cudaStreamSynchronize(w->s);
	return cudaMemsetAsync(w->device, 0, SIZE, w->s);
}
static cudaError_t op_fork_invalid(struct world *w)
{
	cudaStreamSynchronize(w->s);
	return cudaStreamWaitEvent(w->t, w->inside, 0);
}
OP(nothing, cudaSuccess)
OP(free, cudaFree(w->spare))
OP(free_host, cudaFreeHost(w->pinned))
OP(sync_captured, cudaStreamSynchronize(w->s))
OP(sync_other, cudaStreamSynchronize(w->t))
OP(sync_legacy, cudaStreamSynchronize(NULL))
OP(sync_device, cudaDeviceSynchronize())
OP(query_captured, cudaStreamQuery(w->s))
OP(query_other, cudaStreamQuery(w->t))
OP(event_query_before, cudaEventQuery(w->before))
OP(event_query_inside, cudaEventQuery(w->inside))
OP(event_sync_before, cudaEventSynchronize(w->before))
OP(event_sync_inside, cudaEventSynchronize(w->inside))
OP(event_destroy, cudaEventDestroy(w->before))
OP(event_record_other, cudaEventRecord(w->before, w->t))
OP(event_record_legacy, cudaEventRecord(w->before, NULL))
OP(wait_before, cudaStreamWaitEvent(w->s, w->before, 0))
OP(memcpy, cudaMemcpy(w->device, w->host, SIZE, cudaMemcpyHostToDevice))
OP(memset, cudaMemset(w->device, 0, SIZE))
OP(memset_legacy, cudaMemsetAsync(w->device, 0, SIZE, NULL))
OP(memset_blocking, cudaMemsetAsync(w->device, 0, SIZE, w->blocking))
OP(memset_other, cudaMemsetAsync(w->device, 0, SIZE, w->t))
OP(to_device_pageable, cudaMemcpyAsync(w->device, w->host, SIZE, cudaMemcpyHostToDevice, w->s))
OP(to_host_pageable, cudaMemcpyAsync(w->host, w->device, SIZE, cudaMemcpyDeviceToHost, w->s))
OP(to_device_pinned, cudaMemcpyAsync(w->device, w->pinned, SIZE, cudaMemcpyHostToDevice, w->s))
OP(to_host_pinned, cudaMemcpyAsync(w->pinned, w->device, SIZE, cudaMemcpyDeviceToHost, w->s))
OP(to_host_other, cudaMemcpyAsync(w->pinned, w->device, SIZE, cudaMemcpyDeviceToHost, w->t))
OP(graph_launch_other, cudaGraphLaunch(w->exec, w->t))
OP(graph_launch_captured, cudaGraphLaunch(w->exec, w->s))
OP(stream_destroy_other, cudaStreamDestroy(w->t))
OP(set_device, cudaSetDevice(0))

#define ROW(name)                                                                                            \
	{                                                                                                    \
#name, op_##name                                                                             \
	}
static const struct {
	const char *name;
	cudaError_t (*call)(struct world *);
} ops[] = {
	ROW(nothing),
	ROW(malloc),
	ROW(relaxed_malloc),
	ROW(free),
	ROW(host_alloc),
	ROW(free_host),
	ROW(sync_captured),
	ROW(sync_other),
	ROW(sync_legacy),
	ROW(sync_device),
	ROW(query_captured),
	ROW(query_other),
	ROW(event_query_before),
	ROW(event_query_inside),
	ROW(event_sync_before),
	ROW(event_sync_inside),
	ROW(event_create),
	ROW(event_destroy),
	ROW(event_record_other),
	ROW(event_record_legacy),
	ROW(wait_before),
	ROW(elapsed),
	ROW(memcpy),
	ROW(memset),
	ROW(memset_legacy),
	ROW(memset_blocking),
	ROW(memset_other),
	ROW(to_device_pageable),
	ROW(to_host_pageable),
	ROW(to_device_pinned),
	ROW(to_host_pinned),
	ROW(to_host_other),
	ROW(graph_launch_other),
	ROW(graph_launch_captured),
	ROW(stream_create),
	ROW(stream_destroy_other),
	ROW(set_device),
	ROW(mem_info),
	ROW(attributes),
	ROW(fork),
	ROW(fork_and_join),
	ROW(begin_again),
	ROW(end),
	ROW(after_invalid),
	ROW(fork_invalid),
};

/* Before a capture nothing may fail: a world that could not be made proves nothing. */
static void need(cudaError_t r, const char *what)
{
	if (r == cudaSuccess)
		return;
	fprintf(stderr, "capture_probe: %s: %s\n", what, cudaGetErrorName(r));
	exit(2);
}
#define NEED(call) need(call, #call)

static void world_init(struct world *w)
{
	cudaGraph_t g;

	NEED(cudaStreamCreateWithFlags(&w->s, cudaStreamNonBlocking));
	NEED(cudaStreamCreateWithFlags(&w->t, cudaStreamNonBlocking));
	NEED(cudaStreamCreateWithFlags(&w->blocking, cudaStreamDefault));
	NEED(cudaEventCreate(&w->before));
	NEED(cudaEventCreateWithFlags(&w->inside, cudaEventDisableTiming));
	NEED(cudaEventCreateWithFlags(&w->timed, cudaEventDisableTiming));
	NEED(cudaMalloc((void **)&w->device, SIZE));
	NEED(cudaMalloc((void **)&w->spare, SIZE));
	NEED(cudaHostAlloc((void **)&w->pinned, SIZE, cudaHostAllocDefault));
	w->host = calloc(1, SIZE);
	NEED(cudaStreamBeginCapture(w->s, cudaStreamCaptureModeThreadLocal));
	NEED(cudaMemsetAsync(w->device, 0, SIZE, w->s));
	NEED(cudaStreamEndCapture(w->s, &g));
	NEED(cudaGraphInstantiateWithFlags(&w->exec, g, 0));
	NEED(cudaGraphDestroy(g));
	NEED(cudaEventRecord(w->before, w->t));
	NEED(cudaDeviceSynchronize());
}

struct order {
	struct world *w;
	cudaError_t (*call)(struct world *);
	cudaError_t result;
};

static void *carry_out(void *arg)
{
	struct order *o = arg;

	o->result = o->call(o->w);
	cudaGetLastError();
	return NULL;
}

static const char *state(cudaStream_t s)
{
	static const char *const name[] = { "none", "active", "invalidated" };
	enum cudaStreamCaptureStatus now;
	cudaError_t r = cudaStreamIsCapturing(s, &now);

	return r ? cudaGetErrorName(r) : name[now];
}

static void probe(const char *mode, enum cudaStreamCaptureMode m, bool other_thread, const char *name,
		  cudaError_t (*call)(struct world *))
{
	struct world w;
	world_init(&w);
	struct order o = { .w = &w, .call = call };
	cudaGraph_t g = NULL;
	size_t nodes = 0;
	pthread_t thread;

	NEED(cudaStreamBeginCapture(w.s, m));
	NEED(cudaMemsetAsync(w.device, 0, SIZE, w.s));
	NEED(cudaEventRecord(w.inside, w.s));
	if (other_thread) {
		pthread_create(&thread, NULL, carry_out, &o);
		pthread_join(thread, NULL);
	} else
		carry_out(&o);
	const char *then = state(w.s);
	cudaError_t end = cudaStreamEndCapture(w.s, &g);
	if (g)
		cudaGraphGetNodes(g, NULL, &nodes);
	printf("%s %s %s: %s, %s, %s, %zu nodes\n", mode, other_thread ? "other" : "own", name,
	       cudaGetErrorName(o.result), then, cudaGetErrorName(end), nodes);
	fflush(stdout);
	cudaGetLastError();
	/* Nothing is freed: what a call broke stays as it is, and the next one has a world of its own. */
}

int main(void)
{
	static const struct {
		const char *name;
		enum cudaStreamCaptureMode mode;
	} modes[] = { { "thread", cudaStreamCaptureModeThreadLocal },
		      { "global", cudaStreamCaptureModeGlobal },
		      { "relaxed", cudaStreamCaptureModeRelaxed } };

	for (int other = 0; other < 2; other++)
		for (size_t m = 0; m < sizeof modes / sizeof *modes; m++)
			for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
				probe(modes[m].name, modes[m].mode, other, ops[i].name, ops[i].call);
	return 0;
}
