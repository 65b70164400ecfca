/*
 * test_reduce_nccl.c -- what dist/reduce_nccl.c does over tests/fakenccl, where there is no GPU.
 *
 * mpirun -n N test_reduce_nccl TIMEOUT SERVERS: the ranks that do not serve sum tensors of many sizes and
 * close.  Faults come from FAKENCCL_...; a barrier follows each step, so that only those whom the fault
 * befalls wait in NCCL.  Tensors, streams and events are stand-ins: neither libtorch nor a GPU is needed.
 */
#include "base/mem.h"
#include "dist/dist.h"
#include "tests/fakenccl/fakenccl.h"
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond) check((cond), #cond, __LINE__)

static struct dist d;
static bool on_stream;

static void check(bool good, const char *what, int line)
{
	if (good)
		return;
	fprintf(stderr, "test_reduce_nccl.c:%d: rank %d of %d: not so: %s\n", line, d.rank, d.ranks, what);
	dist_abort(9);
}

/* ---- Stand-ins ----------------------------------------------------------------------------------- */

struct at_tensor {
	float *data;
	int64_t numel;
};

int64_t at_numel(at_t x)
{
	return x->numel;
}

float *at_cuda_f32(at_t x)
{
	return x->data;
}

float *at_f32(at_t x)
{
	at_panic("at_f32 of a tensor on a GPU (%lld elements)", (long long)x->numel);
}

void *at_cuda_stream(void)
{
	return &d;
}

void at_panic(const char *fmt, ...)
{
	char what[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	fprintf(stderr, "%s\n", what);
	dist_abort(3);
}

struct CUevent_st {
	int64_t behind; /* so many sums */
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
	CHECK(flags == cudaEventDisableTiming);
	*event = mem_zero(1, sizeof **event);
	return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
	CHECK((void *)stream == at_cuda_stream());
	event->behind = fakenccl_queued();
	return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
	return on_stream && fakenccl_made() < event->behind ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
	free(event);
	return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t r)
{
	return r ? "an error of CUDA" : "no error";
}

/* ---- Sums ---------------------------------------------------------------------------------------- */

/* Magnitudes far apart, so that a sum depends on the order of its terms. */
static float term(int rank, int64_t i)
{
	return (float)(sin(1 + rank * 77.7 + (double)(i % 9973)) * pow(10, (double)((rank * 5 + i) % 9)));
}

static void sum(int64_t numel)
{
	struct at_tensor x = { mem_alloc((size_t)(numel + 1) * sizeof(float)), numel };
	float *root = mem_alloc((size_t)(numel + 1) * sizeof(float));

	for (int64_t i = 0; i < numel; i++)
		x.data[i] = term(d.rank, i);
	x.data[numel] = 0.5f;
	dist_sum_tensor(&d, &x);
	CHECK(x.data[numel] == 0.5f);
	for (int64_t i = 0; i < numel; i++) {
		double exact = 0, size = 0;
		for (int r = 0; r < d.ranks; r++) {
			exact += term(r, i);
			size += fabsf(term(r, i));
		}
		CHECK(fabs(x.data[i] - exact) <= 1.2e-7 * (d.ranks - 1) * size);
	}
	memcpy(root, x.data, (size_t)numel * sizeof(float));
	dist_broadcast(&d, root, (size_t)numel * sizeof(float), 0);
	CHECK(!memcmp(root, x.data, (size_t)numel * sizeof(float)));
	free(root);
	free(x.data);
}

static void train(void)
{
	static const int64_t numel[] = { 1, 2, 3, 31, 257, 4099, (1 << 18) - 1, 1 << 18, (1 << 19) + 77 };
	struct err e = { "" };

	CHECK(!dist_use_nccl(&d, &e));
	CHECK(!strcmp(d.reducer->name, "nccl"));
	dist_barrier(&d);
	for (size_t k = 0; k < sizeof numel / sizeof *numel; k++) {
		sum(numel[k]);
		dist_barrier(&d);
	}
	dist_close_nccl(&d);
	CHECK(!strcmp(d.reducer->name, "mpi"));
}

/* With one rank nobody looks at the tensor, which may be on a GPU: at_f32 would panic. */
static void test_one_rank_over_mpi(void)
{
	struct at_tensor x = { NULL, 5 };

	dist_sum_tensor(&d, &x);
}

int main(int argc, char **argv)
{
	struct err e = { "" };
	int servers;

	CHECK(argc == 4);
	if ((on_stream = !strcmp(argv[3], "stream")))
		fakenccl_stream();
	if (dist_open(&d, &e)) {
		fprintf(stderr, "test_reduce_nccl.c: %s\n", e.msg);
		return 1;
	}
	if ((servers = atoi(argv[2])))
		dist_split(&d, servers);
	dist_watch(atof(argv[1]));
	if (d.ranks == 1)
		test_one_rank_over_mpi();
	if (!d.serves)
		train();
	if (d.rank == 0)
		printf("ok: %d ranks %s\n", d.ranks, d.serves ? "serve" : "have summed");
	dist_close(&d);
	return 0;
}
