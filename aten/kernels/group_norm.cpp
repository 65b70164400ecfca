// group_norm.cpp -- at_group_norm and at_group_norm_silu: of channels-last images by the kernel of
// group_norm.hpp, of all others by ATen.
#include "aten/images.h"
#include "aten/kernels/group_norm.hpp"
#include "aten/kernels/rows_run.hpp"
#include "aten/shim.hpp"
#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/var_mean.h>
#include <cmath>
#ifdef CONTRAFLOW_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace
{
using maybe = c10::optional<at::Tensor>;

template <class T> void on_the_cpu(const group_norm::args &a)
{
	using namespace group_norm;
	auto each_piece = [&](auto f) {
		shim::parallel(a.N * a.pieces, 1, [&](int64_t from, int64_t to) {
			for (int64_t i = from; i < to; i++)
				f(i / a.pieces, i % a.pieces);
		});
	};

	each_piece([&](int64_t n, int64_t piece) {
		float sum[THREADS], square[THREADS];
		for (int t = 0; t < THREADS; t++)
			thread_sums<T>(a, n, piece, t, sum[t], square[t]);
		for (int64_t g = 0; g < a.G; g++)
			block_sums(a, n, piece, g, sum, square);
	});
	for (int64_t i = 0; i < a.N * a.G; i++) {
		double sum, square;
		piece_sums(a, i / a.G, i % a.G, 0, 1, sum, square);
		finish<T>(a, i / a.G, i % a.G, sum, square);
	}
	each_piece([&](int64_t n, int64_t piece) {
		for (int t = 0; t < THREADS; t++)
			thread_apply<T>(a, n, piece, t);
	});
}

void run(const at::Tensor &x, const group_norm::args &a)
{
	const rows::storage t = rows::storage_of(x);
#ifdef CONTRAFLOW_CUDA
	if (x.is_cuda()) {
		group_norm::gpu(t, a, c10::cuda::getCurrentCUDAStream().stream());
		return;
	}
#endif
	if (t == rows::F32)
		on_the_cpu<float>(a);
	else if (t == rows::BF16)
		on_the_cpu<c10::BFloat16>(a);
	else
		on_the_cpu<c10::Half>(a);
}

bool packs(const at::Tensor &x)
{
	return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % (group_norm::PACK * x.element_size()) == 0;
}

bool is_like(const maybe &v, const at::Tensor &x)
{
	return v && v->scalar_type() == x.scalar_type() && v->device() == x.device() && v->is_contiguous() &&
	       packs(*v);
}

bool has_kernel(const at::Tensor &x, int64_t groups, const maybe &w, const maybe &b)
{
	if (x.dim() != 4 || x.is_contiguous() || !x.is_contiguous(at::MemoryFormat::ChannelsLast) ||
	    !x.numel() || !rows::can_run(x) || !is_like(w, x) || !is_like(b, x) || !packs(x))
		return false;
	if (at::GradMode::is_enabled() && (x.requires_grad() || w->requires_grad() || b->requires_grad()))
		return false;
	const int64_t c = x.size(1);
	return c % groups == 0 && c / groups % group_norm::PACK == 0 && x.size(0) < 65536 &&
	       c <= static_cast<int64_t>(group_norm::THREADS) * group_norm::PACK;
}

at::Tensor channels_last(const at::Tensor &x, int64_t groups, const at::Tensor &w, const at::Tensor &b,
			 double eps, bool silu)
{
	group_norm::args a = {};
	a.N = x.size(0), a.P = x.size(2) * x.size(3), a.C = x.size(1), a.G = groups;
	a.piece = group_norm::PIXELS * group_norm::pixels_at_once(a);
	a.pieces = (a.P + a.piece - 1) / a.piece;
	at::Tensor y = at::empty_like(x),
		   part = at::empty({ a.N, a.pieces, a.G, 2 }, x.options().dtype(at::kFloat)),
		   stat = at::empty({ a.N, a.G, 2 }, part.options());
	a.x = x.const_data_ptr(), a.w = w.const_data_ptr(), a.b = b.const_data_ptr(), a.y = y.data_ptr();
	a.part = part.data_ptr<float>(), a.stat = stat.data_ptr<float>();
	a.eps = static_cast<float>(eps), a.silu = silu;
	run(x, a);
	return y;
}

// On a GPU libtorch gives each group of a sample one block of threads: with one image of 32 groups most of
// the card waits (a third of float32's decoding on an H100). Its reductions use all of it.
at::Tensor by_aten(const at::Tensor &x, int64_t groups, const maybe &w, const maybe &b, double eps)
{
	constexpr int64_t ENOUGH = 1024; // groups that fill a card
	const int64_t n = x.size(0), c = x.size(1);

	if (!x.is_cuda() || x.scalar_type() != at::kFloat || n * groups >= ENOUGH || !w || !b)
		return at::group_norm(x, groups, w, b, eps);
	auto [var, mean] = at::var_mean(x.reshape({ n, groups, -1 }), at::IntArrayRef { 2 }, 0, true);
	at::Tensor scale = w->view({ 1, groups, c / groups }) * at::rsqrt(var + eps);
	at::Tensor shift = b->view({ 1, groups, c / groups }) - mean * scale;
	std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
	shape[0] = n, shape[1] = c;
	return at::addcmul(shift.reshape(shape), x, scale.reshape(shape));
}

at::Tensor norm(const at::Tensor &x, int64_t groups, at_t w, at_t b, double eps, bool silu)
{
	const maybe weight = w ? maybe(w->v) : c10::nullopt, bias = b ? maybe(b->v) : c10::nullopt;

	if (has_kernel(x, groups, weight, bias))
		return channels_last(x, groups, *weight, *bias, eps, silu);
	at::Tensor y = by_aten(x, groups, weight, bias, eps);
	return silu ? at::silu(y) : y;
}
} // namespace

extern "C" {
at_t at_channels_last(at_t x)
{
	return shim::call("at_channels_last", { x },
			  [&] { return x->v.contiguous(at::MemoryFormat::ChannelsLast); });
}
at_t at_conv2d_grouped(at_t x, at_t w, at_t b, int stride, int padding, int64_t groups)
{
	return shim::call("at_conv2d_grouped", { x, w }, { b }, [&] {
		std::optional<at::Tensor> bias;
		if (b)
			bias = b->v;
		return at::conv2d(x->v, w->v, bias, stride, padding, 1, groups);
	});
}
at_t at_group_norm(at_t x, int groups, at_t w, at_t b, double eps)
{
	return shim::call("at_group_norm", { x }, { w, b },
			  [&] { return norm(x->v, groups, w, b, eps, false); });
}
at_t at_group_norm_silu(at_t x, int groups, at_t w, at_t b, double eps)
{
	return shim::call("at_group_norm_silu", { x }, { w, b },
			  [&] { return norm(x->v, groups, w, b, eps, true); });
}
}
