/* nvml.c -- NVML: the machine's devices, whatever CUDA_VISIBLE_DEVICES says, without a call of CUDA. */
#include "tests/nullcuda/nullcuda.h"
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

/* Handles are 1 + the device's number. */
static int index_of(const void *device)
{
	return (int)(intptr_t)device - 1;
}

static bool bad(const void *device)
{
	return index_of(device) < 0 || index_of(device) >= nc_machine_devices();
}

NC_API int nvmlInit_v2(void);
NC_API int nvmlInit_v2(void)
{
	return SUCCESS;
}

NC_API int nvmlShutdown(void);
NC_API int nvmlShutdown(void)
{
	return SUCCESS;
}

NC_API const char *nvmlErrorString(int r);
NC_API const char *nvmlErrorString(int r)
{
	return r == SUCCESS ? "Success" : r == NOT_SUPPORTED ? "Not Supported" : "Invalid Argument";
}

NC_API int nvmlSystemGetCudaDriverVersion_v2(int *version);
NC_API int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
	*version = 13000;
	return SUCCESS;
}

NC_API int nvmlSystemGetDriverVersion(char *text, unsigned size);
NC_API int nvmlSystemGetDriverVersion(char *text, unsigned size)
{
	snprintf(text, size, "580.0");
	return SUCCESS;
}

NC_API int nvmlDeviceGetCount_v2(unsigned *n);
NC_API int nvmlDeviceGetCount_v2(unsigned *n)
{
	*n = (unsigned)nc_machine_devices();
	return SUCCESS;
}

NC_API int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device);
NC_API int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device)
{
	*device = (void *)((intptr_t)i + 1);
	return bad(*device) ? INVALID_ARGUMENT : SUCCESS;
}

static int find(const char *wanted, void **device, void (*text_of)(int, char *))
{
	char text[48];

	for (int i = 0; i < nc_machine_devices(); i++) {
		text_of(i, text);
		if (!strcasecmp(text, wanted)) {
			*device = (void *)((intptr_t)i + 1);
			return SUCCESS;
		}
	}
	return NOT_FOUND;
}

static void pci_text(int i, char *text)
{
	nc_pci_text(i, text, 48);
}

NC_API int nvmlDeviceGetHandleByUUID(const char *uuid, void **device);
NC_API int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
	return find(uuid, device, nc_uuid_text);
}

/* A domain may have four digits or eight: "0000:18:00.0" or "00000000:18:00.0". */
NC_API int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device);
NC_API int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device)
{
	return find(strlen(id) == 16 ? id + 4 : id, device, pci_text);
}

NC_API int nvmlDeviceGetUUID(const void *device, char *text, unsigned size);
NC_API int nvmlDeviceGetUUID(const void *device, char *text, unsigned size)
{
	char uuid[48];

	if (bad(device))
		return INVALID_ARGUMENT;
	nc_uuid_text(index_of(device), uuid);
	if (strlen(uuid) >= size)
		return INSUFFICIENT_SIZE;
	strcpy(text, uuid);
	return SUCCESS;
}

NC_API int nvmlDeviceGetName(const void *device, char *text, unsigned size);
NC_API int nvmlDeviceGetName(const void *device, char *text, unsigned size)
{
	if (bad(device))
		return INVALID_ARGUMENT;
	snprintf(text, size, "NVIDIA H100 80GB HBM3");
	return SUCCESS;
}

/* What libtorch shows of other processes when memory runs out. */
NC_API int nvmlDeviceGetComputeRunningProcesses(const void *device, unsigned *n, void *list);
NC_API int nvmlDeviceGetComputeRunningProcesses(const void *device, unsigned *n, void *list)
{
	(void)list;
	*n = 0;
	return bad(device) ? INVALID_ARGUMENT : SUCCESS;
}

NC_API int nvmlDeviceGetGpuFabricInfoV(const void *device, void *info);
NC_API int nvmlDeviceGetGpuFabricInfoV(const void *device, void *info)
{
	(void)device, (void)info;
	return NOT_SUPPORTED;
}

NC_API int nvmlDeviceGetNvLinkRemoteDeviceType(const void *device, unsigned link, int *type);
NC_API int nvmlDeviceGetNvLinkRemoteDeviceType(const void *device, unsigned link, int *type)
{
	(void)device, (void)link, (void)type;
	return NOT_SUPPORTED;
}

NC_API int nvmlDeviceGetNvLinkRemotePciInfo_v2(const void *device, unsigned link, void *info);
NC_API int nvmlDeviceGetNvLinkRemotePciInfo_v2(const void *device, unsigned link, void *info)
{
	(void)device, (void)link, (void)info;
	return NOT_SUPPORTED;
}
