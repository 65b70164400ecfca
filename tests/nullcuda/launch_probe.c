/*
 * launch_probe.c -- mistakes that the stand-in for CUDA must catch: launch_probe MISTAKE
 *
 * "none" makes none and ends with 0; the others end in abort() and a line that names the mistake.
 */
#include "aten/at.h"
#include <cublas_v2.h>
#include <stdio.h>
#include <string.h>

/* What nvcc writes for a kernel, here for one that no cubin holds. */
void **__cudaRegisterFatBinary(const void *wrapper);
void __cudaRegisterFunction(void **module, const char *host, char *device, const char *name, int limit,
			    void *tid, void *bid, void *block, void *grid, int *warp);

static const char empty_kernel[] = "stands for the kernel on the host";

static void launch(dim3 grid, dim3 block, cudaStream_t stream)
{
	static const int wrapper[8];
	static char name[] = "empty_kernel";

	__cudaRegisterFunction(__cudaRegisterFatBinary(wrapper), empty_kernel, name, name, -1, NULL, NULL,
			       NULL, NULL, NULL);
	cudaLaunchKernel(empty_kernel, grid, block, NULL, 0, stream);
}

/* One of our own kernels on tensors of device `of`, while device `on` is the thread's. */
static void modulate(int of, int on)
{
	struct at_scope *scope = at_begin(AT_NO_GRAD);

	cudaSetDevice(of);
	at_t x = at_zeros(DIMS(2, 3, 64), AT_F32, AT_CUDA), y = at_zeros(DIMS(2, 1, 64), AT_F32, AT_CUDA);
	cudaSetDevice(on);
	at_modulate(x, y, y, 1e-6);
	at_end(scope);
}

static void product(int of, int on)
{
	cublasHandle_t h;
	float *p, one = 1;

	cudaSetDevice(of);
	cudaMalloc((void **)&p, 4096);
	cudaSetDevice(on);
	cublasCreate(&h);
	cublasSgemm(h, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, p, 4, p, 4, &one, p, 4);
}

static void stream(void)
{
	cudaStream_t s;

	cudaSetDevice(1);
	cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
	cudaSetDevice(0);
	launch((dim3) { 1, 1, 1 }, (dim3) { 32, 1, 1 }, s);
}

static void copy_too_much(void)
{
	static char host[8192];
	void *p;

	cudaMalloc(&p, 4096);
	cudaMemcpy(p, host, sizeof host, cudaMemcpyHostToDevice);
}

int main(int argc, char **argv)
{
	const char *mistake = argc == 2 ? argv[1] : "";

	if (!strcmp(mistake, "none")) {
		modulate(0, 0);
		product(1, 1);
		launch((dim3) { 0x7fffffff, 65535, 65535 }, (dim3) { 1024, 1, 1 }, NULL);
	} else if (!strcmp(mistake, "pointer"))
		modulate(0, 1);
	else if (!strcmp(mistake, "product"))
		product(0, 1);
	else if (!strcmp(mistake, "stream"))
		stream();
	else if (!strcmp(mistake, "grid"))
		launch((dim3) { 1, 65536, 1 }, (dim3) { 32, 1, 1 }, NULL);
	else if (!strcmp(mistake, "block"))
		launch((dim3) { 1, 1, 1 }, (dim3) { 33, 32, 1 }, NULL);
	else if (!strcmp(mistake, "copy"))
		copy_too_much();
	else {
		fprintf(stderr, "launch_probe: what is '%s'?\n", mistake);
		return 2;
	}
	return 0;
}
