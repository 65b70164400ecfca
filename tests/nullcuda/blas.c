/* blas.c -- cuBLAS and cuBLASLt: products compute nothing, but device, stream and operands are checked. */
#include "tests/nullcuda/nullcuda.h"
#include <cublasLt.h>
#include <cublas_v2.h>
#include <stdlib.h>
#include <string.h>

struct handle {
	int device;
	cudaStream_t stream;
	cublasMath_t math;
	cublasPointerMode_t pointers;
};

static struct handle *handle_of(cublasHandle_t h)
{
	return (struct handle *)h;
}

NC_API cublasStatus_t cublasCreate_v2(cublasHandle_t *h)
{
	struct handle *x = calloc(1, sizeof *x);

	x->device = nc_here();
	*h = (cublasHandle_t)x;
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasDestroy_v2(cublasHandle_t h)
{
	free(h);
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasSetStream_v2(cublasHandle_t h, cudaStream_t stream)
{
	handle_of(h)->stream = stream;
	return CUBLAS_STATUS_SUCCESS;
}

/* libtorch gives each pair of handle and stream a workspace of its own, for ever. */
NC_API cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t h, void *workspace, size_t size)
{
	(void)workspace, (void)size;
	nc_note_pair(NC_SET_WORKSPACES, h, nc_stream_of(handle_of(h)->stream));
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasSetMathMode(cublasHandle_t h, cublasMath_t mode)
{
	handle_of(h)->math = mode;
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasGetMathMode(cublasHandle_t h, cublasMath_t *mode)
{
	*mode = handle_of(h)->math;
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t mode)
{
	handle_of(h)->pointers = mode;
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t h, cublasPointerMode_t *mode)
{
	*mode = handle_of(h)->pointers;
	return CUBLAS_STATUS_SUCCESS;
}

/* c = f(a, b) */
static cublasStatus_t product(const char *what, cublasHandle_t h, const void *a, const void *b, const void *c)
{
	const struct handle *x = handle_of(h);
	cudaError_t r =
	    nc_library_work(what, x->device, x->stream, NC_BLAS, (const void *const[]) { a, b, c }, 3);

	return r ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasSgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m,
				     int n, int k, const float *alpha, const float *a, int lda,
				     const float *b, int ldb, const float *beta, float *c, int ldc)
{
	(void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)lda, (void)ldb, (void)beta,
	    (void)ldc;
	return product("cublasSgemm", h, a, b, c);
}

NC_API cublasStatus_t cublasDgemm_v2(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m,
				     int n, int k, const double *alpha, const double *a, int lda,
				     const double *b, int ldb, const double *beta, double *c, int ldc)
{
	(void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)lda, (void)ldb, (void)beta,
	    (void)ldc;
	return product("cublasDgemm", h, a, b, c);
}

NC_API cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb,
						int m, int n, int k, const float *alpha, const float *a,
						int lda, long long sa, const float *b, int ldb, long long sb,
						const float *beta, float *c, int ldc, long long sc, int count)
{
	(void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)lda, (void)sa, (void)ldb, (void)sb;
	(void)beta, (void)ldc, (void)sc, (void)count;
	return product("cublasSgemmStridedBatched", h, a, b, c);
}

NC_API cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb,
						int m, int n, int k, const double *alpha, const double *a,
						int lda, long long sa, const double *b, int ldb, long long sb,
						const double *beta, double *c, int ldc, long long sc,
						int count)
{
	(void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)lda, (void)sa, (void)ldb, (void)sb;
	(void)beta, (void)ldc, (void)sc, (void)count;
	return product("cublasDgemmStridedBatched", h, a, b, c);
}

NC_API cublasStatus_t cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
				   int k, const void *alpha, const void *a, cudaDataType at, int lda,
				   const void *b, cudaDataType bt, int ldb, const void *beta, void *c,
				   cudaDataType ct, int ldc, cublasComputeType_t compute,
				   cublasGemmAlgo_t algo)
{
	(void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)at, (void)lda, (void)bt, (void)ldb;
	(void)beta, (void)ct, (void)ldc, (void)compute, (void)algo;
	return product("cublasGemmEx", h, a, b, c);
}

NC_API cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb,
						 int m, int n, int k, const void *alpha, const void *a,
						 cudaDataType at, int lda, long long sa, const void *b,
						 cudaDataType bt, int ldb, long long sb, const void *beta,
						 void *c, cudaDataType ct, int ldc, long long sc, int count,
						 cublasComputeType_t compute, cublasGemmAlgo_t algo)
{
	(void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)at, (void)lda, (void)sa, (void)bt;
	(void)ldb, (void)sb, (void)beta, (void)ct, (void)ldc, (void)sc, (void)count, (void)compute,
	    (void)algo;
	return product("cublasGemmStridedBatchedEx", h, a, b, c);
}

NC_API cublasStatus_t cublasSgemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m,
				    int n, int k, const float *alpha, const void *a, cudaDataType at, int lda,
				    const void *b, cudaDataType bt, int ldb, const float *beta, void *c,
				    cudaDataType ct, int ldc)
{
	(void)ta, (void)tb, (void)m, (void)n, (void)k, (void)alpha, (void)at, (void)lda, (void)bt, (void)ldb;
	(void)beta, (void)ct, (void)ldc;
	return product("cublasSgemmEx", h, a, b, c);
}

NC_API cublasStatus_t cublasSgemv_v2(cublasHandle_t h, cublasOperation_t t, int m, int n, const float *alpha,
				     const float *a, int lda, const float *x, int incx, const float *beta,
				     float *y, int incy)
{
	(void)t, (void)m, (void)n, (void)alpha, (void)lda, (void)incx, (void)beta, (void)incy;
	return product("cublasSgemv", h, a, x, y);
}

/* A result of the host's is a sync and zero. */
static cublasStatus_t dot(const char *what, cublasHandle_t h, const void *x, const void *y, void *out,
			  size_t size)
{
	bool here = handle_of(h)->pointers == CUBLAS_POINTER_MODE_HOST;

	if (here) {
		memset(out, 0, size);
		nc_count(NC_HOST_SYNCS);
	}
	return product(what, h, x, y, here ? NULL : out);
}

NC_API cublasStatus_t cublasSdot_v2(cublasHandle_t h, int n, const float *x, int incx, const float *y,
				    int incy, float *out)
{
	(void)n, (void)incx, (void)incy;
	return dot("cublasSdot", h, x, y, out, sizeof *out);
}

NC_API cublasStatus_t cublasDotEx(cublasHandle_t h, int n, const void *x, cudaDataType xt, int incx,
				  const void *y, cudaDataType yt, int incy, void *out, cudaDataType ot,
				  cudaDataType et)
{
	(void)n, (void)xt, (void)incx, (void)yt, (void)incy, (void)et;
	return dot("cublasDotEx", h, x, y, out, ot == CUDA_R_32F ? 4 : 2);
}
