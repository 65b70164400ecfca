// trace.cpp -- see trace.h.
#include "aten/trace.h"
#include "aten/shim.hpp"
#include "base/err.h"
#include <cstdlib>
#include <set>
#include <torch/csrc/autograd/profiler_kineto.h>
#ifdef CONTRAFLOW_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace profiler = torch::autograd::profiler;
namespace config = torch::profiler::impl;

namespace
{
// Launches of a GPU only: to note every op as well would make them come later.
std::set<config::ActivityType> activities(at_device dev)
{
	return { dev == AT_CUDA ? config::ActivityType::CUDA : config::ActivityType::CPU };
}

void wait_for(at_device dev)
{
#ifdef CONTRAFLOW_CUDA
	if (dev == AT_CUDA)
		c10::cuda::device_synchronize();
#endif
	(void)dev;
}
} // namespace

extern "C" {
void at_trace_begin(enum at_device dev)
{
	shim::run("at_trace_begin", {}, [&] {
		const config::ProfilerConfig how(config::ProfilerState::KINETO);

		setenv("KINETO_LOG_LEVEL", "99", 0); // it calls a machine without a GPU an error
		wait_for(dev);
		profiler::prepareProfiler(how, activities(dev));
		profiler::enableProfiler(how, activities(dev));
	});
}

int at_trace_end(enum at_device dev, const char *path, struct err *e)
{
	std::unique_ptr<profiler::ProfilerResult> result;
	FILE *f = fopen(path, "we"); // the profiler keeps to itself that it cannot write

	shim::run("at_trace_end", {}, [&] {
		wait_for(dev);
		result = profiler::disableProfiler();
	});
	if (!f)
		return err_set(e, "%s: the trace cannot be written there", path);
	fclose(f);
	shim::run("at_trace_end", {}, [&] { result->save(path); });
	return 0;
}
}
