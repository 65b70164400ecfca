// fused.cpp -- ops of several formulas in one pass over memory, each with the ATen composition as its
// fallback.
#include "aten/shim.hpp"
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <cmath>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/version.h>

// Compiled for several instruction sets, chosen at load time; `omp simd` fixes the order of the sums.
#define KERNEL __attribute__((target_clones("avx512f", "avx2", "default")))

namespace
{
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows a thread takes at least: below that, waking a second thread costs more than it saves.
int64_t grain(int64_t width)
{
	return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width));
}

bool plain_f32(const at::Tensor &x)
{
	return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous();
}

// ---- layer_norm(x) * (1 + scale) + shift
// --------------------------------------------------------------------------- x (B, S, D) contiguous; shift
// and scale (B, 1, D) of any batch stride, unit stride over D.
struct modulate_args {
	int64_t S, D, shift_stride, scale_stride;
	const float *x, *shift, *scale, *g;
	float *y, *stat; // stat: mean and 1 / std of each row
	float *gx, *gshift, *gscale;
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
				for (int64_t d = 0; d < D; d++) {
					osh[d] += u[d];
					osc[d] += u[d] * (a[d] - mean) * r;
				}
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
		m.x = x.data_ptr<float>(), m.shift = shift.data_ptr<float>(),
		m.scale = scale.data_ptr<float>();
		m.y = y.data_ptr<float>(), m.stat = stat.data_ptr<float>();
		at::parallel_for(0, rows, grain(m.D),
				 [&](int64_t from, int64_t to) { modulate_rows(m, from, to); });
		ac->save_for_backward({ x, scale, stat });
		ac->saved_data["need"] =
		    std::vector<int64_t> { x.requires_grad(), shift.requires_grad(), scale.requires_grad() };
		return y;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		auto need = ac->saved_data["need"].toIntVector();
		at::Tensor x = saved[0], scale = saved[1], stat = saved[2], g = grad[0].contiguous(), gx, gsh,
			   gsc;
		modulate_args m = {};
		m.S = x.size(1), m.D = x.size(2), m.scale_stride = scale.stride(0);
		m.x = x.data_ptr<float>(), m.g = g.data_ptr<float>(), m.scale = scale.data_ptr<float>();
		m.stat = stat.data_ptr<float>();
		if (need[0]) {
			gx = at::empty_like(x);
			m.gx = gx.data_ptr<float>();
		}
		if (need[1] || need[2]) {
			gsh = at::zeros({ x.size(0), 1, m.D }, x.options());
			gsc = at::zeros({ x.size(0), 1, m.D }, x.options());
			m.gshift = gsh.data_ptr<float>(), m.gscale = gsc.data_ptr<float>();
		}
		at::parallel_for(0, x.size(0), grain(m.S * m.D),
				 [&](int64_t from, int64_t to) { modulate_back(m, from, to); });
		return { gx, need[1] ? gsh : at::Tensor(), need[2] ? gsc : at::Tensor(), at::Tensor() };
	}
};

at::Tensor modulate(const at::Tensor &x, const at::Tensor &shift, const at::Tensor &scale, double eps)
{
	bool fused = plain_f32(x) && x.dim() == 3 && shift.dim() == 3 && scale.dim() == 3 &&
		     shift.size(1) == 1 && scale.size(1) == 1 && shift.size(0) == x.size(0) &&
		     scale.size(0) == x.size(0) && shift.size(2) == x.size(2) && scale.size(2) == x.size(2) &&
		     shift.stride(2) == 1 && scale.stride(2) == 1 && shift.scalar_type() == at::kFloat &&
		     scale.scalar_type() == at::kFloat;
	if (fused)
		return Modulate::apply(x, shift, scale, eps);
	return at::layer_norm(x, { x.size(-1) }, {}, {}, eps) * (scale + 1) + shift;
}

// ---- RMS norm over the last dimension
// ------------------------------------------------------------------------------ x is any 4-d view with unit
// stride over its last dimension (heads of a stacked projection).
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

