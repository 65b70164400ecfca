// normals.cpp -- noise by the names of its streams, on the device where it is wanted.
#include "aten/kernels/normals.hpp"
#include "aten/normals.h"
#include "aten/shim.hpp"
#include <ATen/ops/empty.h>
#ifdef CONTRAFLOW_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace
{
at::Tensor draw(uint64_t seed, const at::Tensor &name, at::IntArrayRef shape)
{
	if (name.scalar_type() != at::kLong || name.dim() != 2 || name.size(1) != 2 ||
	    !name.is_contiguous() || shape.empty() || shape[0] != name.size(0))
		throw std::runtime_error("names are (B, 2) int64, the shape is (B, ...)");
	at::Tensor out = at::empty(shape, name.options().dtype(at::kFloat));
	if (!out.numel())
		return out;

	const int64_t each = out.numel() / shape[0], fours = (each + 3) / 4;
	if (fours >= UINT32_MAX)
		throw std::runtime_error("a stream has 2^34 normals");
	const normals::args a = { { static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32) },
				  name.const_data_ptr<int64_t>(),
				  out.data_ptr<float>(),
				  each,
				  fours };
#ifdef CONTRAFLOW_CUDA
	if (name.is_cuda()) {
		normals::gpu(a, shape[0] * fours, c10::cuda::getCurrentCUDAStream().stream());
		return out;
	}
#endif
	shim::parallel(shape[0], 1, [&](int64_t from, int64_t to) {
		for (int64_t i = from * fours; i < to * fours; i++)
			normals::four(a, i);
	});
	return out;
}
} // namespace

extern "C" at_t at_normals(uint64_t seed, at_t names_B2, struct at_dims shape)
{
	return shim::call("at_normals", { names_B2 },
			  [&] { return draw(seed, names_B2->v, shim::ref(shape)); });
}
