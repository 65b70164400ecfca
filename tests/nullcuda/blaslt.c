/* blaslt.c -- cuBLASLt.  A handle of cuBLAS is one of cuBLASLt: its first member is its device. */
#include "tests/nullcuda/nullcuda.h"
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

/* Of a product: the pointers that it carries besides the operands. */
struct description {
	const void *bias, *scale_a, *scale_b, *scale_d, *aux;
};

NC_API size_t cublasLtGetVersion(void)
{
	return CUBLAS_VERSION;
}

NC_API cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
					       cudaDataType_t scale)
{
	(void)compute, (void)scale;
	*d = calloc(1, sizeof(struct description));
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
	free(d);
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
						     cublasLtMatmulDescAttributes_t a, const void *value,
						     size_t size)
{
	struct description *d = (struct description *)desc;
	const void **p = a == CUBLASLT_MATMUL_DESC_BIAS_POINTER           ? &d->bias
			 : a == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER      ? &d->scale_a
			 : a == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER      ? &d->scale_b
			 : a == CUBLASLT_MATMUL_DESC_D_SCALE_POINTER      ? &d->scale_d
			 : a == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER ? &d->aux
									  : NULL;

	if (p && size != sizeof *p)
		return CUBLAS_STATUS_INVALID_VALUE;
	if (p)
		memcpy(p, value, sizeof *p);
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows,
						 uint64_t columns, int64_t ld)
{
	(void)type, (void)rows, (void)columns, (void)ld;
	*l = calloc(1, 8);
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
	free(l);
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
						       cublasLtMatrixLayoutAttribute_t a, const void *value,
						       size_t size)
{
	(void)l, (void)a, (void)value, (void)size;
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
	*p = calloc(1, 8);
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
	free(p);
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
							   cublasLtMatmulPreferenceAttributes_t a,
							   const void *value, size_t size)
{
	(void)p, (void)a, (void)value, (void)size;
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d,
						     cublasLtMatrixLayout_t la, cublasLtMatrixLayout_t lb,
						     cublasLtMatrixLayout_t lc, cublasLtMatrixLayout_t ld,
						     cublasLtMatmulPreference_t p, int most,
						     cublasLtMatmulHeuristicResult_t result[], int *n)
{
	(void)h, (void)d, (void)la, (void)lb, (void)lc, (void)ld, (void)p;
	*n = most > 0;
	if (*n) {
		memset(result, 0, sizeof *result);
		result->state = CUBLAS_STATUS_SUCCESS;
		result->wavesCount = 1;
	}
	return CUBLAS_STATUS_SUCCESS;
}

NC_API cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t desc, const void *alpha,
				     const void *a, cublasLtMatrixLayout_t la, const void *b,
				     cublasLtMatrixLayout_t lb, const void *beta, const void *c,
				     cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
				     const cublasLtMatmulAlgo_t *algo, void *workspace, size_t size,
				     cudaStream_t stream)
{
	const struct description *x = (const struct description *)desc;
	const void *operand[] = { a,       b,          c,          d,          size ? workspace : NULL,
				  x->bias, x->scale_a, x->scale_b, x->scale_d, x->aux };

	(void)alpha, (void)la, (void)lb, (void)beta, (void)lc, (void)ld, (void)algo;
	return nc_library_work("cublasLtMatmul", *(const int *)h, stream, NC_BLAS, operand, 10)
		   ? CUBLAS_STATUS_EXECUTION_FAILED
		   : CUBLAS_STATUS_SUCCESS;
}
