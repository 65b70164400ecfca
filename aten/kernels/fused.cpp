// fused.cpp -- ops of several formulas in one pass over memory: what autograd sees of them. The formulas are
// in rows.hpp; where no kernel fits (float64, odd layouts), the ATen composition does the same.
#include "aten/kernels/rows_run.hpp"
#include "aten/shim.hpp"
#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
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
	    rows::packs(x) && x.numel() / K <= UINT32_MAX && !(trained && rows::on_gpu(x)) &&
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
	if (rows::on_gpu(x) && rows::can_run(x) && x.dim() == 3 && x.numel() > 0 && x.sizes() == y.sizes() &&
	    x.scalar_type() == y.scalar_type() && x.is_contiguous() && y.is_contiguous() && rows::packs(x) &&
	    rows::packs(y) && is_row_per_sample(g, x) && !trained)
		return Gate::apply(x, g, y);
	return at::addcmul(x, g, y);
}

// ---- x + gate * y, and its modulated layer norm ----------------------------------------------------------
// What comes from one and goes into the other is never read again.
struct GateModulate : torch::autograd::Function<GateModulate> {
	static rows::gate_modulate_args arguments(const at::Tensor &x, const at::Tensor &gate,
						  const at::Tensor &scale, const at::Tensor &stat)
	{
		rows::gate_modulate_args a = {};
		a.B = x.size(0), a.S = x.size(1), a.D = x.size(2);
		a.gate = gate.const_data_ptr(), a.gate_stride = gate.stride(0);
		a.scale = scale.const_data_ptr(), a.scale_stride = scale.stride(0);
		a.stat = stat.data_ptr<float>();
		return a;
	}

	static variable_list forward(AutogradContext *ac, const at::Tensor &x, const at::Tensor &gate,
				     const at::Tensor &y, const at::Tensor &shift, const at::Tensor &scale,
				     double eps)
	{
		at::Tensor out = at::empty_like(x), m = at::empty_like(x),
			   stat = at::empty({ x.size(0) * x.size(1), 2 }, x.options().dtype(at::kFloat));
		rows::gate_modulate_args a = arguments(x, gate, scale, stat);
		a.x = x.const_data_ptr(), a.y = y.const_data_ptr(), a.shift = shift.const_data_ptr();
		a.shift_stride = shift.stride(0), a.eps = static_cast<float>(eps);
		a.out = out.data_ptr(), a.m = m.data_ptr();
		rows::gate_modulate(x, a);
		ac->save_for_backward({ out, gate, scale, stat });
		ac->set_materialize_grads(false);
		return { out, m };
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor out = saved[0], g_out = grad[0], g_m = grad[1], gx = at::empty_like(out),
			   gy = at::empty_like(out);
		rows::gate_modulate_args a = arguments(out, saved[1], saved[2], saved[3]);
		g_m = g_m.defined() ? g_m.contiguous() : at::zeros_like(out);
		if (g_out.defined()) {
			g_out = g_out.contiguous();
			a.g_out = g_out.const_data_ptr();
		}
		a.out = out.data_ptr(), a.g_m = g_m.const_data_ptr();
		a.gx = gx.data_ptr(), a.gy = gy.data_ptr();
		rows::gate_modulate_back(out, a);
		return { gx, at::Tensor(), gy, at::Tensor(), at::Tensor(), at::Tensor() };
	}
};

// Without gradients of gate, shift and scale, which an adapter on adaLN's product would have.
variable_list gate_modulate(const at::Tensor &x, const at::Tensor &g, const at::Tensor &y,
			    const at::Tensor &shift, const at::Tensor &scale, double eps)
{
	bool trained = at::GradMode::is_enabled() &&
		       (g.requires_grad() || shift.requires_grad() || scale.requires_grad());
	if (!trained && x.dim() == 3 && x.numel() > 0 && rows::has_gate_modulate(x, x.size(0), x.size(2)) &&
	    x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() && x.device() == y.device() &&
	    x.is_contiguous() && y.is_contiguous() && rows::packs(x) && rows::packs(y) &&
	    is_row_per_sample(g, x) && is_row_per_sample(shift, x) && is_row_per_sample(scale, x))
		return GateModulate::apply(x, g, y, shift, scale, eps);
	at::Tensor out = gate(x, g, y);
	return { out, modulate(out, shift, scale, eps) };
}

