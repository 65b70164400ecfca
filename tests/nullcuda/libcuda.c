/* libcuda.c -- libcuda: the little that libtorch asks of the driver itself. */
#include "tests/nullcuda/nullcuda.h"
#include <cuda.h>

NC_API CUresult cuInit(unsigned flags)
{
	(void)flags;
	return nc_visible() ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

NC_API CUresult cuDriverGetVersion(int *version)
{
	*version = 13000;
	return CUDA_SUCCESS;
}

NC_API CUresult cuDeviceGetCount(int *n)
{
	*n = nc_visible();
	return CUDA_SUCCESS;
}

NC_API CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	if (ordinal < 0 || ordinal >= nc_visible())
		return CUDA_ERROR_INVALID_DEVICE;
	*device = ordinal;
	return CUDA_SUCCESS;
}

NC_API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
	return nc_attribute(value, (int)attribute, device) ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

NC_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
	*flags = 0;
	*active = nc_has_context(nc_physical(device));
	return CUDA_SUCCESS;
}

/* A context is only compared with NULL. */
NC_API CUresult cuCtxGetCurrent(CUcontext *context)
{
	static int any;

	*context = nc_has_context(nc_here()) ? (CUcontext)&any : NULL;
	return CUDA_SUCCESS;
}

NC_API CUresult cuGetErrorString(CUresult r, const char **text)
{
	*text = r ? "an error of the driver" : "no error";
	return CUDA_SUCCESS;
}
