// activation.cpp -- GELU with the tanh approximation, in float32 on the CPU; otherwise ATen's.
//
// x (1 + tanh u) / 2 is x / (1 + e^-2u) with 2u = x (a + b x^2): one exponential and one division. libtorch's
// tanh made this op as dear as the product before it. Measured with bench_kernels (Zen, AVX-512, one thread,
// 4416 x 384), us: forward 2822 -> 798, and backward 5902 -> 1819; with AVX2, 5807 -> 1399 and 11952 -> 3158.
#include "aten/kernels/lanes.hpp"
#include "aten/shim.hpp"
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <torch/csrc/autograd/custom_function.h>

namespace
{
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using namespace lanes;

constexpr int64_t GRAIN = 1 << 14;

struct Gelu : torch::autograd::Function<Gelu> {
	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x)
	{
		at::Tensor y = at::empty_like(x);
		const float *px = x.const_data_ptr<float>();
		float *py = y.data_ptr<float>();
		shim::parallel(x.numel(), GRAIN, [&](int64_t from, int64_t to) {
			best()->gelu(px + from, py + from, to - from);
		});
		ac->save_for_backward({ x });
		return y;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		at::Tensor x = ac->get_saved_variables()[0], g = grad[0].contiguous(), gx = at::empty_like(x);
		const float *px = x.const_data_ptr<float>(), *pg = g.const_data_ptr<float>();
		float *pgx = gx.data_ptr<float>();
		shim::parallel(x.numel(), GRAIN, [&](int64_t from, int64_t to) {
			best()->gelu_back(px + from, pg + from, pgx + from, to - from);
		});
		return { gx };
	}
};
} // namespace

at::Tensor shim::gelu_tanh(const at::Tensor &x)
{
	if (lanes::best() && is_f32(x) && x.is_contiguous())
		return Gelu::apply(x);
	return at::gelu(x, "tanh");
}

extern "C" at_t at_gelu(at_t x, bool tanh_approximation)
{
	return shim::call("at_gelu", { x }, [&] {
		return tanh_approximation ? shim::gelu_tanh(x->v) : at::gelu(x->v, "none");
	});
}