// ---- Queries, keys and values of one stream or two -------------------------------------------------------
struct Qkv : torch::autograd::Function<Qkv> {
	// x: one product or two; w: norms of q and k for each, or none.
	static rows::qkv_args arguments(at::TensorList x, at::TensorList w, int64_t queries, double eps)
	{
		auto of = [&](size_t i) { return i < w.size() ? w[i].const_data_ptr() : nullptr; };
		rows::qkv_args a = {};
		a.B = x[0].size(0), a.N0 = x[0].size(1), a.H = x[0].size(3), a.K = x[0].size(4);
		a.x0 = x[0].const_data_ptr(), a.wq0 = of(0), a.wk0 = of(1);
		if (x.size() > 1)
			a.N1 = x[1].size(1), a.x1 = x[1].const_data_ptr(), a.wq1 = of(2), a.wk1 = of(3);
		a.queries = queries, a.eps = static_cast<float>(eps);
		return a;
	}

	// own_values false: v is left where the product has it.
	static variable_list run(at::TensorList x, at::TensorList w, int64_t queries, double eps,
				 bool own_values)
	{
		rows::qkv_args a = arguments(x, w, queries, eps);
		auto made = [&](int64_t tokens) {
			return at::empty({ a.B, tokens, a.H, a.K }, x[0].options());
		};
		at::Tensor q = made(queries), k = made(a.N0 + a.N1),
			   v = own_values ? made(a.N0 + a.N1) : x[0].select(2, 2);
		a.q = q.data_ptr(), a.k = k.data_ptr(), a.v = own_values ? v.data_ptr() : nullptr;
		rows::qkv(x[0], a);
		return { q, k, v };
	}

	static variable_list forward(AutogradContext *ac, at::TensorList x, at::TensorList w, int64_t queries,
				     double eps)
	{
		variable_list saved = x.vec();
		saved.insert(saved.end(), w.begin(), w.end());
		ac->save_for_backward(saved);
		ac->saved_data["streams"] = static_cast<int64_t>(x.size());
		ac->saved_data["queries"] = queries;
		ac->saved_data["eps"] = eps;
		return run(x, w, queries, eps, true);
	}

	// As attention's backward left it, if its heads can be read 16 bytes at a time.
	static at::Tensor readable(const at::Tensor &g, const void *&address, int64_t (&stride)[3])
	{
		at::Tensor r = g.stride(3) == 1 && rows::packs(g) ? g : g.contiguous();
		address = r.const_data_ptr();
		for (int i = 0; i < 3; i++)
			stride[i] = r.stride(i);
		return r;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		auto streams = static_cast<size_t>(ac->saved_data["streams"].toInt());
		at::TensorList all(saved), x = all.slice(0, streams), w = all.slice(streams);
		rows::qkv_args a =
		    arguments(x, w, ac->saved_data["queries"].toInt(), ac->saved_data["eps"].toDouble());
		at::Tensor gq = readable(grad[0], a.gq, a.gq_stride),
			   gk = readable(grad[1], a.gk, a.gk_stride),
			   gv = readable(grad[2], a.gv, a.gv_stride);
		variable_list gx;
		for (const at::Tensor &t : x)
			gx.push_back(at::empty_like(t));
		a.gx0 = gx[0].data_ptr(), a.gx1 = streams > 1 ? gx[1].data_ptr() : nullptr;
		rows::qkv_back(x[0], a);
		gx.resize(saved.size() + 2); // the norms, the number of queries and eps have none
		return gx;
	}
};

