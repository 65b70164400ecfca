// transfer.cpp -- copies beside computing.
#include "aten/transfer.h"
#include "aten/shim.hpp"
#include <ATen/ops/empty.h>
#ifdef CONTRAFLOW_CUDA
#include <ATen/cuda/CUDAEvent.h>
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
