// linear.cpp -- products with something attached: an activation, an adapter's product, weights in 8 bits.
#include "aten/kernels/rows_run.hpp"
#include "aten/shim.hpp"
#include <ATen/TensorOperators.h>
#include <ATen/ops/_addmm_activation.h>
#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/where.h>

namespace
{
constexpr auto E4M3 = at::kFloat8_e4m3fn;
constexpr double LARGEST = 448; // of E4M3

at::Tensor optional_tensor(at_t t)
{
	return t ? t->v : at::Tensor();
}

at::Tensor linear_gelu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b)
{
	bool plain = at::GradMode::is_enabled() &&
		     (x.requires_grad() || w.requires_grad() || (b.defined() && b.requires_grad()));
	// cuBLASLt's epilogue is the tanh approximation; ATen's CPU version of the same op is not. It is
	// exact to 16 bits, not to 32.
	if (x.is_cuda() && x.scalar_type() != at::kFloat && b.defined() && !plain) {
		at::Tensor rows = x.reshape({ -1, x.size(-1) });
		auto shape = x.sizes().vec();
		shape.back() = w.size(0);
		return at::_addmm_activation(b, rows, w.t(), 1, 1, true).view(shape);
	}
	return shim::gelu_tanh(at::linear(x, w, b));
}

// Each row over its largest value, in E4M3. The kernel's bytes are those of the ops, in one pass for their
// seven.
std::pair<at::Tensor, at::Tensor> quantise(const at::Tensor &x)
{
	if (rows::on_gpu(x) && rows::can_run(x) && x.dim() == 2 && x.numel() > 0 && x.is_contiguous() &&
	    rows::packs(x)) {
		at::Tensor bytes = at::empty(x.sizes(), x.options().dtype(E4M3)),
			   scale = at::empty({ x.size(0), 1 }, x.options().dtype(at::kFloat));
		rows::quantise_args a = {};
		a.rows = x.size(0), a.C = x.size(1), a.x = x.const_data_ptr();
		a.y = static_cast<uint8_t *>(bytes.data_ptr()), a.scale = scale.data_ptr<float>();
		rows::quantise(x, a);
		return { bytes, scale };
	}
	// a tensor divides: ATen multiplies by the inverse of a number on a GPU
	at::Tensor f = x.to(at::kFloat),
		   scale = at::amax(f.abs(), { -1 }, true) / at::full({ 1 }, LARGEST, f.options());
	scale = at::where(scale > 0, scale, 1.0);
	return { (f / scale).clamp(-LARGEST, LARGEST).to(E4M3), scale };
}

at::Tensor linear_fp8(const at::Tensor &x, const at::Tensor &bytes, const at::Tensor &w_scale,
		      const at::Tensor &b)
{
	at::Tensor rows = x.reshape({ -1, x.size(-1) }), w = bytes.view(E4M3), y;
	auto shape = x.sizes().vec();

	shape.back() = w.size(0);
	auto [q, q_scale] = quantise(rows);
	if (x.is_cuda()) {
		c10::optional<at::Tensor> bias;
		if (b.defined())
			bias = b.to(at::kBFloat16);
		y = at::_scaled_mm(q, w.t(), q_scale, w_scale.view({ 1, -1 }), bias, c10::nullopt,
				   at::kBFloat16, true);
	} else { // the same numbers, by products in float32
		at::Tensor a = q.to(at::kFloat) * q_scale, c = w.to(at::kFloat) * w_scale.view({ -1, 1 });
		y = at::linear(a, c, b.defined() ? b.to(at::kFloat) : b);
	}
	return y.to(x.scalar_type()).view(shape);
}
} // namespace

extern "C" {
at_t at_addmm_(at_t c, at_t a, at_t b, double beta, double alpha)
{
	return shim::call("at_addmm_", { c, a, b }, [&] {
		shim::need_writable(c->v);
		return c->v.addmm_(a->v, b->v, beta, alpha);
	});
}

at_t at_linear_gelu(at_t x, at_t w, at_t b)
{
	return shim::call("at_linear_gelu", { x, w }, { b },
			  [&] { return linear_gelu(x->v, w->v, optional_tensor(b)); });
}

void at_quantise_rows(at_t x, at_t *bytes, at_t *scale)
{
	shim::run("at_quantise_rows", { x }, [&] {
		at::NoGradGuard no_grad;
		auto [q, s] = quantise(x->v);
		*bytes = shim::wrap("at_quantise_rows", q.view(at::kByte));
		*scale = shim::wrap("at_quantise_rows", s.squeeze(-1));
	});
}

at_t at_linear_fp8(at_t x, at_t bytes, at_t scale, at_t b)
{
	return shim::call("at_linear_fp8", { x, bytes, scale }, { b }, [&] {
		at::NoGradGuard no_grad;
		return linear_fp8(x->v, bytes->v, scale->v, optional_tensor(b));
	});
}
}
