// autograd.cpp -- gradients to a list of leaves, and activation checkpointing through a C callback.
#include "aten/shim.hpp"
#include <ATen/ops/empty.h>
#include <cstring>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace
{
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Runs f over handles of its own scope and collects its outputs.
variable_list run_block(shim::callback f, void *ctx, at::TensorList in, size_t m)
{
	shim::scope_guard scope(AT_GRAD_AS_IS, __FILE__, __LINE__, "at_checkpoint");
	std::vector<at_t> handle, result(m, nullptr);
	variable_list out;

	for (const at::Tensor &x : in)
		handle.push_back(shim::wrap("checkpoint input", x));
	shim::call_back(f, ctx, handle.data(), result.data());
	for (at_t t : result) {
		if (!t)
			throw std::runtime_error("the checkpointed function left an output NULL");
		out.push_back(t->v);
	}
	return out;
}

struct Checkpoint : torch::autograd::Function<Checkpoint> {
	static variable_list forward(AutogradContext *ac, int64_t f, const at::Tensor &ctx, int64_t m,
				     at::TensorList in)
	{
		ac->saved_data["f"] = f;
		ac->saved_data["ctx"] = ctx;
		ac->save_for_backward(in.vec());
		ac->set_materialize_grads(
		    false); // an output without a gradient takes no part in the backward
		return run_block(reinterpret_cast<shim::callback>(f), ctx.data_ptr(), in,
				 static_cast<size_t>(m));
	}

	static variable_list backward(AutogradContext *ac, variable_list grad_out)
	{
		auto f = reinterpret_cast<shim::callback>(ac->saved_data["f"].toInt());
		at::Tensor bytes = ac->saved_data["ctx"].toTensor();
		void *ctx = bytes.data_ptr();
		at::AutoGradMode with_grad(true);
		variable_list leaf, wanted, out, seed, found, grads(3); // f, ctx and m have none

		for (const at::Tensor &x : ac->get_saved_variables())
			leaf.push_back(x.detach().set_requires_grad(x.requires_grad()));
		for (const at::Tensor &x : leaf)
			if (x.requires_grad())
				wanted.push_back(x);
		variable_list again = run_block(f, ctx, leaf, grad_out.size());
		for (size_t i = 0; i < again.size(); i++)
			if (again[i].requires_grad() && grad_out[i].defined()) {
				out.push_back(again[i]);
				seed.push_back(grad_out[i]);
			}
		if (!out.empty())
			found = torch::autograd::grad(out, wanted, seed, c10::nullopt, false, true);
		size_t next = 0;
		for (const at::Tensor &x : leaf)
			grads.push_back(x.requires_grad() && !found.empty() ? found[next++] : at::Tensor());
		return grads;
	}
};

variable_list list_of(int n, const at_t *x)
{
	variable_list v;
	for (int i = 0; i < n; i++) {
		shim::need(x[i]);
		v.push_back(x[i]->v);
	}
	return v;
}
} // namespace

extern "C" {
void at_set_requires_grad(at_t leaf, bool on)
{
	shim::run("at_set_requires_grad", { leaf }, [&] { leaf->v.set_requires_grad(on); });
}

void at_grad(at_t loss, int n, const at_t *leaves, at_t *grads)
{
	shim::run("at_grad", { loss }, [&] {
		variable_list in = list_of(n, leaves);
		auto found = torch::autograd::grad({ loss->v }, in, {}, c10::nullopt, false, true);
		for (int i = 0; i < n; i++) {
			const at::Tensor &g = found[static_cast<size_t>(i)];
			grads[i] = g.defined() ? shim::wrap("at_grad", g) : nullptr;
		}
	});
}

void at_checkpoint(void (*f)(void *ctx, const at_t *in, at_t *out), const void *ctx, size_t size, int n,
		   const at_t *in, int m, at_t *out)
{
	shim::run("at_checkpoint", shim::operands(in, static_cast<size_t>(n)), [&] {
		variable_list x = list_of(n, in);
		at::Tensor bytes = at::empty({ static_cast<int64_t>(size) }, at::kByte);
		if (size)
			memcpy(bytes.data_ptr(), ctx, size);
		auto y = Checkpoint::apply(reinterpret_cast<int64_t>(f), bytes, static_cast<int64_t>(m),
					   at::TensorList(x));
		for (int i = 0; i < m; i++)
			out[i] = shim::wrap("at_checkpoint", y[static_cast<size_t>(i)]);
	});
}
}
