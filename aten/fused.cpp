// fused.cpp -- ops of several formulas in one pass over memory on the CPU in float32; elsewhere the ATen
// composition. A row is one thread's work from end to end, so no result depends on the number of threads.
#include "aten/shim.hpp"
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>
#include <cmath>
#include <torch/csrc/autograd/custom_function.h>

namespace
{
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows a thread takes at least: below that, waking a second thread costs more than it saves.
int64_t grain(int64_t width)
{
	return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width));
}

// ---- layer_norm(x) * (1 + scale) + shift -----------------------------------------------------------------
// x (B, S, D) contiguous; shift and scale (B, 1, D) with unit stride over D: slices of one tensor.
struct modulate_args {
	int64_t S, D, shift_stride, scale_stride;
	const float *x, *shift, *scale, *g;
	float *y, *stat;             // stat: mean and 1 / std of each row
	float *gx, *gshift, *gscale; // NULL: not wanted
	float eps;
};

KERNEL void modulate_rows(const modulate_args &m, int64_t from, int64_t to)
{
	const int64_t D = m.D;
	for (int64_t i = from; i < to; i++) {
		const float *a = m.x + i * D, *b = m.shift + i / m.S * m.shift_stride,
			    *c = m.scale + i / m.S * m.scale_stride;
		float *o = m.y + i * D, mean = 0, var = 0;
#pragma omp simd reduction(+ : mean)
		for (int64_t d = 0; d < D; d++)
			mean += a[d];
		mean /= static_cast<float>(D);
#pragma omp simd reduction(+ : var)
		for (int64_t d = 0; d < D; d++)
			var += (a[d] - mean) * (a[d] - mean);
		float r = 1 / std::sqrt(var / static_cast<float>(D) + m.eps);
#pragma omp simd
		for (int64_t d = 0; d < D; d++)
			o[d] = (a[d] - mean) * r * (1 + c[d]) + b[d];
		m.stat[2 * i] = mean;
		m.stat[2 * i + 1] = r;
	}
}

KERNEL void modulate_back(const modulate_args &m, int64_t from, int64_t to)
{
	const int64_t S = m.S, D = m.D;
	for (int64_t b = from; b < to; b++) {
		const float *c = m.scale + b * m.scale_stride;
		float *osh = m.gshift ? m.gshift + b * D : nullptr,
		      *osc = m.gscale ? m.gscale + b * D : nullptr;
		for (int64_t i = b * S; i < (b + 1) * S; i++) {
			const float *a = m.x + i * D, *u = m.g + i * D;
			float mean = m.stat[2 * i], r = m.stat[2 * i + 1], m1 = 0, m2 = 0;
			if (osh)
#pragma omp simd
				for (int64_t d = 0; d < D; d++)
					osh[d] += u[d];
			if (osc)
#pragma omp simd
				for (int64_t d = 0; d < D; d++)
					osc[d] += u[d] * (a[d] - mean) * r;
			if (!m.gx)
				continue;
#pragma omp simd reduction(+ : m1, m2)
			for (int64_t d = 0; d < D; d++) {
				float h = u[d] * (1 + c[d]);
				m1 += h;
				m2 += h * (a[d] - mean) * r;
			}
			m1 /= static_cast<float>(D);
			m2 /= static_cast<float>(D);
			float *o = m.gx + i * D;
#pragma omp simd
			for (int64_t d = 0; d < D; d++)
				o[d] = r * (u[d] * (1 + c[d]) - m1 - (a[d] - mean) * r * m2);
		}
	}
}

struct Modulate : torch::autograd::Function<Modulate> {
	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &shift,
				  const at::Tensor &scale, double eps)
	{
		int64_t rows = x.size(0) * x.size(1);
		at::Tensor y = at::empty_like(x), stat = at::empty({ rows, 2 }, x.options());
		modulate_args m = {};
		m.S = x.size(1), m.D = x.size(2), m.eps = static_cast<float>(eps);
		m.shift_stride = shift.stride(0), m.scale_stride = scale.stride(0);
		m.x = x.const_data_ptr<float>(), m.shift = shift.const_data_ptr<float>();
		m.scale = scale.const_data_ptr<float>();
		m.y = y.data_ptr<float>(), m.stat = stat.data_ptr<float>();
		shim::parallel(rows, grain(m.D),
			       [&](int64_t from, int64_t to) { modulate_rows(m, from, to); });
		ac->save_for_backward({ x, scale, stat });
		return y;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor x = saved[0], scale = saved[1], stat = saved[2], g = grad[0].contiguous();
		at::Tensor gx, gshift, gscale;
		modulate_args m = {};
		m.S = x.size(1), m.D = x.size(2), m.scale_stride = scale.stride(0);
		m.x = x.const_data_ptr<float>(), m.g = g.const_data_ptr<float>();
		m.scale = scale.const_data_ptr<float>(), m.stat = stat.data_ptr<float>();
		if (ac->needs_input_grad(0)) {
			gx = at::empty_like(x);
			m.gx = gx.data_ptr<float>();
		}
		if (ac->needs_input_grad(1)) {
			gshift = at::zeros({ x.size(0), 1, m.D }, x.options());
			m.gshift = gshift.data_ptr<float>();
		}
		if (ac->needs_input_grad(2)) {
			gscale = at::zeros({ x.size(0), 1, m.D }, x.options());
			m.gscale = gscale.data_ptr<float>();
		}
		shim::parallel(x.size(0), grain(m.S * m.D),
			       [&](int64_t from, int64_t to) { modulate_back(m, from, to); });
		return { gx, gshift, gscale, at::Tensor() };
	}
};

