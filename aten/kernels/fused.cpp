// fused.cpp -- ops of several formulas in one pass over memory: what autograd sees of them. The formulas are
// in rows.hpp; where no kernel fits (float64, odd layouts), the ATen composition does the same.
#include "aten/kernels/rows_run.hpp"
#include "aten/shim.hpp"
#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
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

// ---- layer_norm(x) * (1 + scale) + shift -----------------------------------------------------------------
rows::modulate_args modulate_args(const at::Tensor &x, const at::Tensor &scale, const at::Tensor &stat)
{
	rows::modulate_args m = {};
	m.S = x.size(1), m.D = x.size(2), m.rows = x.size(0) * m.S;
	m.x = x.const_data_ptr(), m.scale = scale.const_data_ptr(), m.scale_stride = scale.stride(0);
	m.stat = stat.data_ptr<float>();
	return m;
}

struct Modulate : torch::autograd::Function<Modulate> {
	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &shift,
				  const at::Tensor &scale, double eps)
	{
		at::Tensor y = at::empty_like(x),
			   stat = at::empty({ x.size(0) * x.size(1), 2 }, x.options().dtype(at::kFloat));
		rows::modulate_args m = modulate_args(x, scale, stat);
		m.shift = shift.const_data_ptr(), m.shift_stride = shift.stride(0);
		m.y = y.data_ptr(), m.eps = static_cast<float>(eps);
		rows::modulate(x, m);
		ac->save_for_backward({ x, scale, stat });
		return y;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor x = saved[0], g = grad[0].contiguous(), gx, gshift, gscale;
		rows::modulate_args m = modulate_args(x, saved[1], saved[2]);
		auto sums = [&] { return at::zeros({ x.size(0), 1, m.D }, x.options().dtype(at::kFloat)); };
		m.g = g.const_data_ptr();
		if (ac->needs_input_grad(0)) {
			gx = at::empty_like(x);
			m.gx = gx.data_ptr();
		}
		if (ac->needs_input_grad(1))
			m.gshift = (gshift = sums()).data_ptr<float>();
		if (ac->needs_input_grad(2))
			m.gscale = (gscale = sums()).data_ptr<float>();
		rows::modulate_back(x, m);
		if (gshift.defined())
			gshift = gshift.to(x.scalar_type());
		if (gscale.defined())
			gscale = gscale.to(x.scalar_type());
		return { gx, gshift, gscale, at::Tensor() };
	}
};

// (B, 1, D) for an x of (B, S, D), its rows in one piece.
bool is_row_per_sample(const at::Tensor &v, const at::Tensor &x)
{
	return v.scalar_type() == x.scalar_type() && v.device() == x.device() && v.dim() == 3 &&
	       v.size(0) == x.size(0) && v.size(1) == 1 && v.size(2) == x.size(2) && v.stride(2) == 1 &&
	       rows::packs(v);
}

at::Tensor modulate(const at::Tensor &x, const at::Tensor &shift, const at::Tensor &scale, double eps)
{
	if (rows::can_run(x) && x.dim() == 3 && x.numel() > 0 && x.is_contiguous() && rows::packs(x) &&
	    is_row_per_sample(shift, x) && is_row_per_sample(scale, x))
		return Modulate::apply(x, shift, scale, eps);
	return at::layer_norm(x, { x.size(-1) }, {}, {}, eps) * (scale + 1) + shift;
}

