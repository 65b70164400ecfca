/* fake_nvml.c -- stands in for the driver's libnvidia-ml.so.1: GPUs as the variable FAKE_GPUS has them, a
 * letter each, which ends their UUIDs; "-": one that a control group withholds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(unsigned *n);
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device);
int nvmlDeviceGetUUID(void *device, char *out, unsigned size);

int nvmlInit_v2(void)
{
	return getenv("FAKE_GPUS") ? 0 : 9; /* NVML_ERROR_DRIVER_NOT_LOADED */
}

int nvmlShutdown(void)
{
	return 0;
}

int nvmlDeviceGetCount_v2(unsigned *n)
{
	*n = (unsigned)strlen(getenv("FAKE_GPUS"));
	return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device)
{
	*device = getenv("FAKE_GPUS") + i;
	return *(char *)*device == '-' ? 4 : 0; /* NVML_ERROR_NO_PERMISSION */
}

int nvmlDeviceGetUUID(void *device, char *out, unsigned size)
{
	snprintf(out, size, "GPU-00000000-0000-0000-0000-00000000000%c", *(char *)device);
	return 0;
}