// The kernel takes whole products and frozen norms; training a model from its start trains norms.
bool has_qkv_kernel(at::TensorList x, at::TensorList w)
{
	const at::Tensor &one = x[0];
	int64_t K = one.size(4);
	if (one.numel() == 0 || !rows::has_qkv(one, one.size(0), K))
		return false;
	for (const at::Tensor &t : x)
		if (!t.is_contiguous() || !rows::packs(t) || t.numel() == 0)
			return false;
	for (const at::Tensor &t : w)
		if (t.scalar_type() != one.scalar_type() || t.device() != one.device() ||
		    !t.is_contiguous() || !rows::packs(t.view(K)) ||
		    (t.requires_grad() && at::GradMode::is_enabled()))
			return false;
	return true;
}

variable_list qkv(at::TensorList x, at::TensorList w, bool all_queries, double eps)
{
	for (const at::Tensor &t : x)
		if (t.dim() != 5 || t.size(2) != 3 || t.size(0) != x[0].size(0) ||
		    t.size(3) != x[0].size(3) || t.size(4) != x[0].size(4) ||
		    t.scalar_type() != x[0].scalar_type() || t.device() != x[0].device())
			throw std::runtime_error(
			    "products are (B, tokens, 3, H, K), alike but for the tokens");
	for (const at::Tensor &t : w)
		if (t.numel() != x[0].size(4))
			throw std::runtime_error("the norms need one value for each of a head's channels");
	int64_t tokens = x[0].size(1) + (x.size() > 1 && all_queries ? x[1].size(1) : 0);
	if (has_qkv_kernel(x, w)) {
		if (at::GradMode::is_enabled())
			return Qkv::apply(x, w, tokens, eps);
		return Qkv::run(x, w, tokens, eps, x.size() > 1);
	}
	variable_list joint[3];
	for (size_t i = 0; i < x.size(); i++) {
		variable_list part = x[i].unbind(2);
		for (size_t k = 0; k < 3; k++)
			if (k > 0 || i == 0 || all_queries)
				joint[k].push_back(k < 2 && !w.empty() ? rms_norm(part[k], w[2 * i + k], eps)
								       : part[k]);
	}
	variable_list out(3);
	for (size_t k : { 1, 2, 0 })
		out[k] = joint[k].size() > 1 ? at::cat(joint[k], 1) : joint[k][0];
	return out;
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

void at_gate_modulate(at_t x, at_t g, at_t y, at_t shift, at_t scale, double eps, at_t *out, at_t *m)
{
	shim::run("at_gate_modulate", { x, g, y, shift, scale }, [&] {
		auto r = gate_modulate(x->v, g->v, y->v, shift->v, scale->v, eps);
		*out = shim::wrap("at_gate_modulate", r[0]);
		*m = shim::wrap("at_gate_modulate", r[1]);
	});
}

void at_qkv(int n, const at_t *x, const at_t *norm_q, const at_t *norm_k, bool all_queries, double eps,
	    at_t *q, at_t *k, at_t *v)
{
	shim::run("at_qkv", shim::operands(x, static_cast<size_t>(n)), [&] {
		variable_list product, norm;
		for (int i = 0; i < n; i++) {
			product.push_back(x[i]->v);
			if (norm_q[i] && norm_k[i])
				norm.insert(norm.end(), { norm_q[i]->v, norm_k[i]->v });
		}
		if (n < 1 || n > 2 || (!norm.empty() && norm.size() != 2 * product.size()))
			throw std::runtime_error("one stream or two, and norms for all of them or for none");
		auto r = qkv(product, norm, all_queries, eps);
		*q = shim::wrap("at_qkv", r[0]);
		*k = shim::wrap("at_qkv", r[1]);
		*v = shim::wrap("at_qkv", r[2]);
	});
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
