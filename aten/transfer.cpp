// transfer.cpp -- copies beside computing.
#include "aten/transfer.h"
#include "aten/shim.hpp"
#include <ATen/ops/empty.h>
#include <cstring>
#ifdef CONTRAFLOW_CUDA
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

struct at_fetch {
	at::Tensor here;
#ifdef CONTRAFLOW_CUDA
	bool from_gpu = false;
	at::cuda::CUDAEvent there;
#endif
};

namespace
{
#ifdef CONTRAFLOW_CUDA
// One stream a GPU: what comes back comes in order, and waits for no other copy's kernels.
c10::cuda::CUDAStream way_back()
{
	static const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
	return stream;
}

void fetch(at_fetch *f, const at::Tensor &x)
{
	const auto side = way_back();
	at::cuda::CUDAEvent done;
	at::Tensor packed = x.contiguous();

	f->from_gpu = true;
	f->here = at::empty(packed.sizes(), packed.options().device(at::kCPU).pinned_memory(true));
	done.record(c10::cuda::getCurrentCUDAStream());
	done.block(side);
	{
		c10::cuda::CUDAStreamGuard guard(side);
		f->here.copy_(packed, true);
	}
	packed.record_stream(side); // its memory is not given to others before the copy is done
	f->there.record(side);
}
#endif
int64_t bytes_of(const at::Tensor &x)
{
	return static_cast<int64_t>(x.nbytes());
}

int64_t aligned(int64_t bytes)
{
	return (bytes + 15) / 16 * 16; // as any kernel may want to read it
}

// All that there is of x, one behind the other, on its way to the GPU.
at::Tensor send_packed(const std::vector<at_t> &x)
{
	int64_t all = 0, at = 0;
	for (at_t t : x)
		all += t ? aligned(bytes_of(t->v)) : 0;
	at::Tensor here = at::empty({ all }, shim::options(AT_U8, AT_CPU).pinned_memory(true));

	for (at_t t : x) {
		if (!t)
			continue;
		if (!t->v.device().is_cpu() || !t->v.is_contiguous())
			throw std::runtime_error("contiguous tensors of the CPU are sent together");
		memcpy(here.mutable_data_ptr<uint8_t>() + at, t->v.const_data_ptr(), t->v.nbytes());
		at += aligned(bytes_of(t->v));
	}
	return here.to(shim::options(AT_U8, AT_CUDA), true);
}
} // namespace

extern "C" {
at_t at_pinned(struct at_dims shape, enum at_dtype dt, enum at_device dev)
{
	return shim::call("at_pinned", {}, [&] {
		return at::empty(shim::ref(shape), shim::options(dt, AT_CPU).pinned_memory(dev == AT_CUDA));
	});
}

at_t at_send(at_t x, enum at_device dev)
{
	return shim::call("at_send", { x }, [&] {
		return x->v.to(shim::options(shim::dtype_of(x->v.scalar_type()), dev), true);
	});
}

void at_send_all(int n, const at_t *x, at_t *out, enum at_device dev)
{
	shim::run("at_send_all", {}, [&] {
		const std::vector<at_t> in(x, x + n); // out may be x
		at::Tensor there = dev == AT_CPU ? at::Tensor() : send_packed(in);
		int64_t at = 0;

		for (int i = 0; i < n; i++) {
			out[i] = nullptr;
			if (!in[i])
				continue;
			const at::Tensor &v = in[i]->v;
			out[i] = shim::wrap(
			    "at_send_all",
			    dev == AT_CPU
				? v.alias()
				: there.narrow(0, at, bytes_of(v)).view(v.scalar_type()).view(v.sizes()));
			at += aligned(bytes_of(v));
		}
	});
}

void at_stream_own(void)
{
#ifdef CONTRAFLOW_CUDA
	static thread_local bool done = false;

	shim::run("at_stream_own", {}, [] {
		if (done || !c10::cuda::CUDACachingAllocator::get()->initialized())
			return;
		const c10::cuda::CUDAStream own = c10::cuda::getStreamFromPool(true);
		at::cuda::CUDAEvent before;
		before.record(c10::cuda::getDefaultCUDAStream());
		before.block(own);
		c10::cuda::setCurrentCUDAStream(own);
		done = true;
	});
#endif
}

void at_stream_wait(void)
{
#ifdef CONTRAFLOW_CUDA
	shim::run("at_stream_wait", {}, [] {
		if (c10::cuda::CUDACachingAllocator::get()->initialized())
			c10::cuda::getCurrentCUDAStream().synchronize();
	});
#endif
}

at_fetch *at_fetch_begin(at_t x)
{
	at_fetch *f = nullptr;

	shim::run("at_fetch_begin", { x }, [&] {
		f = new at_fetch;
#ifdef CONTRAFLOW_CUDA
		if (x->v.is_cuda()) {
			fetch(f, x->v.detach());
			return;
		}
#endif
		f->here = x->v.detach().contiguous();
	});
	return f;
}

bool at_fetch_ready(const at_fetch *f)
{
	bool ready = true;

#ifdef CONTRAFLOW_CUDA
	shim::run("at_fetch_ready", {}, [&] { ready = !f->from_gpu || f->there.query(); });
#else
	(void)f;
#endif
	return ready;
}

at_t at_fetch_end(at_fetch *f)
{
	at_t out = shim::call("at_fetch_end", {}, [&] {
#ifdef CONTRAFLOW_CUDA
		if (f->from_gpu)
			f->there.synchronize();
#endif
		return f->here;
	});

	delete f;
	return out;
}
}
