/*
 * dnn.c -- cuDNN, as far as its frontend goes: descriptors that keep what they are told, a heuristic that
 * knows one engine for everything, plans without a workspace, and executions that compute nothing.
 */
#include "tests/nullcuda/nullcuda.h"
#include <cudnn.h>
#include <stdlib.h>
#include <string.h>

struct handle {
	int device;
	cudaStream_t stream;
};

struct attribute {
	int name, type;
	int64_t n;
	void *value;
	struct attribute *next;
};

struct descriptor {
	cudnnBackendDescriptorType_t type;
	struct attribute *attributes;
};

NC_API size_t cudnnGetVersion(void)
{
	return CUDNN_VERSION;
}

NC_API size_t cudnnGetCudartVersion(void)
{
	return 13000;
}

NC_API const char *cudnnGetErrorString(cudnnStatus_t status)
{
	return status == CUDNN_STATUS_SUCCESS ? "CUDNN_STATUS_SUCCESS" : "CUDNN_STATUS of nullcuda";
}

NC_API void cudnnGetLastErrorString(char *text, size_t size)
{
	if (size)
		*text = 0;
}

NC_API cudnnStatus_t cudnnGetProperty(libraryPropertyType type, int *value)
{
	*value = type == MAJOR_VERSION ? CUDNN_MAJOR : type == MINOR_VERSION ? CUDNN_MINOR : CUDNN_PATCHLEVEL;
	return CUDNN_STATUS_SUCCESS;
}

NC_API cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
	struct handle *x = calloc(1, sizeof *x);

	x->device = nc_here();
	*h = (cudnnHandle_t)x;
	return CUDNN_STATUS_SUCCESS;
}

NC_API cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
	free(h);
	return CUDNN_STATUS_SUCCESS;
}

NC_API cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t stream)
{
	((struct handle *)h)->stream = stream;
	return CUDNN_STATUS_SUCCESS;
}

NC_API cudnnStatus_t cudnnGetStream(cudnnHandle_t h, cudaStream_t *stream)
{
	*stream = ((struct handle *)h)->stream;
	return CUDNN_STATUS_SUCCESS;
}

/* ---- Descriptors ---- */
static size_t size_of(int type)
{
	switch (type) {
	case CUDNN_TYPE_BOOLEAN:
	case CUDNN_TYPE_CHAR:
		return 1;
	case CUDNN_TYPE_HANDLE:
	case CUDNN_TYPE_INT64:
	case CUDNN_TYPE_DOUBLE:
	case CUDNN_TYPE_VOID_PTR:
	case CUDNN_TYPE_BACKEND_DESCRIPTOR:
		return 8;
	case CUDNN_TYPE_FRACTION:
		return 16;
	default:
		return 4;
	}
}

NC_API cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
						  cudnnBackendDescriptor_t *d)
{
	struct descriptor *x = calloc(1, sizeof *x);

	x->type = type;
	*d = x;
	return CUDNN_STATUS_SUCCESS;
}

NC_API cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
	struct descriptor *x = d;

	while (x && x->attributes) {
		struct attribute *a = x->attributes;
		x->attributes = a->next;
		free(a->value);
		free(a);
	}
	free(x);
	return CUDNN_STATUS_SUCCESS;
}

NC_API cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d)
{
	(void)d;
	return CUDNN_STATUS_SUCCESS;
}

static struct attribute *find(const struct descriptor *d, int name)
{
	struct attribute *a = d->attributes;

	while (a && a->name != name)
		a = a->next;
	return a;
}

static void set(struct descriptor *d, int name, int type, int64_t n, const void *value)
{
	size_t size = size_of(type) * (size_t)n;
	struct attribute *a = find(d, name);

	if (!a) {
		a = calloc(1, sizeof *a);
		a->name = name;
		a->next = d->attributes;
		d->attributes = a;
	}
	free(a->value);
	a->type = type;
	a->n = n;
	a->value = malloc(size + 1);
	if (size)
		memcpy(a->value, value, size);
}

NC_API cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
					      cudnnBackendAttributeType_t type, int64_t n, const void *value)
{
	set(d, (int)name, (int)type, n, value);
	return CUDNN_STATUS_SUCCESS;
}

static void copy_attributes(struct descriptor *to, const struct descriptor *from)
{
	for (const struct attribute *a = from->attributes; a; a = a->next)
		set(to, a->name, a->type, a->n, a->value);
}

/* What the library itself knows; the caller has made the descriptors that are to be filled. */
static bool known(struct descriptor *d, int name, int64_t most, int64_t *n, void *out)
{
	switch (name) {
	case CUDNN_ATTR_ENGINEHEUR_RESULTS:
		*n = 1;
		return true;
	case CUDNN_ATTR_ENGINECFG_ENGINE:
		*n = 1;
		if (most >= 1 && find(d, name) && *(struct descriptor **)out)
			copy_attributes(*(struct descriptor **)out,
					*(struct descriptor **)find(d, name)->value);
		return true;
	case CUDNN_ATTR_ENGINE_GLOBAL_INDEX:
	case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
	case CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE:
		*n = 1;
		if (most >= 1)
			*(int64_t *)out = 0;
		return true;
	case CUDNN_ATTR_ENGINECFG_SHARED_MEMORY_USED:
		*n = 1;
		if (most >= 1)
			*(int32_t *)out = 0;
		return true;
	default:
		return false;
	}
}

NC_API cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const d,
					      cudnnBackendAttributeName_t name,
					      cudnnBackendAttributeType_t type, int64_t most, int64_t *n,
					      void *out)
{
	const struct attribute *a = find(d, (int)name);
	int64_t count = 0;

	if (!known(d, (int)name, out ? most : 0, &count, out) && a) {
		count = a->n;
		if (out)
			memcpy(out, a->value, size_of((int)type) * (size_t)(count < most ? count : most));
	}
	if (n)
		*n = count;
	return CUDNN_STATUS_SUCCESS;
}

NC_API cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan,
					 cudnnBackendDescriptor_t pack)
{
	const struct handle *x = (const struct handle *)h;
	const struct attribute *p = find(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
	const void *operand[64];
	int n = 0;

	(void)plan;
	for (int64_t i = 0; p && i < p->n && n < 64; i++) {
		const void *v = ((void **)p->value)[i];
		if (nc_device_of(v) >= 0) /* scalars may lie in the host's memory */
			operand[n++] = v;
	}
	return nc_library_work("cudnnBackendExecute", x->device, x->stream, NC_DNN, operand, n)
		   ? CUDNN_STATUS_EXECUTION_FAILED
		   : CUDNN_STATUS_SUCCESS;
}
