/* stream.c -- streams, events and captures.  Work is done at once, so every event is complete; what
 * is real are the rules of captures, which capture_probe.c compares with a GPU's. */
#include "tests/nullcuda/nullcuda.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct nc_event {
	int device;
	unsigned flags;
	bool recorded;
	double time;
	unsigned long long capture; /* the id of the one it was recorded in, or 0 */
	struct nc_stream *stream;
	unsigned long work;
};

static struct nc_stream legacy[NC_DEVICES], *streams;
static struct nc_capture *captures; /* under way */
static unsigned long long last_capture;
static __thread enum cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static struct nc_event *event_of(cudaEvent_t e)
{
	return (struct nc_event *)e;
}

struct nc_stream *nc_stream_of(cudaStream_t s)
{
	if (s && s != cudaStreamLegacy && s != cudaStreamPerThread) {
		struct nc_stream *x = (struct nc_stream *)s;
		if (x->destroyed)
			nc_fail("a stream is used after cudaStreamDestroy");
		return x;
	}
	struct nc_stream *x = &legacy[nc_here()];
	x->device = nc_here();
	return x;
}

/* ---- The rules of captures ---- */
static void invalidate(struct nc_capture *c, const char *call)
{
	nc_count_illegal(call);
	if (!c->invalid)
		nc_count(NC_CAPTURES_INVALIDATED);
	c->invalid = true;
}

bool nc_forbidden(const char *call)
{
	int me = nc_thread();
	bool hit = false;

	nc_lock();
	for (struct nc_capture *c = captures; c; c = c->next) {
		bool global =
		    c->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal;
		if (c->mode == cudaStreamCaptureModeRelaxed || thread_mode == cudaStreamCaptureModeRelaxed ||
		    (c->thread != me && !global))
			continue;
		invalidate(c, call);
		hit = true;
	}
	nc_unlock();
	return hit;
}

bool nc_capturing_here(const char *call)
{
	bool hit = false;

	nc_lock();
	for (struct nc_capture *c = captures; c; c = c->next)
		if (c->origin->device == nc_here()) {
			invalidate(c, call);
			hit = true;
		}
	nc_unlock();
	return hit;
}

/* The legacy stream waits for all streams that are not cudaStreamNonBlocking: while such a one is captured,
 * it is out of bounds. Under the lock. */
static bool implicit(const struct nc_stream *s, const char *call)
{
	bool hit = false;

	for (struct nc_stream *x = s == &legacy[s->device] ? streams : NULL; x; x = x->next)
		if (x->capture && x->device == s->device && !(x->flags & cudaStreamNonBlocking)) {
			invalidate(x->capture, call);
			hit = true;
		}
	return hit;
}

/* A launch that a capturing thread sends elsewhere is no part of what is replayed: likely a mistake. */
static void note_escape(const struct nc_node *n)
{
	int me = nc_thread();

	for (struct nc_capture *c = captures; c; c = c->next)
		if (n->kind == NC_NODE_KERNEL && c->thread == me)
			nc_count(NC_ESCAPES);
}

cudaError_t nc_captured(struct nc_stream *s, const struct nc_node *n, bool *captured)
{
	cudaError_t r = cudaSuccess;
	nc_thread();
	nc_lock();
	struct nc_capture *c = s->capture;

	if (implicit(s, "the legacy stream"))
		r = cudaErrorStreamCaptureImplicit;
	else if (!c)
		note_escape(n);
	else if (c->invalid)
		r = cudaErrorStreamCaptureInvalidated;
	else if (nc_breaks(c->id, nc_graph_size(c->graph))) {
		invalidate(c, "NULLCUDA_BREAK_CAPTURE");
		r = cudaErrorStreamCaptureUnsupported;
	} else {
		nc_graph_add(c->graph, n);
		s->work++;
		if (n->kind == NC_NODE_KERNEL)
			nc_count(NC_CAPTURED_LAUNCHES);
		*captured = true;
	}
	nc_unlock();
	return r;
}

NC_API cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode)
{
	enum cudaStreamCaptureMode before = thread_mode;

	thread_mode = *mode;
	*mode = before;
	return cudaSuccess;
}

NC_API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
	struct nc_stream *s = nc_stream_of(stream);

	if (s == &legacy[s->device])
		return nc_return(cudaErrorStreamCaptureUnsupported);
	if (s->capture)
		return nc_return(cudaErrorIllegalState);
	struct nc_capture *c = calloc(1, sizeof *c);
	c->mode = mode;
	c->origin = s;
	c->thread = nc_thread();
	c->graph = nc_graph_new();
	nc_note_pair(NC_SET_CAPTURE_STREAMS, s, NULL);
	nc_count(NC_CAPTURES_BEGUN);
	nc_lock();
	c->id = ++last_capture;
	c->next = captures;
	captures = c;
	s->capture = c;
	nc_unlock();
	return cudaSuccess;
}

