// low_rank.cpp -- a product with a low-rank one beside it, summed in float32 and rounded together.
//
// In 16 bits, W x rounded and then B A x added loses what is smaller than half a step of the sum's grid, as
// W + B A rounded does. One product of (W, B) with (x, A x) loses nothing but by its own rounding.
#include "aten/shim.hpp"
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <optional>
#include <torch/csrc/autograd/custom_function.h>

namespace
{
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using maybe_tensor =
    std::optional<at::Tensor>; // autograd numbers the tensors that are there: these come last

struct LowRank : torch::autograd::Function<LowRank> {
	enum { X, A, B };

	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &a,
				  const at::Tensor &b, const at::Tensor &w, const maybe_tensor &bias,
				  const maybe_tensor &wide)
	{
		at::Tensor h = at::linear(x, a);
		// not `wide`: the base's weight is there anyway
		ac->save_for_backward({ x, a, b, w, h });
		return at::linear(at::cat({ x, h }, 1), wide ? *wide : at::cat({ w, b }, 1), bias);
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor x = saved[0], a = saved[1], b = saved[2], w = saved[3], h = saved[4];
		at::Tensor g = grad[0].contiguous(), gh = at::mm(g, b), gx, ga, gb;

		if (ac->needs_input_grad(X))
			gx = at::addmm(at::mm(gh, a), g, w);
		if (ac->needs_input_grad(A))
			ga = at::mm(gh.t(), x);
		if (ac->needs_input_grad(B))
			gb = at::mm(g.t(), h);
		return { gx, ga, gb, at::Tensor(), at::Tensor(), at::Tensor() };
	}
};

maybe_tensor optional_tensor(at_t t)
{
	return t ? maybe_tensor(t->v) : std::nullopt;
}

at::Tensor low_rank(const at::Tensor &x, const at::Tensor &w, const maybe_tensor &bias, const at::Tensor &a,
		    const at::Tensor &b, const maybe_tensor &wide)
{
	auto shape = x.sizes().vec();
	shape.back() = w.size(0);
	if (at::GradMode::is_enabled() && (w.requires_grad() || (bias && bias->requires_grad())))
		throw std::runtime_error("the weight and the bias take no gradient");
	return LowRank::apply(x.reshape({ -1, x.size(-1) }), a, b, w, bias, wide).view(shape);
}
} // namespace

extern "C" {
at_t at_linear_low_rank(at_t x, at_t w, at_t bias, at_t a, at_t b, at_t wide)
{
	return shim::call("at_linear_low_rank", { x, w, a, b }, { bias, wide }, [&] {
		return low_rank(x->v, w->v, optional_tensor(bias), a->v, b->v, optional_tensor(wide));
	});
}
}
