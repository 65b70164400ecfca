// memory.cpp -- how much memory tensors take and how much is left.
#include "aten/memory.h"
#include "aten/shim.hpp"
#include "base/machine/cgroup.h"
#include "base/file.h"
#include <algorithm>
#include <atomic>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef CONTRAFLOW_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#endif

namespace
{
// ---- The CPU's meter: libtorch's own allocator with a count around it.
std::atomic<size_t> now { 0 }, peak { 0 };

void taken(size_t n)
{
	size_t all = now.fetch_add(n, std::memory_order_relaxed) + n;
	size_t most = peak.load(std::memory_order_relaxed);

	while (all > most && !peak.compare_exchange_weak(most, all, std::memory_order_relaxed)) {
	}
}

void give_back(void *p);

struct metered : c10::Allocator {
	c10::Allocator *inner = c10::GetCPUAllocator();

	c10::DataPtr allocate(size_t n) override
	{
		c10::DataPtr got = inner->allocate(n);
		void *p = got.get();

		// a block's owner knows its size, so it need not be kept
		if (p && got.compare_exchange_deleter(inner->raw_deleter(), &give_back))
			taken(malloc_usable_size(p));
		return got;
	}
	c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
	void copy_data(void *to, const void *from, size_t n) const override { inner->copy_data(to, from, n); }
};

metered &meter()
{
	static metered m;
	return m;
}

void give_back(void *p)
{
	now.fetch_sub(malloc_usable_size(p), std::memory_order_relaxed);
	meter().inner->raw_deleter()(p);
}

// From the program's start, so that weights are counted as well; 1: over libtorch's, which has 0.
struct installer {
	installer() { c10::SetAllocator(c10::DeviceType::CPU, &meter(), 1); }
} install;

// ---- What the machine has left
// The smaller of two that are negative where there is no limit.
double tighter(double a, double b)
{
	return a < 0 || (b >= 0 && b < a) ? b : a;
}

// Of the process's address space (ulimit -v); -1: no limit.
double free_of_addresses()
{
	rlimit most;
	double pages = file_number("/proc/self/statm", "");

	if (getrlimit(RLIMIT_AS, &most) || most.rlim_cur == RLIM_INFINITY || pages < 0)
		return -1;
	return std::max(
	    static_cast<double>(most.rlim_cur) - pages * static_cast<double>(sysconf(_SC_PAGESIZE)), 0.0);
}

void free_of_cpu(at_memory *m)
{
	double all = 1024 * file_number("/proc/meminfo", "MemAvailable:"), own = free_of_addresses();

	all = tighter(all, cgroup_memory(""));
	own = tighter(own, all);
	m->left = all > 0 ? static_cast<size_t>(all) : 0;
	m->own = own > 0 ? static_cast<size_t>(own) : 0;
}

#ifdef CONTRAFLOW_CUDA
void of_cuda(at_memory *m)
{
	const auto device = c10::cuda::current_device();
	const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device);
	const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
	size_t free = 0, total = 0;

	if (cudaMemGetInfo(&free, &total) != cudaSuccess)
		throw std::runtime_error("the GPU does not say how much memory it has left");
	m->now = static_cast<size_t>(stats.allocated_bytes[all].current);
	m->peak = static_cast<size_t>(stats.allocated_bytes[all].peak);
	m->reserved = static_cast<size_t>(stats.reserved_bytes[all].current);
	m->reserved_peak = static_cast<size_t>(stats.reserved_bytes[all].peak);
	m->left = m->own = free + (m->reserved - m->now);
}
#endif
} // namespace

extern "C" {
void at_memory_read(enum at_device dev, struct at_memory *m)
{
	*m = {};
	shim::run("at_memory_read", {}, [&] {
		if (dev == AT_CPU) {
			m->now = m->reserved = now.load();
			m->peak = m->reserved_peak = peak.load();
			free_of_cpu(m);
		}
#ifdef CONTRAFLOW_CUDA
		else
			of_cuda(m);
#endif
	});
}

void at_memory_count_anew(enum at_device dev)
{
	if (dev == AT_CPU)
		peak.store(now.load());
#ifdef CONTRAFLOW_CUDA
	else
		shim::run("at_memory_count_anew", {}, [] {
			// what the cache holds in pieces is of no use to the next, larger try
			c10::cuda::CUDACachingAllocator::emptyCache();
			c10::cuda::CUDACachingAllocator::resetPeakStats(c10::cuda::current_device());
		});
#endif
}
}