// ---- RMS norm over the last dimension --------------------------------------------------------------------
// x is any 4-d view with unit stride over its last dimension: heads of a stacked projection.
rows::rms_args rms_args(const at::Tensor &x, const at::Tensor &w, const at::Tensor &rstd)
{
	rows::rms_args r = {};
	r.K = x.size(3), r.count = x.size(0) * x.size(1) * x.size(2);
	for (int i = 0; i < 3; i++) {
		r.n[i] = x.size(i);
		r.x_stride[i] = x.stride(i);
	}
	r.x = x.const_data_ptr(), r.w = w.const_data_ptr(), r.rstd = rstd.data_ptr<float>();
	return r;
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &w, double eps)
	{
		at::Tensor y = at::empty(x.sizes(), x.options()),
			   rstd = at::empty({ x.size(0) * x.size(1) * x.size(2) },
					    x.options().dtype(at::kFloat));
		rows::rms_args r = rms_args(x, w, rstd);
		r.y = y.data_ptr(), r.eps = static_cast<float>(eps);
		rows::rms(x, r);
		ac->save_for_backward({ x, w, rstd });
		return y;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor x = saved[0], w = saved[1], rstd = saved[2], gx, gw;
		at::Tensor g =
		    grad[0].stride(3) == 1 && rows::packs(grad[0]) ? grad[0] : grad[0].contiguous();
		rows::rms_args r = rms_args(x, w, rstd);
		r.g = g.const_data_ptr();
		for (int i = 0; i < 3; i++)
			r.g_stride[i] = g.stride(i);
		if (ac->needs_input_grad(0)) {
			gx = at::empty(x.sizes(), x.options());
			r.gx = gx.data_ptr();
			rows::rms_back(x, r);
		}
		if (ac->needs_input_grad(1)) {
			at::Tensor part = at::zeros({ rows::rms_pieces(r), r.K }, rstd.options());
			rows::rms_weight_back(x, r, part.data_ptr<float>());
			gw = part.sum(0).to(w.scalar_type());
		}
		return { gx, gw, at::Tensor() };
	}
};

at::Tensor rms_norm(const at::Tensor &x, const at::Tensor &w, double eps)
{
	int64_t K = x.size(-1);
	if (w.defined() && w.numel() != K)
		throw std::runtime_error("the weight needs one value for each of x's last dimension");
	bool trained = w.defined() && w.requires_grad() && at::GradMode::is_enabled();
	if (rows::can_run(x) && x.dim() <= 4 && x.numel() > 0 && (x.stride(-1) == 1 || K == 1) &&
	    rows::packs(x) && x.numel() / K <= UINT32_MAX && !(trained && x.is_cuda()) &&
	    (!w.defined() || (w.scalar_type() == x.scalar_type() && w.device() == x.device() &&
			      w.is_contiguous() && rows::packs(w.view(K))))) {
		at::Tensor full = x, one = w.defined() ? w.view(K) : at::ones({ K }, x.options());
		while (full.dim() < 4)
			full = full.unsqueeze(0);
		return RmsNorm::apply(full, one, eps).view(x.sizes());
	}
	at::Tensor f = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
	at::Tensor y = (f * at::rsqrt((f * f).mean(-1, true) + eps)).to(x.scalar_type());
	return w.defined() ? y * w : y;
}

// ---- x + gate * y ----------------------------------------------------------------------------------------
// ATen reads a gate that is broadcast one element at a time, at half of an H100's memory rate; on the CPU its
// own kernel is as fast as one of ours.
struct Gate : torch::autograd::Function<Gate> {
	static at::Tensor run(const at::Tensor &x, const at::Tensor &gate, const at::Tensor &y)
	{
		at::Tensor out = at::empty_like(y);
		rows::gate_args a = {};
		a.S = y.size(1), a.D = y.size(2), a.rows = y.size(0) * a.S;
		a.x = x.defined() ? x.const_data_ptr() : nullptr;
		a.y = y.const_data_ptr(), a.gate = gate.const_data_ptr();
		a.gate_stride = gate.stride(0), a.out = out.data_ptr();
		rows::gate(y, a);
		return out;
	}

	static at::Tensor forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &gate,
				  const at::Tensor &y)
	{
		ac->save_for_backward({ gate });
		return run(x, gate, y);
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		at::Tensor g = grad[0].contiguous(), gy;
		if (ac->needs_input_grad(2))
			gy = run(at::Tensor(), ac->get_saved_variables()[0], g);
		return { grad[0], at::Tensor(), gy };
	}
};

at::Tensor gate(const at::Tensor &x, const at::Tensor &g, const at::Tensor &y)
{
	bool trained = g.requires_grad() && at::GradMode::is_enabled(); // by an adapter on adaLN
	if (x.is_cuda() && rows::can_run(x) && x.dim() == 3 && x.numel() > 0 && x.sizes() == y.sizes() &&
	    x.scalar_type() == y.scalar_type() && x.is_contiguous() && y.is_contiguous() && rows::packs(x) &&
	    rows::packs(y) && is_row_per_sample(g, x) && !trained)
		return Gate::apply(x, g, y);
	return at::addcmul(x, g, y);
}

