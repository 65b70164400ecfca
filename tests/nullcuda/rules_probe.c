/*
 * rules_probe.c -- what CUDA answers to short sequences of calls, around captures and mistakes: one line a
 * call.
 *
 * Like capture_probe.c: a GPU wrote rules_h200.txt, and the stand-in must say the same.
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIZE = 4096 };

static cudaStream_t s, t, blocking;
static cudaEvent_t before, inside, plain;
static char *device, *spare, *pinned, host[SIZE];
static cudaGraph_t graph;
static cudaGraphExec_t exec;

static void say(const char *sequence, const char *call, cudaError_t r)
{
	printf("%s: %s: %s\n", sequence, call, cudaGetErrorName(r));
	cudaGetLastError();
}
#define SAY(call) say(name, #call, call)

static void make(void)
{
	cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
	cudaStreamCreateWithFlags(&t, cudaStreamNonBlocking);
	cudaStreamCreateWithFlags(&blocking, cudaStreamDefault);
	cudaEventCreate(&before);
	cudaEventCreate(&plain);
	cudaEventCreateWithFlags(&inside, cudaEventDisableTiming);
	cudaMalloc((void **)&device, SIZE);
	cudaMalloc((void **)&spare, SIZE);
	cudaHostAlloc((void **)&pinned, SIZE, cudaHostAllocDefault);
	cudaEventRecord(before, t);
	cudaDeviceSynchronize();
}

static void begin(cudaStream_t x)
{
	cudaStreamBeginCapture(x, cudaStreamCaptureModeThreadLocal);
	cudaMemsetAsync(device, 0, SIZE, x);
}

static void broken(void)
{
	const char *name = "broken";
	void *p;

	begin(s);
	SAY(cudaStreamSynchronize(s));
	SAY(cudaMalloc(&p, SIZE));
	SAY(cudaFree(spare));
	SAY(cudaStreamSynchronize(t));
	SAY(cudaEventQuery(before));
	SAY(cudaEventRecord(inside, s));
	SAY(cudaDeviceSynchronize());
	SAY(cudaMemsetAsync(device, 0, SIZE, t));
	SAY(cudaStreamEndCapture(s, &graph));
	SAY(cudaMalloc(&p, SIZE));
	begin(s);
	SAY(cudaStreamEndCapture(s, &graph));
}

static void legacy(void)
{
	const char *name = "blocking";

	begin(blocking);
	SAY(cudaMemsetAsync(device, 0, SIZE, NULL));
	SAY(cudaStreamEndCapture(blocking, &graph));
	begin(blocking);
	SAY(cudaMemcpy(device, host, SIZE, cudaMemcpyHostToDevice));
	SAY(cudaStreamEndCapture(blocking, &graph));
	begin(blocking);
	SAY(cudaEventRecord(plain, NULL));
	SAY(cudaStreamEndCapture(blocking, &graph));
	SAY(cudaStreamBeginCapture(NULL, cudaStreamCaptureModeThreadLocal));
}

static void ended(void)
{
	const char *name = "ended";

	begin(s);
	SAY(cudaEventRecord(inside, s));
	SAY(cudaMemcpy(host, device, SIZE, cudaMemcpyDeviceToHost));
	SAY(cudaStreamEndCapture(s, &graph));
	SAY(cudaEventQuery(inside));
	SAY(cudaEventSynchronize(inside));
	SAY(cudaStreamWaitEvent(t, inside, 0));
	SAY(cudaGraphInstantiateWithFlags(&exec, graph, 0));
	SAY(cudaGraphDestroy(graph));
	SAY(cudaGraphLaunch(exec, s));
	SAY(cudaStreamSynchronize(s));
	SAY(cudaEventRecord(inside, s));
	SAY(cudaEventSynchronize(inside));
}

static void two(void)
{
	const char *name = "two";

	begin(s);
	begin(t);
	SAY(cudaEventRecord(inside, s));
	SAY(cudaStreamWaitEvent(t, inside, 0));
	SAY(cudaStreamEndCapture(t, &graph));
	SAY(cudaStreamEndCapture(s, &graph));
	begin(s);
	SAY(cudaEventRecord(inside, s));
	SAY(cudaStreamWaitEvent(t, inside, 0));
	SAY(cudaStreamEndCapture(t, &graph));
	SAY(cudaStreamEndCapture(s, &graph));
}

static void mistakes(void)
{
	const char *name = "mistakes";
	struct cudaPointerAttributes a;
	float ms;
	void *p;

	SAY(cudaSetDevice(99));
	SAY(cudaMalloc(&p, (size_t)1 << 45));
	SAY(cudaMalloc(&p, 0));
	SAY(cudaFree(NULL));
	SAY(cudaFree(host));
	SAY(cudaFreeHost(host));
	SAY(cudaEventElapsedTime(&ms, before, inside));
	SAY(cudaEventElapsedTime(&ms, before, plain));
	cudaEventDestroy(plain);
	cudaEventCreate(&plain);
	SAY(cudaEventElapsedTime(&ms, before, plain));
	SAY(cudaEventQuery(plain));
	SAY(cudaStreamWaitEvent(t, plain, 0));
	SAY(cudaPointerGetAttributes(&a, device));
	printf("device %d %d\n", a.type, a.device);
	SAY(cudaPointerGetAttributes(&a, pinned + 8));
	printf("pinned %d %d\n", a.type, a.device);
	SAY(cudaPointerGetAttributes(&a, host));
	printf("host %d %d\n", a.type, a.device);
}

int main(void)
{
	make();
	broken();
	legacy();
	ended();
	two();
	mistakes();
	return 0;
}