/* Takes the capture off its streams; whether all of them came back to the first. */
static bool leave_streams(struct nc_capture *c)
{
	bool joined = true;

	for (struct nc_stream *s = streams; s; s = s->next) {
		if (s->capture != c)
			continue;
		joined = joined && (s == c->origin || s->joined == s->work);
		s->capture = NULL;
	}
	for (struct nc_capture **p = &captures; *p; p = &(*p)->next)
		if (*p == c) {
			*p = c->next;
			break;
		}
	return joined;
}

NC_API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
	struct nc_stream *s = nc_stream_of(stream);
	cudaError_t r = cudaSuccess;
	int me = nc_thread();

	*graph = NULL;
	nc_lock();
	struct nc_capture *c = s->capture;
	if (!c || s != c->origin) {
		if (c)
			invalidate(c, "cudaStreamEndCapture");
		nc_unlock();
		return nc_return(c ? cudaErrorStreamCaptureUnmatched : cudaErrorIllegalState);
	}
	bool joined = leave_streams(c);
	if (c->thread != me && c->mode != cudaStreamCaptureModeRelaxed)
		r = cudaErrorStreamCaptureWrongThread;
	else if (c->invalid)
		r = cudaErrorStreamCaptureInvalidated;
	else if (!joined)
		r = cudaErrorStreamCaptureUnjoined;
	nc_unlock();
	if (r)
		nc_graph_free(c->graph);
	else {
		*graph = (cudaGraph_t)c->graph;
		nc_count(NC_CAPTURES_ENDED);
	}
	free(c);
	return nc_return(r);
}

static enum cudaStreamCaptureStatus status_of(const struct nc_stream *s)
{
	if (!s->capture)
		return cudaStreamCaptureStatusNone;
	return s->capture->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

NC_API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
	struct nc_stream *s = nc_stream_of(stream);

	nc_lock();
	*status = status_of(s);
	nc_unlock();
	return cudaSuccess;
}

NC_API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
					    unsigned long long *id, cudaGraph_t *graph,
					    const cudaGraphNode_t **dependencies,
					    const cudaGraphEdgeData **edges, size_t *n)
{
	struct nc_stream *s = nc_stream_of(stream);

	if (dependencies || edges)
		nc_fail("cudaStreamGetCaptureInfo: dependencies are not kept");
	nc_lock();
	*status = status_of(s);
	if (*status == cudaStreamCaptureStatusActive) {
		if (id)
			*id = s->capture->id;
		if (graph)
			*graph = (cudaGraph_t)s->capture->graph;
		if (n)
			*n = 0;
	}
	nc_unlock();
	return cudaSuccess;
}

/* ---- Streams ---- */
NC_API cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
	if (!nc_visible())
		return nc_return(cudaErrorNoDevice);
	struct nc_stream *s = calloc(1, sizeof *s);

	s->device = nc_here();
	s->flags = flags;
	s->priority = priority;
	nc_lock();
	s->next = streams;
	streams = s;
	nc_unlock();
	*stream = (cudaStream_t)s;
	return cudaSuccess;
}

NC_API cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
	return cudaStreamCreateWithPriority(stream, flags, 0);
}

NC_API cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
	return cudaStreamCreateWithPriority(stream, 0, 0);
}

/* Its struct stays: what uses it later is told so. */
NC_API cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
	nc_stream_of(stream)->destroyed = true;
	return cudaSuccess;
}

NC_API cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority)
{
	*priority = nc_stream_of(stream)->priority;
	return cudaSuccess;
}

static cudaError_t wait_for_stream(cudaStream_t stream, const char *call)
{
	struct nc_stream *s = nc_stream_of(stream);

	bool refused = nc_refuse_capture(s, call) || nc_forbidden(call);
	return nc_return(refused ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}

NC_API cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
	cudaError_t r = wait_for_stream(stream, "cudaStreamSynchronize");

	if (!r)
		nc_count(NC_HOST_SYNCS);
	return r;
}

NC_API cudaError_t cudaStreamQuery(cudaStream_t stream)
{
	return wait_for_stream(stream, "cudaStreamQuery");
}

NC_API cudaError_t cudaDeviceSynchronize(void)
{
	if (!nc_visible())
		return nc_return(cudaErrorNoDevice);
	if (nc_capturing_here("cudaDeviceSynchronize"))
		return nc_return(cudaErrorStreamCaptureUnsupported);
	nc_count(NC_HOST_SYNCS);
	return cudaSuccess;
}

NC_API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t f, void *arg)
{
	if (nc_stream_of(stream)->capture)
		nc_fail("cudaLaunchHostFunc in a capture is not implemented");
	f(arg);
	return cudaSuccess;
}

/* ---- Events ---- */
NC_API cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
	if (!nc_visible())
		return nc_return(cudaErrorNoDevice);
	struct nc_event *e = calloc(1, sizeof *e);

	e->device = nc_here();
	e->flags = flags;
	*event = (cudaEvent_t)e;
	return cudaSuccess;
}

NC_API cudaError_t cudaEventCreate(cudaEvent_t *event)
{
	return cudaEventCreateWithFlags(event, cudaEventDefault);
}

NC_API cudaError_t cudaEventDestroy(cudaEvent_t event)
{
	free(event_of(event));
	return cudaSuccess;
}

