// rope.cpp -- rotary positions: pairs of a head's channels turned by angles.
#include "aten/shim.hpp"
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace
{
// In float32 at least: in 16 bits a turned vector would lose some of its length.  A pair is a complex number,
// and turning it one product.
at::Tensor turned(const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin, bool half)
{
	auto kind = at::promoteTypes(x.scalar_type(), at::kFloat);
	int64_t E = cos.size(-1);
	at::Tensor turn = at::complex(cos.to(kind), sin.to(kind)).unsqueeze(-2); // (..., S, 1, E)
	at::Tensor pair = half ? x.unflatten(-1, { 2, E }).transpose(-1, -2) : x.unflatten(-1, { E, 2 });
	at::Tensor y = at::view_as_real(at::view_as_complex(pair.to(kind).contiguous()) * turn);

	return (half ? y.transpose(-1, -2) : y).flatten(-2).to(x.scalar_type());
}

// The gradient turns back: nothing of x is kept.
struct Rope : torch::autograd::Function<Rope> {
	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &cos,
				  const at::Tensor &sin, bool half)
	{
		ac->save_for_backward({ cos, sin });
		ac->saved_data["half"] = half;
		return turned(x, cos, sin, half);
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();

		return { turned(grad[0], saved[0], saved[1].neg(), ac->saved_data["half"].toBool()),
			 at::Tensor(), at::Tensor(), at::Tensor() };
	}
};

at::Tensor rope(const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin, bool half)
{
	bool fits = x.dim() == 4 && (cos.dim() == 2 || (cos.dim() == 3 && cos.size(0) == x.size(0))) &&
		    cos.sizes() == sin.sizes() && cos.size(-2) == x.size(1) && 2 * cos.size(-1) == x.size(3);
	if (!fits)
		throw std::runtime_error("x is (B, S, H, K), cos and sin are (S, K / 2) or (B, S, K / 2)");
	if (cos.requires_grad() || sin.requires_grad())
		throw std::runtime_error("positions have no gradient");
	return Rope::apply(x, cos, sin, half);
}
} // namespace

extern "C" at_t at_rope(at_t x, at_t cos, at_t sin, bool half)
{
	return shim::call("at_rope", { x, cos, sin }, [&] { return rope(x->v, cos->v, sin->v, half); });
}
