// autograd.cpp -- gradients to a list of leaves, and activation checkpointing through a C callback.
#include "aten/shim.hpp"
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace
{
// Runs f over handles of its own scope and collects its outputs.
std::vector<at::Tensor> run_block(void (*f)(void *ctx, const at_t *in, at_t *out), void *ctx,
				  const std::vector<at::Tensor> &in, size_t m)
{
	at_scope *s = at_begin(AT_GRAD_AS_IS);
	std::vector<at_t> handle, result(m, nullptr);
	for (const at::Tensor &x : in)
		handle.push_back(shim::wrap("checkpoint input", x));
	f(ctx, handle.data(), result.data());
	std::vector<at::Tensor> out;
	for (at_t t : result) {
		shim::need(t);
		out.push_back(t->v);
	}
	at_end(s);
	return out;
}

struct Checkpoint : torch::autograd::Function<Checkpoint> {
	static torch::autograd::variable_list forward(torch::autograd::AutogradContext *ac, int64_t f,
						      int64_t ctx, int64_t m, at::TensorList in)
	{
		ac->saved_data["f"] = f;
		ac->saved_data["ctx"] = ctx;
		ac->save_for_backward(in.vec());
		return run_block(reinterpret_cast<void (*)(void *, const at_t *, at_t *)>(f),
				 reinterpret_cast<void *>(ctx), in.vec(), static_cast<size_t>(m));
	}

	static torch::autograd::variable_list backward(torch::autograd::AutogradContext *ac,
						       torch::autograd::variable_list grad_out)
	{
		auto f =
		    reinterpret_cast<void (*)(void *, const at_t *, at_t *)>(ac->saved_data["f"].toInt());
		auto *ctx = reinterpret_cast<void *>(ac->saved_data["ctx"].toInt());
		std::vector<at::Tensor> leaf, wanted, out, seed;
		for (const at::Tensor &x : ac->get_saved_variables())
			leaf.push_back(x.detach().set_requires_grad(x.requires_grad()));
		for (const at::Tensor &x : leaf)
			if (x.requires_grad())
				wanted.push_back(x);
		at::AutoGradMode with_grad(true);
		std::vector<at::Tensor> all = run_block(f, ctx, leaf, grad_out.size());
		for (size_t i = 0; i < all.size(); i++)
			if (all[i].requires_grad() && grad_out[i].defined()) {
				out.push_back(all[i]);
				seed.push_back(grad_out[i]);
			}
		torch::autograd::variable_list grads(3), found;
		if (!out.empty())
			found = torch::autograd::grad(out, wanted, seed, c10::nullopt, false, true);
		size_t next = 0;
		for (const at::Tensor &x : leaf)
			grads.push_back(x.requires_grad() && !found.empty() ? found[next++] : at::Tensor());
		return grads;
	}
};
} // namespace

extern "C" {
void at_set_requires_grad(at_t leaf, bool on)
{
	shim::run("at_set_requires_grad", { leaf }, [&] { leaf->v.set_requires_grad(on); });
}

void at_grad(at_t loss, int n, const at_t *leaves, at_t *grads)
{
	shim::run("at_grad", { loss }, [&] {
		std::vector<at::Tensor> in;
		for (int i = 0; i < n; i++) {
			shim::need(leaves[i]);
			in.push_back(leaves[i]->v);
		}
		auto found = torch::autograd::grad({ loss->v }, in, {}, c10::nullopt, false, true);
		for (int i = 0; i < n; i++) {
			const at::Tensor &g = found[static_cast<size_t>(i)];
			grads[i] = g.defined() ? shim::wrap("at_grad", g) : nullptr;
		}
	});
}

void at_checkpoint(void (*f)(void *ctx, const at_t *in, at_t *out), void *ctx, int n, const at_t *in, int m,
		   at_t *out)
{
	shim::run("at_checkpoint", {}, [&] {
		std::vector<at::Tensor> x;
		for (int i = 0; i < n; i++) {
			shim::need(in[i]);
			x.push_back(in[i]->v);
		}
		auto y = Checkpoint::apply(reinterpret_cast<int64_t>(f), reinterpret_cast<int64_t>(ctx),
					   static_cast<int64_t>(m), at::TensorList(x));
		for (int i = 0; i < m; i++)
			out[i] = shim::wrap("at_checkpoint", y[static_cast<size_t>(i)]);
	});
}
}
