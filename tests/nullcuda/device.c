/* device.c -- which devices there are and what they are: H100s. */
#include "tests/nullcuda/nullcuda.h"
#include <dlfcn.h>
#include <string.h>

static const char name[] = "NVIDIA H100 80GB HBM3";

void nc_uuid(int physical, unsigned char uuid[16])
{
	static const unsigned char base[16] = { 0x6e, 0x75, 0x6c, 0x6c, 0x63, 0x75, 0x64, 0x61,
						0x80, 0x48, 0x31, 0x30, 0x30, 0x00, 0x00, 0x00 };
	memcpy(uuid, base, 16);
	uuid[0] = (unsigned char)(0x10 * physical + 0xa); /* distinct from the first digit on */
	uuid[15] = (unsigned char)physical;
}

void nc_uuid_text(int physical, char text[48])
{
	unsigned char u[16];

	nc_uuid(physical, u);
	snprintf(text, 48, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
		 u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
		 u[15]);
}

static int bus_of(int physical)
{
	return 0x18 + 0x11 * physical;
}

void nc_pci_text(int physical, char *text, size_t size)
{
	snprintf(text, size, "0000:%02X:00.0", bus_of(physical));
}

NC_API cudaError_t cudaGetDeviceCount(int *n)
{
	*n = nc_visible();
	return nc_return(*n ? cudaSuccess : cudaErrorNoDevice);
}

NC_API cudaError_t cudaSetDevice(int device)
{
	if (device < 0 || device >= nc_visible())
		return nc_return(nc_visible() ? cudaErrorInvalidDevice : cudaErrorNoDevice);
	nc_set_device(device);
	return cudaSuccess;
}

NC_API cudaError_t cudaGetDevice(int *device)
{
	if (!nc_visible())
		return nc_return(cudaErrorNoDevice);
	*device = nc_device();
	return cudaSuccess;
}

NC_API cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
	if (device < 0 || device >= nc_visible())
		return nc_return(cudaErrorInvalidDevice);
	memset(p, 0, sizeof *p);
	memcpy(p->name, name, sizeof name);
	nc_uuid(nc_physical(device), (unsigned char *)p->uuid.bytes);
	p->totalGlobalMem = nc_memory_limit();
	p->sharedMemPerBlock = 49152;
	p->regsPerBlock = p->regsPerMultiprocessor = 65536;
	p->warpSize = 32;
	p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
	p->maxThreadsDim[2] = 64;
	p->maxGridSize[0] = INT32_MAX;
	p->maxGridSize[1] = p->maxGridSize[2] = 65535;
	p->totalConstMem = 65536;
	p->major = 9;
	p->textureAlignment = 512;
	p->multiProcessorCount = 132;
	p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = 1;
	p->pciBusID = bus_of(nc_physical(device));
	p->asyncEngineCount = 3;
	p->l2CacheSize = 52428800;
	p->memoryBusWidth = 5120;
	p->maxThreadsPerMultiProcessor = 2048;
	p->sharedMemPerMultiprocessor = 233472;
	p->sharedMemPerBlockOptin = 232448;
	p->reservedSharedMemPerBlock = 1024;
	p->maxBlocksPerMultiProcessor = 32;
	p->cooperativeLaunch = p->clusterLaunch = p->streamPrioritiesSupported = 1;
	return cudaSuccess;
}

static const struct {
	int attribute, value;
} attributes[] = {
	{ cudaDevAttrMaxThreadsPerBlock, 1024 },
	{ cudaDevAttrMaxBlockDimX, 1024 },
	{ cudaDevAttrMaxBlockDimY, 1024 },
	{ cudaDevAttrMaxBlockDimZ, 64 },
	{ cudaDevAttrMaxGridDimX, INT32_MAX },
	{ cudaDevAttrMaxGridDimY, 65535 },
	{ cudaDevAttrMaxGridDimZ, 65535 },
	{ cudaDevAttrMaxSharedMemoryPerBlock, 49152 },
	{ cudaDevAttrWarpSize, 32 },
	{ cudaDevAttrMaxRegistersPerBlock, 65536 },
	{ cudaDevAttrClockRate, 1980000 },
	{ cudaDevAttrMultiProcessorCount, 132 },
	{ cudaDevAttrMaxThreadsPerMultiProcessor, 2048 },
	{ cudaDevAttrComputeCapabilityMajor, 9 },
	{ cudaDevAttrComputeCapabilityMinor, 0 },
	{ cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472 },
	{ cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448 },
	{ cudaDevAttrReservedSharedMemoryPerBlock, 1024 },
	{ cudaDevAttrMaxBlocksPerMultiprocessor, 32 },
	{ cudaDevAttrCooperativeLaunch, 1 },
	{ cudaDevAttrL2CacheSize, 52428800 },
	{ cudaDevAttrUnifiedAddressing, 1 },
	{ cudaDevAttrHostRegisterSupported, 1 },
	{ cudaDevAttrCanUseHostPointerForRegisteredMem, 1 },
	{ cudaDevAttrPageableMemoryAccess, 0 },
	{ cudaDevAttrMemoryPoolsSupported, 1 },
};