/* The capture that the event belongs to, if it is still under way. */
static struct nc_capture *capture_of(const struct nc_event *e)
{
	struct nc_capture *c = captures;

	while (c && c->id != e->capture)
		c = c->next;
	return c;
}

NC_API cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
	struct nc_stream *s = nc_stream_of(stream);
	struct nc_event *e = event_of(event);
	cudaError_t r = cudaSuccess;

	if (flags)
		nc_fail("cudaEventRecordWithFlags: flags are not implemented");
	if (e->device != s->device)
		return nc_return(cudaErrorInvalidResourceHandle);
	nc_lock();
	if (implicit(s, "the legacy stream"))
		r = cudaErrorStreamCaptureImplicit;
	else if (s->capture && s->capture->invalid)
		r = cudaErrorStreamCaptureInvalidated;
	else {
		e->recorded = true;
		e->time = now_ms();
		e->capture = s->capture ? s->capture->id : 0;
		e->stream = s;
		e->work = s->work;
	}
	nc_unlock();
	return nc_return(r);
}

NC_API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

/* Under the lock: stream s of a capture waits for an event of the same, or joins. */
static cudaError_t join(struct nc_stream *s, const struct nc_event *e, struct nc_capture *c)
{
	if (c->invalid)
		return cudaErrorInvalidValue;
	if (!s->capture) {
		s->capture = c;
		s->work = 1;
		s->joined = 0;
	}
	if (e->stream != s && e->stream->joined < e->work)
		e->stream->joined = e->work;
	return cudaSuccess;
}

NC_API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
	struct nc_stream *s = nc_stream_of(stream);
	struct nc_event *e = event_of(event);
	cudaError_t r = cudaSuccess;

	if (flags)
		nc_fail("cudaStreamWaitEvent: flags are not implemented");
	nc_lock();
	struct nc_capture *c = capture_of(e);
	if (e->capture && !c)
		r = cudaErrorInvalidValue; /* that capture has ended */
	else if (c && (!s->capture || s->capture == c))
		r = join(s, e, c);
	else if (c) {
		invalidate(c, "cudaStreamWaitEvent");
		invalidate(s->capture, "cudaStreamWaitEvent");
		r = cudaErrorStreamCaptureMerge;
	} else if (s->capture && e->recorded) {
		invalidate(s->capture, "cudaStreamWaitEvent");
		r = cudaErrorStreamCaptureIsolation;
	}
	nc_unlock();
	return nc_return(r);
}

static cudaError_t wait_for_event(cudaEvent_t event, const char *call)
{
	nc_lock();
	struct nc_capture *c = capture_of(event_of(event));
	bool ended = event_of(event)->capture && !c;
	if (c)
		invalidate(c, call);
	nc_unlock();
	if (c || ended)
		return nc_return(c ? cudaErrorCapturedEvent : cudaErrorInvalidValue);
	return nc_return(nc_forbidden(call) ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}

NC_API cudaError_t cudaEventQuery(cudaEvent_t event)
{
	return wait_for_event(event, "cudaEventQuery");
}

NC_API cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
	cudaError_t r = wait_for_event(event, "cudaEventSynchronize");

	if (!r)
		nc_count(NC_HOST_SYNCS);
	return r;
}

NC_API cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
	if ((event_of(a)->flags | event_of(b)->flags) & cudaEventDisableTiming)
		return nc_return(cudaErrorInvalidValue);
	if (!event_of(a)->recorded || !event_of(b)->recorded)
		return nc_return(cudaErrorInvalidResourceHandle);
	*ms = (float)(event_of(b)->time - event_of(a)->time);
	return cudaSuccess;
}

bool nc_refuse_capture(struct nc_stream *s, const char *call)
{
	nc_lock();
	struct nc_capture *c = s->capture;
	if (c)
		invalidate(c, call);
	nc_unlock();
	return c;
}

/* ---- Work of libraries ---- */
cudaError_t nc_work(const char *what, cudaStream_t stream)
{
	struct nc_stream *s = nc_stream_of(stream);
	bool captured = false;

	return nc_return(
	    nc_captured(s, &(struct nc_node) { .kind = NC_NODE_KERNEL, .kernel = what }, &captured));
}

cudaError_t nc_library_work(const char *what, int handle_device, cudaStream_t stream,
			    enum nc_device_counter c, const void *const *operand, int operands)
{
	int here = nc_here();

	if (handle_device != here)
		nc_fail("%s: its handle is of device %d, the thread's device is %d", what, handle_device,
			here);
	if (nc_stream_of(stream)->device != here)
		nc_fail("%s: its stream is of device %d, the thread's device is %d", what,
			nc_stream_of(stream)->device, here);
	for (int i = 0; i < operands; i++) {
		int device = nc_device_of(operand[i]);
		if (operand[i] && device != here)
			nc_fail("%s on device %d is given memory of %s %d (operand %d)", what, here,
				device < 0 ? "the host," : "device", device, i);
	}
	nc_count_device(here, c);
	return nc_work(what, stream);
}