// ---- The error of an implied x0 --------------------------------------------------------------------------
struct X0Loss : torch::autograd::Function<X0Loss> {
	static rows::x0_args arguments(const at::Tensor &v, const at::Tensor &xt, const at::Tensor &x0,
				       const at::Tensor &t, const at::Tensor &weight)
	{
		rows::x0_args a = {};
		a.B = v.size(0), a.M = v.numel() / a.B;
		a.v = v.const_data_ptr<float>(), a.xt = xt.const_data_ptr<float>();
		a.x0 = x0.const_data_ptr<float>(), a.t = t.const_data_ptr<float>();
		a.weight = weight.data_ptr<double>();
		return a;
	}

	static at::Tensor forward(AutogradContext *ac, const at::Tensor &v, const at::Tensor &xt,
				  const at::Tensor &x0, const at::Tensor &t)
	{
		at::Tensor loss = at::empty({ v.size(0) }, v.options().dtype(at::kDouble)),
			   weight = at::empty_like(loss);
		rows::x0_args a = arguments(v, xt, x0, t, weight);
		a.loss = loss.data_ptr<double>();
		rows::x0(v, a);
		ac->save_for_backward({ v, xt, x0, t, weight });
		return loss;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto s = ac->get_saved_variables();
		at::Tensor g = grad[0].contiguous(), gv = at::empty_like(s[0]);
		rows::x0_args a = arguments(s[0], s[1], s[2], s[3], s[4]);
		a.g = g.const_data_ptr<double>(), a.gv = gv.data_ptr<float>();
		rows::x0_back(s[0], a);
		return { gv, at::Tensor(), at::Tensor(), at::Tensor() };
	}
};

at::Tensor x0_loss(const at::Tensor &v, const at::Tensor &xt, const at::Tensor &x0, const at::Tensor &t)
{
	if (v.dim() < 2 || v.numel() == 0 || xt.sizes() != v.sizes() || x0.sizes() != v.sizes() ||
	    t.dim() != 1 || t.size(0) != v.size(0))
		throw std::runtime_error("v, xt and x0 are (B, ...) of one shape, t is (B)");
	for (const at::Tensor &x : { v, xt, x0, t })
		if (x.scalar_type() != at::kFloat || x.device() != v.device() || !rows::can_run(x))
			throw std::runtime_error("all are float32 on one device");
	for (const at::Tensor &x : { xt, x0, t })
		if (at::GradMode::is_enabled() && x.requires_grad())
			throw std::runtime_error("only v has a gradient here");
	return X0Loss::apply(v.contiguous(), xt.contiguous(), x0.contiguous(), t.contiguous());
}

// ---- AdamW --------------------------------------------------------------------------------------
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
		fused = fused && x.scalar_type() == at::kFloat && rows::can_run(x) && x.is_contiguous() &&
			x.device() == theta.device();
	if (!fused) {
		theta.mul_(1 - lr * wd);
		m.lerp_(grad, 1 - b1);
		v.mul_(b2).addcmul_(grad, grad, 1 - b2);
		theta.addcdiv_(m, v.sqrt().div_(c2).add_(eps), -lr / c1);
		return;
	}
	rows::adamw_args a = {};
	a.n = theta.numel();
	a.theta = theta.data_ptr<float>(), a.m = m.data_ptr<float>(), a.v = v.data_ptr<float>();
	a.g = grad.const_data_ptr<float>();
	a.keep = static_cast<float>(1 - lr * wd), a.rate = static_cast<float>(lr / c1);
	a.f1 = static_cast<float>(1 - b1), a.f2 = static_cast<float>(b2), a.g2 = static_cast<float>(1 - b2);
	a.root = static_cast<float>(c2), a.tiny = static_cast<float>(eps);
	if (a.n > 0)
		rows::adamw(theta, a);
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

at_t at_gate(at_t x, at_t g, at_t y)
{
	return shim::call("at_gate", { x, g, y }, [&] { return gate(x->v, g->v, y->v); });
}

at_t at_x0_loss(at_t v, at_t xt, at_t x0, at_t t)
{
	return shim::call("at_x0_loss", { v, xt, x0, t }, [&] { return x0_loss(v->v, xt->v, x0->v, t->v); });
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