cudaError_t nc_attribute(int *value, int attribute, int device)
{
	if (device < 0 || device >= nc_visible())
		return cudaErrorInvalidDevice;
	for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
		if (attributes[i].attribute == attribute) {
			*value = attributes[i].value;
			return cudaSuccess;
		}
	nc_fail("attribute %d of a device is not known", attribute);
}

NC_API cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
	return nc_return(nc_attribute(value, (int)attribute, device));
}

NC_API cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device)
{
	nc_pci_text(nc_physical(device), text, (size_t)size);
	return cudaSuccess;
}

NC_API cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
	*least = 0;
	*greatest = -5;
	return cudaSuccess;
}

NC_API cudaError_t cudaDeviceCanAccessPeer(int *yes, int device, int peer)
{
	*yes = nc_physical(device) != nc_physical(peer);
	return cudaSuccess;
}

NC_API cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
	(void)flags;
	return nc_return(nc_physical(peer) == nc_here() ? cudaErrorInvalidDevice : cudaSuccess);
}

NC_API cudaError_t cudaDriverGetVersion(int *version)
{
	*version = 13000;
	return cudaSuccess;
}

NC_API cudaError_t cudaRuntimeGetVersion(int *version)
{
	*version = 13000;
	return cudaSuccess;
}

NC_API cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **f, unsigned version,
						    unsigned long long flags,
						    enum cudaDriverEntryPointQueryResult *found)
{
	void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);

	(void)version, (void)flags;
	*f = driver ? dlsym(driver, symbol) : NULL;
	if (found)
		*found = *f ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
	return nc_return(*f || found ? cudaSuccess : cudaErrorSymbolNotFound);
}

static const struct {
	cudaError_t error;
	const char *name, *text;
} errors[] = {
#define ERROR(e, text)                                                                                       \
	{                                                                                                    \
		e, #e, text                                                                                  \
	}
	ERROR(cudaSuccess, "no error"),
	ERROR(cudaErrorInvalidValue, "invalid argument"),
	ERROR(cudaErrorMemoryAllocation, "out of memory"),
	ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
	ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
	ERROR(cudaErrorInvalidSymbol, "invalid device symbol"),
	ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
	ERROR(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
	ERROR(cudaErrorSymbolNotFound, "named symbol not found"),
	ERROR(cudaErrorNotReady, "device not ready"),
	ERROR(cudaErrorHostMemoryNotRegistered, "part or all of the requested memory range is not mapped"),
	ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
	ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
	ERROR(cudaErrorStreamCaptureMerge, "operation would result in a merge of separate capture sequences"),
	ERROR(cudaErrorStreamCaptureImplicit,
	      "operation would make the legacy stream depend on a capturing blocking stream"),
	ERROR(cudaErrorStreamCaptureUnmatched, "the capture was not initiated in this stream"),
	ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
	ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
	ERROR(cudaErrorCapturedEvent,
	      "operation not permitted on an event last recorded in a capturing stream"),
	ERROR(cudaErrorStreamCaptureWrongThread,
	      "attempt to terminate a thread-local capture sequence from another thread"),
#undef ERROR
};

NC_API const char *cudaGetErrorName(cudaError_t r)
{
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		if (errors[i].error == r)
			return errors[i].name;
	return "unrecognized error code";
}

NC_API const char *cudaGetErrorString(cudaError_t r)
{
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		if (errors[i].error == r)
			return errors[i].text;
	return "unrecognized error code";
}