// (B, 1, D) for an x of (B, S, D), its rows in one piece.
bool is_row_per_sample(const at::Tensor &v, const at::Tensor &x)
{
	return shim::is_f32(v) && v.dim() == 3 && v.size(0) == x.size(0) && v.size(1) == 1 &&
	       v.size(2) == x.size(2) && v.stride(2) == 1;
}

at::Tensor modulate(const at::Tensor &x, const at::Tensor &shift, const at::Tensor &scale, double eps)
{
	if (shim::is_f32(x) && x.dim() == 3 && x.is_contiguous() && is_row_per_sample(shift, x) &&
	    is_row_per_sample(scale, x))
		return Modulate::apply(x, shift, scale, eps);
	return at::layer_norm(x, { x.size(-1) }, {}, {}, eps) * (scale + 1) + shift;
}

// ---- RMS norm over the last dimension --------------------------------------------------------------------
// x is any 4-d view with unit stride over its last dimension: heads of a stacked projection.
struct view4 {
	int64_t n[3], s[3], K, count;
	explicit view4(const at::Tensor &x) : K(x.size(3)), count(x.size(0) * x.size(1) * x.size(2))
	{
		for (int i = 0; i < 3; i++) {
			n[i] = x.size(i);
			s[i] = x.stride(i);
		}
	}
	int64_t at(int64_t i) const
	{
		return i / (n[1] * n[2]) * s[0] + i / n[2] % n[1] * s[1] + i % n[2] * s[2];
	}
};

KERNEL void rms_rows(const view4 &in, const float *x, const float *w, float *y, float *rstd, float eps,
		     int64_t from, int64_t to)
{
	const int64_t K = in.K;
	for (int64_t i = from; i < to; i++) {
		const float *a = x + in.at(i);
		float *o = y + i * K, sum = 0;
#pragma omp simd reduction(+ : sum)
		for (int64_t k = 0; k < K; k++)
			sum += a[k] * a[k];
		float r = 1 / std::sqrt(sum / static_cast<float>(K) + eps);
#pragma omp simd
		for (int64_t k = 0; k < K; k++)
			o[k] = a[k] * r * w[k];
		rstd[i] = r;
	}
}

// gx of the rows [from, to) and, unless gw is NULL, their part of the weight's gradient.
KERNEL void rms_back(const view4 &in, const view4 &up, const float *x, const float *w, const float *g,
		     const float *rstd, float *gx, float *gw, int64_t from, int64_t to)
{
	const int64_t K = in.K;
	for (int64_t i = from; i < to; i++) {
		const float *a = x + in.at(i), *u = g + up.at(i);
		float *o = gx + i * K, dot = 0, r = rstd[i];
#pragma omp simd reduction(+ : dot)
		for (int64_t k = 0; k < K; k++)
			dot += u[k] * w[k] * a[k];
		dot *= r * r / static_cast<float>(K);
#pragma omp simd
		for (int64_t k = 0; k < K; k++)
			o[k] = r * (u[k] * w[k] - a[k] * dot);
		if (gw)
#pragma omp simd
			for (int64_t k = 0; k < K; k++)
				gw[k] += u[k] * a[k] * r;
	}
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &w, double eps)
	{
		view4 in(x);
		at::Tensor y = at::empty(x.sizes(), x.options()), rstd = at::empty({ in.count }, x.options());
		const float *px = x.const_data_ptr<float>(), *pw = w.const_data_ptr<float>();
		float *py = y.data_ptr<float>(), *pr = rstd.data_ptr<float>();
		shim::parallel(in.count, grain(in.K), [&](int64_t from, int64_t to) {
			rms_rows(in, px, pw, py, pr, static_cast<float>(eps), from, to);
		});
		ac->save_for_backward({ x, w, rstd });
		return y;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor x = saved[0], w = saved[1], rstd = saved[2], gw;
		at::Tensor g = grad[0].stride(3) == 1 ? grad[0] : grad[0].contiguous();
		at::Tensor gx = at::empty(x.sizes(), x.options());
		view4 in(x), up(g);
		const float *px = x.const_data_ptr<float>(), *pg = g.const_data_ptr<float>(),
			    *pw = w.const_data_ptr<float>(), *pr = rstd.const_data_ptr<float>();
		float *pgx = gx.data_ptr<float>(), *pgw = nullptr;
		// The weight's gradient is summed piece by piece: pieces of a fixed size, whatever the
		// threads.
		const int64_t piece = 8 * grain(in.K), pieces = (in.count + piece - 1) / piece;
		if (ac->needs_input_grad(1)) {
			gw = at::zeros({ pieces, in.K }, x.options());
			pgw = gw.data_ptr<float>();
		}
		shim::parallel(pieces, 1, [&](int64_t from, int64_t to) {
			for (int64_t i = from; i < to; i++)
				rms_back(in, up, px, pw, pg, pr, pgx, pgw ? pgw + i * in.K : nullptr,
					 i * piece, std::min(in.count, (i + 1) * piece));
		});
		return { gx, pgw ? gw.sum(0) : gw, at::Tensor() };
	}
};

