// attention.cpp -- scaled dot-product attention; on the CPU in float32 a kernel of its own for short
// sequences.
//
// libtorch's CPU kernel calls a BLAS product per head and block, which costs more than the arithmetic when a
// head has a few dozen tokens. Here a head's whole work stays in the first-level cache: keys and values are
// turned once, four queries share each of their rows, and the backward computes the weights again from the
// stored log-sum-exp.
//
// Measured with bench_kernels (one thread, 96 samples of 4 heads), us for libtorch's fused kernel -> this
// one; libtorch's products and softmax are slower than its fused kernel in every forward:
//   I x J x K        forward           and backward        forward         and backward
//                    Zen 4, AVX-512                        Zen 3, AVX2
//   46 x 46 x 32     4019 -> 2471      12782 -> 6101       4521 -> 2812    15182 ->  7637
//   28 x 28 x 32     1864 -> 1158       4694 -> 2766       1990 -> 1229     6971 ->  5225
//   19 x 19 x 32      961 ->  833       2924 -> 1972       1178 ->  757     4643 ->  2104
//    9 x 28 x 32      747 ->  424       2059 -> 1080        783 ->  620     3382 ->  2214
//   64 x 64 x 64     8871 -> 6295      29444 -> 22003      9552 -> 7427    33978 -> 24343
//
// Shapes: B batch, H heads, I queries, J keys, K width of a head.
#include "aten/kernels/lanes.hpp"
#include "aten/shim.hpp"
#include <ATen/SDPBackend.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <cmath>
#include <torch/csrc/autograd/custom_function.h>

namespace
{
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using namespace lanes;

heads operand(const at::Tensor &x)
{
	return { const_cast<float *>(x.const_data_ptr<float>()), x.stride(0), x.stride(1), x.stride(2) };
}

// (B, H, S, K) laid out as (B, S, H, K), the layout of the products on both sides of an attention.
at::Tensor empty_like_tokens(const at::Tensor &x)
{
	return at::empty({ x.size(0), x.size(2), x.size(1), x.size(3) }, x.options()).transpose(1, 2);
}

struct SmallAttention : torch::autograd::Function<SmallAttention> {
	static attention arguments(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
				   const at::Tensor &o, const at::Tensor &stat, double scale)
	{
		attention a = {};
		a.H = q.size(1), a.I = static_cast<int>(q.size(2)), a.J = static_cast<int>(k.size(2));
		a.K = static_cast<int>(q.size(3));
		a.scale = static_cast<float>(scale);
		a.q = operand(q), a.k = operand(k), a.v = operand(v), a.o = operand(o);
		a.stat = stat.data_ptr<float>();
		return a;
	}

	// Heads a thread takes at least.
	static int64_t grain(const attention &a)
	{
		return std::max<int64_t>(1, (1 << 17) / (static_cast<int64_t>(a.I) * a.J * a.K));
	}

	static at::Tensor forward(AutogradContext *ac, const at::Tensor &q, const at::Tensor &k,
				  const at::Tensor &v, double scale)
	{
		at::Tensor o = empty_like_tokens(q),
			   stat = at::empty({ q.size(0), q.size(1), q.size(2), 2 }, q.options());
		attention a = arguments(q, k, v, o, stat, scale);
		shim::parallel(q.size(0) * a.H, grain(a),
			       [&](int64_t from, int64_t to) { best()->attend(a, from, to); });
		ac->save_for_backward({ q, k, v, o, stat });
		ac->saved_data["scale"] = scale;
		return o;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor q = saved[0], k = saved[1], v = saved[2], gq, gk, gv;
		at::Tensor g = grad[0].stride(3) == 1 ? grad[0] : grad[0].contiguous();
		attention a = arguments(q, k, v, saved[3], saved[4], ac->saved_data["scale"].toDouble());
		a.g = operand(g);
		if (ac->needs_input_grad(0))
			a.gq = operand(gq = empty_like_tokens(q));
		if (ac->needs_input_grad(1))
			a.gk = operand(gk = empty_like_tokens(k));
		if (ac->needs_input_grad(2))
			a.gv = operand(gv = empty_like_tokens(v));
		shim::parallel(q.size(0) * a.H, grain(a),
			       [&](int64_t from, int64_t to) { best()->attend_back(a, from, to); });
		return { gq, gk, gv, at::Tensor() };
	}
};

bool is_small(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v)
{
	for (const at::Tensor &x : { q, k, v })
		if (!shim::is_f32(x) || x.dim() != 4 || x.stride(3) != 1 || x.numel() == 0 ||
		    x.size(0) != q.size(0) || x.size(1) != q.size(1) || x.size(2) > LONGEST ||
		    x.size(3) != q.size(3))
			return false;
	return k.size(2) == v.size(2) && q.size(3) % STEP == 0 && q.size(3) <= WIDEST;
}

at::Tensor sdpa(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &bias,
		bool causal, double scale)
{
	if (!bias.defined() && !causal && scale >= 0 && best() && is_small(q, k, v))
		return SmallAttention::apply(
		    q, k, v, scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(q.size(3))));
	return at::scaled_dot_product_attention(
	    q, k, v, bias.defined() ? c10::optional<at::Tensor>(bias) : c10::nullopt, 0.0, causal,
	    scale != 0 ? c10::optional<double>(scale) : c10::nullopt, k.size(1) != q.size(1));
}

const char *kernel_of(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v)
{
	if (best() && is_small(q, k, v))
		return "short";
	switch (static_cast<at::SDPBackend>(at::_fused_sdp_choice(q, k, v))) {
	case at::SDPBackend::flash_attention:
		return "flash";
	case at::SDPBackend::efficient_attention:
		return "efficient";
	case at::SDPBackend::cudnn_attention:
		return "cudnn";
	case at::SDPBackend::overrideable:
		return "the device's own";
	default:
		return "math";
	}
}
} // namespace

extern "C" {
at_t at_sdpa(at_t q, at_t k, at_t v, at_t bias, bool causal, double scale)
{
	return shim::call("at_sdpa", { q, k, v }, { bias }, [&] {
		return sdpa(q->v, k->v, v->v, bias ? bias->v : at::Tensor(), causal, scale);
	});
}

const char *at_sdpa_kernel(at_t q, at_t k, at_t v)
{
	const char *name = nullptr;

	shim::run("at_sdpa_kernel", { q, k, v }, [&] { name = kernel_of(q->v, k->v, v->v); });
	return name;
}
}