KERNEL void rms_rows(const view4 &in, const view4 &out, const float *x, const float *w, float *y, float *rstd,
		     float eps, int64_t from, int64_t to)
{
	const int64_t K = in.K;
	for (int64_t i = from; i < to; i++) {
		const float *a = x + in.at(i);
		float *o = y + out.at(i), sum = 0;
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

KERNEL void rms_back(const view4 &in, const view4 &up, const view4 &out, const float *x, const float *w,
		     const float *g, const float *rstd, float *gx, int64_t from, int64_t to)
{
	const int64_t K = in.K;
	for (int64_t i = from; i < to; i++) {
		const float *a = x + in.at(i), *u = g + up.at(i);
		float *o = gx + out.at(i), dot = 0, r = rstd[i];
#pragma omp simd reduction(+ : dot)
		for (int64_t k = 0; k < K; k++)
			dot += u[k] * w[k] * a[k];
		dot *= r * r / static_cast<float>(K);
#pragma omp simd
		for (int64_t k = 0; k < K; k++)
			o[k] = r * (u[k] * w[k] - a[k] * dot);
	}
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &w, double eps)
	{
		at::Tensor y = at::empty(x.sizes(), x.options());
		view4 in(x), out(y);
		at::Tensor rstd = at::empty({ in.count }, x.options());
		const float *px = x.data_ptr<float>(), *pw = w.data_ptr<float>();
		float *py = y.data_ptr<float>(), *pr = rstd.data_ptr<float>();
		at::parallel_for(0, in.count, grain(in.K), [&](int64_t from, int64_t to) {
			rms_rows(in, out, px, pw, py, pr, static_cast<float>(eps), from, to);
		});
		ac->save_for_backward({ x, w, rstd });
		ac->saved_data["need_w"] = w.requires_grad();
		return y;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor x = saved[0], w = saved[1], rstd = saved[2], g = grad[0], gw;
		if (g.stride(3) != 1)
			g = g.contiguous();
		at::Tensor gx = at::empty(x.sizes(), x.options());
		view4 in(x), up(g), out(gx);
		const float *px = x.data_ptr<float>(), *pg = g.data_ptr<float>(), *pw = w.data_ptr<float>(),
			    *pr = rstd.data_ptr<float>();
		float *pgx = gx.data_ptr<float>();
		at::parallel_for(0, in.count, grain(in.K), [&](int64_t from, int64_t to) {
			rms_back(in, up, out, px, pw, pg, pr, pgx, from, to);
		});
		if (ac->saved_data["need_w"].toBool())
			gw = (g * x * rstd.view({ x.size(0), x.size(1), x.size(2), 1 }))
				 .sum(at::IntArrayRef { 0, 1, 2 });
		return { gx, gw, at::Tensor() };
	}
};

at::Tensor rms_norm(const at::Tensor &x, const c10::optional<at::Tensor> &w, double eps)
{
	if (w && x.dim() == 4 && x.device().is_cpu() && x.scalar_type() == at::kFloat && x.stride(3) == 1 &&
	    w->scalar_type() == at::kFloat && w->is_contiguous())
		return RmsNorm::apply(x, *w, eps);
	at::Tensor f = x.to(at::kFloat);
	if (x.scalar_type() == at::kDouble)
		f = x;
	at::Tensor y = (f * at::rsqrt(f.square().mean(-1, true) + eps)).to(x.scalar_type());
	return w ? y * *w : y;
}

// ---- AdamW
// ---------------------------------------------------------------------------------------------------------
void adamw(const at::Tensor &theta, const at::Tensor &grad, const at::Tensor &m, const at::Tensor &v,
	   double lr, double b1, double b2, double eps, double wd, int64_t step)
{
	double c1 = 1 - std::pow(b1, static_cast<double>(step)),
	       c2 = std::sqrt(1 - std::pow(b2, static_cast<double>(step)));
	if (!plain_f32(theta) || !plain_f32(grad) || !plain_f32(m) || !plain_f32(v)) {
		theta.mul_(1 - lr * wd);
		m.lerp_(grad, 1 - b1);
		v.mul_(b2).addcmul_(grad, grad, 1 - b2);
		theta.addcdiv_(m, v.sqrt().div_(c2).add_(eps), -lr / c1);
		return;
	}
	float *t = theta.data_ptr<float>(), *pm = m.data_ptr<float>(), *pv = v.data_ptr<float>();
	const float *g = grad.data_ptr<float>();
	float keep = static_cast<float>(1 - lr * wd), f1 = static_cast<float>(1 - b1),
	      f2 = static_cast<float>(b2), g2 = static_cast<float>(1 - b2),
	      rate = static_cast<float>(lr / c1), root = static_cast<float>(c2),
	      tiny = static_cast<float>(eps);
	at::parallel_for(0, theta.numel(), 1 << 15, [&](int64_t from, int64_t to) {
		for (int64_t i = from; i < to; i++) {
			pm[i] += f1 * (g[i] - pm[i]);
			pv[i] = f2 * pv[i] + g2 * g[i] * g[i];
			t[i] = keep * t[i] - rate * pm[i] / (std::sqrt(pv[i]) / root + tiny);
		}
	});
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
	return shim::call("at_rms_norm", { x }, [&] {
		return rms_norm(x->v, w ? c10::optional<at::Tensor>(w->v) : c10::nullopt, eps);
	});
}

void at_adamw_(at_t theta, at_t grad, at_t m, at_t v, double lr, double beta1, double beta2, double eps,
	       double weight_decay, int64_t step)
{
	shim::run("at_adamw_", { theta, grad, m, v }, [&] {
		c10::NoGradGuard no_grad;
		adamw(theta->v.detach(), grad->v, m->v, v->v, lr, beta1, beta2, eps, weight_decay, step);
	});
}

// ---- Machine
// -------------------------------------------------------------------------------------------------------
void at_set_threads(int n)
{
	at::set_num_threads(n);
}
int at_threads(void)
{
	return at::get_num_threads();
}
bool at_cuda_built(void)
{
#ifdef CONTRAFLOW_CUDA
	return true;
#else
	return false;
#endif
}
int at_cuda_devices(void)
{
#ifdef CONTRAFLOW_CUDA
	return at::hasCUDA() ? at::detail::getCUDAHooks().getNumGPUs() : 0;
#else
	return 0;
#endif
}
const char *at_version(void)
{
	static const std::string text = std::string(TORCH_VERSION) + ", " + at::get_cpu_capability();
	return text.c_str();
}
}
