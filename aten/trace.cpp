// trace.cpp -- see trace.h.
#include "aten/trace.h"
#include "aten/shim.hpp"
#include "base/err.h"
#include "base/io.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
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

// The profiler keeps to itself that it could not write: the file is then not there, or its end is not.
bool is_whole(const std::string &path)
{
	FILE *f = fopen(path.c_str(), "re");
	char end[2] = "";
	bool whole = f && !fseek(f, -2, SEEK_END) && fread(end, 1, 2, f) == 2 && memchr(end, '}', 2);

	if (f)
		fclose(f);
	return whole;
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
	const std::string part = std::string(path) + ".tmp";

	shim::run("at_trace_end", {}, [&] {
		wait_for(dev);
		profiler::disableProfiler()->save(part);
	});
	if (!is_whole(part) || io_rename(part.c_str(), path)) {
		remove(part.c_str());
		remove((part + ".tmp").c_str()); // the profiler's own
		return err_set(e, "%s: the trace cannot be written there; is the disk full?", path);
	}
	return 0;
}
}