at::Tensor rms_norm(at::Tensor x, at::Tensor w, double eps)
{
	int64_t K = x.size(-1);
	if (w.defined() && w.numel() != K)
		throw std::runtime_error("the weight needs one value for each of x's last dimension");
	if (shim::is_f32(x) && x.dim() <= 4 && (x.stride(-1) == 1 || K == 1) && K > 0 &&
	    (!w.defined() || (shim::is_f32(w) && w.is_contiguous()))) {
		at::Tensor full = x, one = w.defined() ? w.view(K) : at::ones({ K }, x.options());
		while (full.dim() < 4)
			full = full.unsqueeze(0);
		return RmsNorm::apply(full, one, eps).view(x.sizes());
	}
	at::Tensor f = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
	at::Tensor y = (f * at::rsqrt((f * f).mean(-1, true) + eps)).to(x.scalar_type());
	return w.defined() ? y * w : y;
}

// ---- AdamW --------------------------------------------------------------------------------------
struct adamw_args {
	float *theta, *m, *v;
	const float *g;
	float keep, f1, f2, g2, rate, root, tiny;
};

KERNEL void adamw_piece(const adamw_args &a, int64_t from, int64_t to)
{
	float *theta = a.theta, *m = a.m, *v = a.v;
	const float *g = a.g;
#pragma omp simd
	for (int64_t i = from; i < to; i++) {
		m[i] += a.f1 * (g[i] - m[i]);
		v[i] = a.f2 * v[i] + a.g2 * g[i] * g[i];
		theta[i] = a.keep * theta[i] - a.rate * m[i] / (std::sqrt(v[i]) / a.root + a.tiny);
	}
}

void adamw(const at::Tensor &theta, const at::Tensor &grad, const at::Tensor &m, const at::Tensor &v,
	   double lr, double b1, double b2, double eps, double wd, int64_t step)
{
	if (grad.sizes() != theta.sizes() || m.sizes() != theta.sizes() || v.sizes() != theta.sizes())
		throw std::runtime_error("parameters, gradient and moments differ in shape");
	if (step < 1)
		throw std::runtime_error("steps count from 1");
	double c1 = 1 - std::pow(b1, static_cast<double>(step)),
	       c2 = std::sqrt(1 - std::pow(b2, static_cast<double>(step)));
	bool fused = true;
	for (const at::Tensor &x : { theta, grad, m, v })
		fused = fused && shim::is_f32(x) && x.is_contiguous();
	if (!fused) {
		theta.mul_(1 - lr * wd);
		m.lerp_(grad, 1 - b1);
		v.mul_(b2).addcmul_(grad, grad, 1 - b2);
		theta.addcdiv_(m, v.sqrt().div_(c2).add_(eps), -lr / c1);
		return;
	}
	adamw_args a = { theta.data_ptr<float>(),
			 m.data_ptr<float>(),
			 v.data_ptr<float>(),
			 grad.const_data_ptr<float>(),
			 static_cast<float>(1 - lr * wd),
			 static_cast<float>(1 - b1),
			 static_cast<float>(b2),
			 static_cast<float>(1 - b2),
			 static_cast<float>(lr / c1),
			 static_cast<float>(c2),
			 static_cast<float>(eps) };
	shim::parallel(theta.numel(), 1 << 15, [&](int64_t from, int64_t to) { adamw_piece(a, from, to); });
}
} // namespace

extern "C" {
at_t at_modulate(at_t x, at_t shift, at_t scale, double eps)
{
	return shim::call("at_modulate", { x, shift, scale },
			  [&] { return modulate(x->v, shift->v, scale->v, eps); });
}

at_t at_rms_norm(at_t x, at_t w, double eps)
{
	return shim::call("at_rms_norm", { x }, { w },
			  [&] { return rms_norm(x->v, w ? w->v : at::Tensor(), eps); });
}

void at_adamw_(at_t theta, at_t grad, at_t m, at_t v, double lr, double beta1, double beta2, double eps,
	       double weight_decay, int64_t step)
{
	shim::run("at_adamw_", { theta, grad, m, v }, [&] {
		at::NoGradGuard no_grad;
		for (at_t t : { theta, m, v })
			shim::need_writable(t->v);
		adamw(theta->v.detach(), grad->v, m->v, v->v, lr, beta1, beta2, eps, weight_decay, step);
	});
}
}
