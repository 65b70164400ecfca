// graph.cpp -- a function of tensors that runs many times: on a GPU it is captured once as a CUDA graph,
// which is then replayed.
#include "aten/shim.hpp"
#include <cstring>
#include <string>
#ifdef CONTRAFLOW_CUDA
#include <ATen/TensorOperators.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/cuda/CachingHostAllocator.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <memory>
#endif

#ifdef CONTRAFLOW_CUDA
// All graphs share one pool of memory: they are replayed one after another, and what a replay leaves is
// copied out before the next begins. A pool that no graph uses is given back, and libtorch refuses captures
// into it from then on. So whoever captures holds a use of the pool, of the device's part and of the pinned
// one, whether the capture succeeds or not; when nobody holds one, the next capture begins another pool.
struct graph_pool {
	const at::cuda::MempoolId_t id = at::cuda::graph_pool_handle();
	const c10::DeviceIndex device = c10::cuda::current_device();

	graph_pool()
	{
		at::HostAllocator *pinned = at::getHostAllocator(at::kCUDA);

		c10::cuda::CUDACachingAllocator::createOrIncrefPool(device, id);
		pinned->begin_allocate_to_pool(id, [](c10::Stream) { return false; });
		pinned->end_allocate_to_pool(id); // which leaves the use
	}
	graph_pool(const graph_pool &) = delete;
	~graph_pool()
	{
		c10::cuda::CUDACachingAllocator::releasePool(device, id);
		at::getHostAllocator(at::kCUDA)->release_pool(id);
	}
	static std::shared_ptr<graph_pool> shared()
	{
		static std::weak_ptr<graph_pool> now;
		std::shared_ptr<graph_pool> pool = now.lock();

		if (!pool)
			now = pool = std::make_shared<graph_pool>();
		return pool;
	}
};
#endif

struct at_graph {
	shim::callback f;
	std::vector<char> ctx;
	size_t n, m;
	int64_t runs = 0;
	std::string why; // not empty: why it is not replayed
#ifdef CONTRAFLOW_CUDA
	std::shared_ptr<graph_pool> pool; // outlives the graph that was captured into it
	std::unique_ptr<at::cuda::CUDAGraph> graph;
	std::vector<at::Tensor> in, out; // where the graph reads and writes
#endif
};

