// machine.cpp -- threads, devices, versions.
#ifdef CONTRAFLOW_CUDA
#include "aten/cuda.hpp"
#endif
#include "aten/kernels/lanes.hpp"
#include "aten/shim.hpp"
#include "base/err.h"
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/Version.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/empty.h>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <torch/version.h>

namespace shim
{
// at::parallel_for is a template that needs the OpenMP runtime of whoever instantiates it, and a second
// runtime beside libtorch's would fight with it for the cores. A TensorIterator runs its loop inside
// libtorch, on libtorch's own threads; the bytes that it walks over are never touched: they only count.
void parallel(int64_t n, int64_t grain, c10::function_ref<void(int64_t from, int64_t to)> f)
{
	if (n <= grain || at::get_num_threads() == 1 || at::in_parallel_region()) {
		if (n > 0)
			f(0, n);
		return;
	}
	at::Tensor count = at::empty({ n }, at::kByte);
	const char *base = static_cast<const char *>(count.data_ptr());
	auto loop = at::TensorIterator::borrowing_nullary_op(count);
	loop.for_each([&](char **at, const int64_t *, int64_t length,
			  int64_t) { f(at[0] - base, at[0] - base + length); },
		      grain);
}
} // namespace shim

const lanes::kernels *lanes::best()
{
#ifdef __x86_64__
	static const kernels *const found = [] {
		const std::string set = at::get_cpu_capability();
		return set == "AVX512" ? &avx512 : set == "AVX2" ? &avx2 : nullptr;
	}();
	return found;
#else
	return nullptr;
#endif
}

namespace
{
std::atomic<int> chosen { -1 }; // what "auto" stands for; negative: nobody has said
}

extern "C" {
void at_set_threads(int n)
{
	shim::run("at_set_threads", {}, [&] { at::set_num_threads(n); });
}
int at_threads(void)
{
	return at::get_num_threads();
}
void at_parallel(int64_t n, int64_t grain, void (*f)(void *ctx, int64_t from, int64_t to), void *ctx)
{
	shim::run("at_parallel", {},
		  [&] { shim::parallel(n, grain, [&](int64_t from, int64_t to) { f(ctx, from, to); }); });
}
bool at_cuda_built(void)
{
#ifdef CONTRAFLOW_CUDA
	return true;
#else
	return false;
#endif
}
int at_cuda_devices(void)
{
#ifdef CONTRAFLOW_CUDA
	return at::hasCUDA() ? at::detail::getCUDAHooks().getNumGPUs() : 0;
#else
	return 0;
#endif
}
const char *const at_device_names[] = { "auto", "cpu", "cuda", nullptr };

void at_device_set_auto(enum at_device dev)
{
	chosen = dev;
}
const char *at_device_name(enum at_device dev)
{
	return dev == AT_CUDA ? "cuda" : "cpu";
}
int at_device_parse(enum at_device *dev, const char *name, struct err *e)
{
	if (!strcmp(name, "auto")) {
		*dev = chosen >= 0         ? static_cast<at_device>(chosen.load())
		       : at_cuda_devices() ? AT_CUDA
					   : AT_CPU;
		return 0;
	}
	*dev = strcmp(name, "cuda") ? AT_CPU : AT_CUDA;
	if (strcmp(name, "cpu") && *dev == AT_CPU)
		return err_set(e, "device '%s': auto, cpu or cuda", name);
	if (*dev == AT_CUDA && !at_cuda_devices())
		return err_set(e, "the device is cuda, but %s",
			       at_cuda_built() ? "no GPU is visible"
					       : "this build has no CUDA (meson -Dcuda=enabled)");
	return 0;
}
const char *at_device_text(enum at_device dev)
{
#ifdef CONTRAFLOW_CUDA
	static std::string text;

	if (dev == AT_CUDA) {
		shim::run("at_device_text", {}, [] {
			if (text.empty())
				text = cuda::describe();
		});
		return text.c_str();
	}
#endif
	(void)dev;
	return "cpu";
}
bool at_sdpa_is_best(enum at_device dev, const char *kernel)
{
	bool hopper = false;

#ifdef CONTRAFLOW_CUDA
	if (dev == AT_CUDA)
		shim::run("at_sdpa_is_best", {}, [&] { hopper = cuda::generation() == 9; });
#endif
	(void)dev;
	return !hopper || !strcmp(kernel, "cudnn");
}
void at_set_deterministic(bool on)
{
	shim::run("at_set_deterministic", {}, [&] {
		if (on) // cuBLAS reads it when its first handle is made, and libtorch insists on it
			setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
		at::globalContext().setDeterministicAlgorithms(on, false);
		at::globalContext().setDeterministicCuDNN(on);
		// what nobody has written nobody reads
		at::globalContext().setDeterministicFillUninitializedMemory(false);
	});
}
const char *at_version(void)
{
	static const std::string text =
	    std::string(TORCH_VERSION) + ", " + at::get_cpu_capability() + (at::hasMKL() ? ", mkl" : "");
	return text.c_str();
}
}
