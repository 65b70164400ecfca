// cuda.cpp -- what NCCL, timings and the log need to know of the GPU; only in builds with CUDA.
#include "aten/shim.hpp"
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <stdexcept>

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