namespace
{
using tensors = std::vector<at::Tensor>;

tensors run_plain(at_graph *g, const tensors &in)
{
	shim::scope_guard scope(AT_NO_GRAD, __FILE__, __LINE__, "at_graph_run");
	std::vector<at_t> handle, result(g->m, nullptr);
	tensors out;

	for (const at::Tensor &x : in)
		handle.push_back(shim::wrap("graph input", x));
	shim::call_back(g->f, g->ctx.data(), handle.data(), result.data());
	for (at_t t : result) {
		shim::need(t);
		out.push_back(t->v);
	}
	return out;
}

#ifdef CONTRAFLOW_CUDA
// All captures are on one stream: a library's workspace belongs to a stream and is never freed (cuBLAS: 32
// MiB on Hopper), and libtorch's streams come around again after 32, on top of those that others use.
c10::cuda::CUDAStream capture_stream()
{
	static const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
	return stream;
}

bool same(const at::Tensor &a, const at::Tensor &b)
{
	return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
	       at::equal(a.reshape({ -1 }).view(at::kByte), b.reshape({ -1 }).view(at::kByte));
}

double distance(const at::Tensor &a, const at::Tensor &b)
{
	const auto wide = a.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
	return at::linalg_vector_norm(a.to(wide) - b.to(wide), 2, c10::nullopt, false, at::kDouble)
	    .item<double>();
}

// A replay is as good as a plain run where it is no further from one than another plain run is, within a
// factor for luck: attention's backward adds with atomics, so at full size no two runs have the same bits.
// Where two plain runs have the same bits, the replay must have them, too.
constexpr double LUCK = 4;

bool as_good(const at::Tensor &again, const at::Tensor &plain, const at::Tensor &twin)
{
	if (same(plain, again))
		return true;
	if (!at::isFloatingType(plain.scalar_type()) || plain.sizes() != again.sizes() || same(plain, twin))
		return false;
	return distance(plain, again) <= LUCK * distance(plain, twin); // false for NaN
}

tensors replay(at_graph *g, const tensors &in)
{
	tensors out;
	for (size_t i = 0; i < g->n; i++)
		g->in[i].copy_(in[i]);
	g->graph->replay();
	for (const at::Tensor &x : g->out)
		out.push_back(x.clone());
	return out;
}

// capture_end() of a capture that was broken off throws before it tells the allocators, which would then
// go on to put everything into the pool, and keeps the capture's use of it.
void end_broken_capture(at_graph *g)
{
	const auto quietly = [](auto f) {
		try {
			f();
		} catch (const std::exception &) { // the first error counts
		}
	};
	quietly([&] { g->graph->capture_end(); });
	quietly([&] {
		c10::cuda::CUDACachingAllocator::endAllocateToPool(g->pool->device, g->pool->id);
		c10::cuda::CUDACachingAllocator::releasePool(g->pool->device, g->pool->id);
	});
	quietly([&] {
		at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(g->pool->id);
		at::getHostAllocator(at::kCUDA)->release_pool(g->pool->id);
	});
}

// Captures the graph on a stream of its own, after a plain run there, in which libraries make their
// workspaces. Returns the results of that run.
tensors capture(at_graph *g, const tensors &in)
{
	auto here = c10::cuda::getCurrentCUDAStream(), side = capture_stream();
	at::cuda::CUDAEvent before, after;
	tensors twin;

	for (const at::Tensor &x : in)
		g->in.push_back(x.clone());
	before.record(here);
	before.block(side);
	{
		c10::cuda::CUDAStreamGuard guard(side);
		twin = run_plain(g, g->in);
		side.synchronize();
		// A capture cannot take over what the cache keeps for other uses, nor free it.
		c10::cuda::CUDACachingAllocator::emptyCache();
		g->pool = graph_pool::shared();
		g->graph = std::make_unique<at::cuda::CUDAGraph>();
		try {
			// Thread-local: what other threads do meanwhile (rewards, NCCL) is none of its
			// business.
			g->graph->capture_begin(g->pool->id, cudaStreamCaptureModeThreadLocal);
			g->out = run_plain(g, g->in);
			g->graph->capture_end();
		} catch (...) {
			end_broken_capture(g);
			throw;
		}
		after.record(side);
	}
	after.block(here);
	return twin;
}

void give_up(at_graph *g, const char *why)
{
	g->why = why;
	g->why = g->why.substr(0, g->why.find('\n'));
	g->graph.reset();
	g->in.clear();
	g->out.clear();
	g->pool.reset();
}

// The first run is plain; the second captures the graph, which must agree with plain runs; later ones replay
// it.
tensors run_captured(at_graph *g, const tensors &in)
{
	if (g->runs == 1 || !g->why.empty())
		return run_plain(g, in);
	if (g->graph) {
		for (size_t i = 0; i < g->n; i++)
			if (in[i].sizes() != g->in[i].sizes() ||
			    in[i].scalar_type() != g->in[i].scalar_type())
				throw std::runtime_error(
				    "an input has another shape, type or device than at the capture");
		return replay(g, in);
	}
	tensors plain = run_plain(g, in);
	try {
		tensors twin = capture(g, in), again = replay(g, in);
		for (size_t i = 0; i < g->m; i++)
			if (!as_good(again[i], plain[i], twin[i]))
				throw std::runtime_error("its results differ from those of a plain run");
	} catch (const std::exception &e) {
		give_up(g, e.what());
	}
	return plain;
}
#endif
} // namespace

extern "C" {
at_graph *at_graph_new(void (*f)(void *ctx, const at_t *in, at_t *out), const void *ctx, size_t size, int n,
		       int m)
{
	at_graph *g = new at_graph;

	g->f = f;
	g->ctx.assign(static_cast<const char *>(ctx), static_cast<const char *>(ctx) + size);
	g->n = static_cast<size_t>(n);
	g->m = static_cast<size_t>(m);
	return g;
}

void at_graph_free(at_graph *g)
{
	delete g;
}

void at_graph_run(at_graph *g, const at_t *in, at_t *out)
{
	shim::run("at_graph_run", shim::operands(in, g->n), [&] {
		at::NoGradGuard no_grad;
		tensors x, y;
		bool gpu = true;

		for (size_t i = 0; i < g->n; i++) {
			x.push_back(in[i]->v);
			gpu = gpu && in[i]->v.is_cuda();
		}
		g->runs++;
#ifdef CONTRAFLOW_CUDA
		y = gpu ? run_captured(g, x) : run_plain(g, x);
#else
		(void)gpu;
		y = run_plain(g, x);
#endif
		for (size_t i = 0; i < g->m; i++)
			out[i] = shim::wrap("at_graph_run", y[i]);
	});
}

bool at_graph_replays(const at_graph *g, const char **why)
{
	if (why)
		*why = g->why.empty() ? nullptr : g->why.c_str();
#ifdef CONTRAFLOW_CUDA
	return g->graph != nullptr;
#else
	return false;
#endif
}
}
