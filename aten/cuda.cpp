// cuda.cpp -- what NCCL, timings and the log need to know of the GPU; only in builds with CUDA.
#include "aten/cuda.hpp"
#include "aten/shim.hpp"
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cstdio>
#include <cuda_runtime_api.h>
#include <stdexcept>

namespace
{
// Of the kernel module; CUDA itself tells only the newest CUDA that it can run.
std::string driver()
{
	char version[64] = "unknown";
	FILE *f = fopen("/sys/module/nvidia/version", "re");

	if (f && fscanf(f, "%63s", version) != 1)
		snprintf(version, sizeof version, "unknown");
	if (f)
		fclose(f);
	return version;
}

// 13000 -> "13.0"; 91900 with `patch` -> "9.19.0"
std::string dotted(long v, long major, long minor, bool patch)
{
	std::string text = std::to_string(v / major) + "." + std::to_string(v % major / minor);
	return patch ? text + "." + std::to_string(v % minor) : text;
}
} // namespace

std::string cuda::describe()
{
	const cudaDeviceProp *p = at::cuda::getCurrentDeviceProperties();
	const long cudnn = at::detail::getCUDAHooks().versionRuntimeCuDNN();
	int runtime = 0;

	if (cudaRuntimeGetVersion(&runtime) != cudaSuccess)
		throw std::runtime_error("the CUDA runtime does not say its version");
	return std::string(p->name) + " (sm_" + std::to_string(p->major) + std::to_string(p->minor) + ", " +
	       std::to_string(p->totalGlobalMem >> 30) + " GiB), driver " + driver() + ", CUDA " +
	       dotted(runtime, 1000, 10, false) + ", cuDNN " +
	       (cudnn >= 90000 ? dotted(cudnn, 10000, 100, true) : dotted(cudnn, 1000, 100, true));
}

int cuda::generation()
{
	return at::cuda::getCurrentDeviceProperties()->major;
}

extern "C" {
void at_cuda_wait(void)
{
	shim::run("at_cuda_wait", {}, [] { c10::cuda::device_synchronize(); });
}
void *at_cuda_stream(void)
{
	void *out = nullptr;

	shim::run("at_cuda_stream", {}, [&] { out = c10::cuda::getCurrentCUDAStream().stream(); });
	return out;
}
float *at_cuda_f32(at_t x)
{
	float *p = nullptr;

	shim::run("at_cuda_f32", { x }, [&] {
		if (!x->v.is_cuda() || !x->v.is_contiguous() || x->v.scalar_type() != at::kFloat)
			throw std::runtime_error("not a contiguous float32 tensor on a GPU");
		p = x->v.mutable_data_ptr<float>();
	});
	return p;
}
}
