// ops.cpp -- one wrapper is one ATen call.
#include "aten/shim.hpp"
#include <ATen/ATen.h>
#include <algorithm>

using shim::call;
using shim::run;

namespace
{
c10::optional<at::Tensor> maybe(at_t t)
{
	return t ? c10::optional<at::Tensor>(t->v) : c10::nullopt;
}

// Sixteen running sums over a piece of a fixed size, without fused multiply-adds: the same bits with every
// instruction set and any number of threads.
template <class T> inline __attribute__((always_inline)) double squares(const T *p, int64_t n)
{
	double s[16] = { 0 };
	int64_t i = 0;
	for (; i + 16 <= n; i += 16)
		for (int k = 0; k < 16; k++)
			s[k] += static_cast<double>(p[i + k]) * static_cast<double>(p[i + k]);
	for (; i < n; i++)
		s[0] += static_cast<double>(p[i]) * static_cast<double>(p[i]);
	for (int half = 8; half; half /= 2)
		for (int k = 0; k < half; k++)
			s[k] += s[k + half];
	return s[0];
}
KERNEL double squares_f32(const float *p, int64_t n)
{
	return squares(p, n);
}
KERNEL double squares_f64(const double *p, int64_t n)
{
	return squares(p, n);
}
} // namespace

extern "C" {
// ---- Arithmetic ------------------------------------------------------------------------------------------
at_t at_add_tt(at_t a, at_t b)
{
	return call("at_add", { a, b }, [&] { return at::add(a->v, b->v); });
}
at_t at_add_ts(at_t a, double b)
{
	return call("at_add", { a }, [&] { return at::add(a->v, b); });
}
at_t at_sub_tt(at_t a, at_t b)
{
	return call("at_sub", { a, b }, [&] { return at::sub(a->v, b->v); });
}
at_t at_sub_ts(at_t a, double b)
{
	return call("at_sub", { a }, [&] { return at::sub(a->v, b); });
}
at_t at_mul_tt(at_t a, at_t b)
{
	return call("at_mul", { a, b }, [&] { return at::mul(a->v, b->v); });
}
at_t at_mul_ts(at_t a, double b)
{
	return call("at_mul", { a }, [&] { return at::mul(a->v, b); });
}
at_t at_div_tt(at_t a, at_t b)
{
	return call("at_div", { a, b }, [&] { return at::div(a->v, b->v); });
}
at_t at_div_ts(at_t a, double b)
{
	return call("at_div", { a }, [&] { return at::div(a->v, b); });
}
at_t at_add_scaled(at_t a, at_t b, double scale)
{
	return call("at_add_scaled", { a, b }, [&] { return at::add(a->v, b->v, scale); });
}
at_t at_lerp_tt(at_t a, at_t b, at_t w)
{
	return call("at_lerp", { a, b, w }, [&] { return at::lerp(a->v, b->v, w->v); });
}
at_t at_lerp_ts(at_t a, at_t b, double w)
{
	return call("at_lerp", { a, b }, [&] { return at::lerp(a->v, b->v, w); });
}
at_t at_neg(at_t x)
{
	return call("at_neg", { x }, [&] { return at::neg(x->v); });
}
at_t at_abs(at_t x)
{
	return call("at_abs", { x }, [&] { return at::abs(x->v); });
}
at_t at_exp(at_t x)
{
	return call("at_exp", { x }, [&] { return at::exp(x->v); });
}
at_t at_log(at_t x)
{
	return call("at_log", { x }, [&] { return at::log(x->v); });
}
at_t at_sqrt(at_t x)
{
	return call("at_sqrt", { x }, [&] { return at::sqrt(x->v); });
}
at_t at_rsqrt(at_t x)
{
	return call("at_rsqrt", { x }, [&] { return at::rsqrt(x->v); });
}
at_t at_sin(at_t x)
{
	return call("at_sin", { x }, [&] { return at::sin(x->v); });
}
at_t at_cos(at_t x)
{
	return call("at_cos", { x }, [&] { return at::cos(x->v); });
}
at_t at_square(at_t x)
{
	return call("at_square", { x }, [&] { return at::mul(x->v, x->v); });
}
at_t at_pow(at_t x, double p)
{
	return call("at_pow", { x }, [&] { return at::pow(x->v, p); });
}
at_t at_clamp(at_t x, double lo, double hi)
{
	return call("at_clamp", { x }, [&] { return at::clamp(x->v, lo, hi); });
}
at_t at_minimum(at_t a, at_t b)
{
	return call("at_minimum", { a, b }, [&] { return at::minimum(a->v, b->v); });
}
at_t at_maximum(at_t a, at_t b)
{
	return call("at_maximum", { a, b }, [&] { return at::maximum(a->v, b->v); });
}
at_t at_floor(at_t x)
{
	return call("at_floor", { x }, [&] { return at::floor(x->v); });
}
at_t at_where(at_t cond, at_t a, at_t b)
{
	return call("at_where", { cond, a, b }, [&] { return at::where(cond->v, a->v, b->v); });
}
at_t at_lt(at_t a, double b)
{
	return call("at_lt", { a }, [&] { return at::lt(a->v, b); });
}
at_t at_ge(at_t a, double b)
{
	return call("at_ge", { a }, [&] { return at::ge(a->v, b); });
}

void at_add_(at_t a, at_t b)
{
	run("at_add_", { a, b }, [&] {
		at::NoGradGuard no_grad;
		shim::need_writable(a->v);
		a->v.add_(b->v);
	});
}
void at_add_scaled_(at_t a, at_t b, double scale)
{
	run("at_add_scaled_", { a, b }, [&] {
		at::NoGradGuard no_grad;
		shim::need_writable(a->v);
		a->v.add_(b->v, scale);
	});
}
void at_mul_(at_t a, double b)
{
	run("at_mul_", { a }, [&] {
		at::NoGradGuard no_grad;
		shim::need_writable(a->v);
		a->v.mul_(b);
	});
}
void at_zero_(at_t a)
{
	run("at_zero_", { a }, [&] {
		at::NoGradGuard no_grad;
		shim::need_writable(a->v);
		a->v.zero_();
	});
}
void at_lerp_(at_t a, at_t b, double w)
{
	run("at_lerp_", { a, b }, [&] {
		at::NoGradGuard no_grad;
		shim::need_writable(a->v);
		a->v.lerp_(b->v, w);
	});
}

// ---- Reductions ------------------------------------------------------------------------------------------
at_t at_sum(at_t x)
{
	return call("at_sum", { x }, [&] { return at::sum(x->v); });
}
at_t at_mean(at_t x)
{
	return call("at_mean", { x }, [&] { return at::mean(x->v); });
}
at_t at_sum_dim(at_t x, int dim, bool keep)
{
	return call("at_sum_dim", { x }, [&] { return at::sum(x->v, dim, keep); });
}
at_t at_mean_dim(at_t x, int dim, bool keep)
{
	return call("at_mean_dim", { x }, [&] { return at::mean(x->v, dim, keep); });
}
at_t at_mean_keep_batch(at_t x)
{
	return call("at_mean_keep_batch", { x }, [&] {
		std::vector<int64_t> dims;
		for (int64_t d = 1; d < x->v.dim(); d++)
			dims.push_back(d);
		return dims.empty() ? x->v.alias() : at::mean(x->v, dims, true); // no dims would mean all
	});
}
at_t at_max(at_t x)
{
	return call("at_max", { x }, [&] { return at::max(x->v); });
}
at_t at_min(at_t x)
{
	return call("at_min", { x }, [&] { return at::min(x->v); });
}
at_t at_argmax(at_t x, int dim)
{
	return call("at_argmax", { x }, [&] { return at::argmax(x->v, dim); });
}
at_t at_norm(at_t x)
{
	return call("at_norm", { x },
		    [&] { return at::linalg_vector_norm(x->v.to(at::kDouble)).to(x->v.scalar_type()); });
}
double at_sum_squares(at_t x)
{
	double out = 0;
	run("at_sum_squares", { x }, [&] {
		at::Tensor t = x->v.detach();
		if (!t.device().is_cpu()) {
			out = t.to(at::kDouble).square().sum().item<double>();
			return;
		}
		t = t.to(t.scalar_type() == at::kFloat ? at::kFloat : at::kDouble).contiguous();
		const int64_t n = t.numel(), piece = 1 << 15, pieces = (n + piece - 1) / piece;
		std::vector<double> part(static_cast<size_t>(pieces));
		shim::parallel(pieces, 4, [&](int64_t from, int64_t to) {
			for (int64_t i = from; i < to; i++) {
				int64_t at = i * piece, length = std::min(n - at, piece);
				part[static_cast<size_t>(i)] =
				    t.scalar_type() == at::kFloat
					? squares_f32(t.const_data_ptr<float>() + at, length)
					: squares_f64(t.const_data_ptr<double>() + at, length);
			}
		});
		for (double p : part)
			out += p;
	});
	return out;
}

// ---- Linear algebra and layers ---------------------------------------------------------------------------
at_t at_matmul(at_t a, at_t b)
{
	return call("at_matmul", { a, b }, [&] { return at::matmul(a->v, b->v); });
}
at_t at_addmm(at_t c, at_t a, at_t b, double beta, double alpha)
{
	return call("at_addmm", { c, a, b }, [&] { return at::addmm(c->v, a->v, b->v, beta, alpha); });
}
at_t at_linear(at_t x, at_t w, at_t b)
{
	return call("at_linear", { x, w }, { b }, [&] { return at::linear(x->v, w->v, maybe(b)); });
}
at_t at_conv2d(at_t x, at_t w, at_t b, int stride, int padding)
{
	return call("at_conv2d", { x, w }, { b },
		    [&] { return at::conv2d(x->v, w->v, maybe(b), stride, padding); });
}
at_t at_layer_norm(at_t x, at_t w, at_t b, double eps)
{
	return call("at_layer_norm", { x }, { w, b },
		    [&] { return at::layer_norm(x->v, { x->v.size(-1) }, maybe(w), maybe(b), eps); });
}
at_t at_silu(at_t x)
{
	return call("at_silu", { x }, [&] { return at::silu(x->v); });
}
at_t at_sigmoid(at_t x)
{
	return call("at_sigmoid", { x }, [&] { return at::sigmoid(x->v); });
}
at_t at_tanh(at_t x)
{
	return call("at_tanh", { x }, [&] { return at::tanh(x->v); });
}
at_t at_relu(at_t x)
{
	return call("at_relu", { x }, [&] { return at::relu(x->v); });
}
at_t at_softmax(at_t x, int dim)
{
	return call("at_softmax", { x }, [&] { return at::softmax(x->v, dim); });
}
at_t at_embedding(at_t table, at_t index)
{
	return call("at_embedding", { table, index }, [&] { return at::embedding(table->v, index->v); });
}
at_t at_upsample_nearest2(at_t x)
{
	return call("at_upsample_nearest2", { x }, [&] {
		return at::upsample_nearest2d(x->v, { 2 * x->v.size(2), 2 * x->v.size(3) }, c10::nullopt,
					      c10::nullopt);
	});
}
}
