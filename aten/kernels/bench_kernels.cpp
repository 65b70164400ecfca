// bench_kernels.cpp -- what the kernels of rows.cpp, activation.cpp and attention.cpp save: the same work in
// ATen alone.
//   ninja -C build aten/bench_kernels && build/aten/bench_kernels
// Times are CPU times of one thread, the best of several runs: they mean something on a busy machine, too.
#include "aten/shim.hpp"
#include <ATen/ATen.h>
#include <cstdio>
#include <ctime>
#include <string>
#include <torch/csrc/autograd/autograd.h>

namespace
{
double now()
{
	timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Seconds of one f(), the best of ten runs of about 20 ms.
double best(c10::function_ref<void()> f)
{
	f();
	double start = now(), least = 1e9;
	f();
	int n = static_cast<int>(0.02 / (now() - start + 1e-9)) + 1;
	for (int run = 0; run < 10; run++) {
		start = now();
		for (int i = 0; i < n; i++)
			f();
		least = std::min(least, (now() - start) / n);
	}
	return least;
}

void report(const char *what, double ours, double direct)
{
	printf("%-44s %10.3f us %10.3f us  %5.2fx\n", what, 1e6 * ours, 1e6 * direct, direct / ours);
}

using formula = at::Tensor(const std::vector<at::Tensor> &);

// Forward without gradients, then forward and backward, of one formula through at.h and one in ATen.
void compare(const char *what, const std::vector<at::Tensor> &x, c10::function_ref<formula> ours,
	     c10::function_ref<formula> direct)
{
	char line[128];
	double t[2][2];
	c10::function_ref<formula> f[2] = { ours, direct };
	for (int i = 0; i < 2; i++) {
		at::Tensor g = at::randn_like(f[i](x)).contiguous();
		t[i][0] = best([&] {
			at::NoGradGuard no_grad;
			f[i](x);
		});
		t[i][1] = best([&] {
			torch::autograd::variable_list in;
			for (const at::Tensor &v : x)
				if (v.requires_grad())
					in.push_back(v);
			torch::autograd::grad({ f[i](x) }, in, { g });
		});
	}
	snprintf(line, sizeof line, "%s, forward", what);
	report(line, t[0][0], t[1][0]);
	snprintf(line, sizeof line, "%s, and backward", what);
	report(line, t[0][1], t[1][1]);
}

// Calls an op of at.h from here.
template <class F> at::Tensor through(const std::vector<at::Tensor> &x, F f)
{
	at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t h[4];
	for (size_t i = 0; i < x.size(); i++)
		h[i] = shim::wrap("bench", x[i]);
	at::Tensor y = f(h)->v;
	at_end(s);
	return y;
}

void attention()
{
	static const int64_t sizes[][3] = { { 46, 46, 32 }, { 28, 28, 32 }, { 19, 19, 32 },
					    { 9, 28, 32 },  { 9, 9, 32 },   { 64, 64, 64 } };
	auto ours = [](const std::vector<at::Tensor> &x) {
		return through(x, [](at_t *h) { return at_sdpa(h[0], h[1], h[2], nullptr, false, 0); });
	};
	auto flash = [](const std::vector<at::Tensor> &x) {
		return at::scaled_dot_product_attention(x[0], x[1], x[2]);
	};
	auto math = [](const std::vector<at::Tensor> &x) {
		return std::get<0>(at::_scaled_dot_product_attention_math(x[0], x[1], x[2]));
	};
	for (const auto &n : sizes) {
		char name[64];
		std::vector<at::Tensor> x; // heads of a projection: turned views
		for (int i = 0; i < 3; i++)
			x.push_back(at::randn({ 96, i ? n[1] : n[0], 4, n[2] })
					.transpose(1, 2)
					.set_requires_grad(true));
		snprintf(name, sizeof name, "sdpa 96x4x%dx%dx%d, flash", static_cast<int>(n[0]),
			 static_cast<int>(n[1]), static_cast<int>(n[2]));
		compare(name, x, ours, flash);
		snprintf(name, sizeof name, "sdpa 96x4x%dx%dx%d, math", static_cast<int>(n[0]),
			 static_cast<int>(n[1]), static_cast<int>(n[2]));
		compare(name, x, ours, math);
	}
}

void layers(at::ScalarType t)
{
	at::Tensor mod = at::randn({ 96, 1, 6 * 128 }).to(t);
	auto leaf = [&](at::IntArrayRef shape) { return at::randn(shape).to(t).set_requires_grad(true); };
	auto name = [&, line = std::string()](const char *what) mutable {
		line = std::string(what) + (t == at::kFloat ? "" : ", bfloat16");
		return line.c_str();
	};
	compare(
	    name("modulate 96x46x128"),
	    { leaf({ 96, 46, 128 }), mod.narrow(2, 0, 128), mod.narrow(2, 128, 128) },
	    [](const std::vector<at::Tensor> &x) {
		    return through(x, [](at_t *h) { return at_modulate(h[0], h[1], h[2], 1e-6); });
	    },
	    [](const std::vector<at::Tensor> &x) {
		    return at::layer_norm(x[0], { 128 }, {}, {}, 1e-6) * (x[2] + 1) + x[1];
	    });
	compare(
	    name("rms_norm 96x46x4x32 of a product"),
	    { at::randn({ 96, 46, 3, 4, 32 }).to(t).select(2, 0).set_requires_grad(true),
	      at::ones({ 32 }, t) },
	    [](const std::vector<at::Tensor> &x) {
		    return through(x, [](at_t *h) { return at_rms_norm(h[0], h[1], 1e-6); });
	    },
	    [](const std::vector<at::Tensor> &x) {
		    at::Tensor f = x[0].to(at::kFloat);
		    return (f * at::rsqrt((f * f).mean(-1, true) + 1e-6)).to(x[0].scalar_type()) * x[1];
	    });
	compare(
	    name("gelu 4416x384"), { leaf({ 4416, 384 }) },
	    [](const std::vector<at::Tensor> &x) {
		    return through(x, [](at_t *h) { return at_gelu(h[0], true); });
	    },
	    [](const std::vector<at::Tensor> &x) { return at::gelu(x[0], "tanh"); });
}

void losses()
{
	at::Tensor v = at::randn({ 8, 16, 64, 64 }).set_requires_grad(true);
	compare(
	    "x0_loss 8x16x64x64",
	    { v, at::randn({ 8, 16, 64, 64 }), at::randn({ 8, 16, 64, 64 }), at::rand({ 8 }) },
	    [](const std::vector<at::Tensor> &x) {
		    return through(x, [](at_t *h) { return at_x0_loss(h[0], h[1], h[2], h[3]); });
	    },
	    [](const std::vector<at::Tensor> &x) {
		    at::Tensor e = x[1] - x[0] * x[3].view({ -1, 1, 1, 1 }) - x[2];
		    at::Tensor w = e.detach().abs().to(at::kDouble).mean({ 1, 2, 3 }).clamp_min(1e-5);
		    return e.square().mean({ 1, 2, 3 }) / w;
	    });
}

void sums()
{
	at_scope *s = at_begin(AT_NO_GRAD);
	at_t x = shim::wrap("bench", at::randn({ 1 << 20 }));
	report("sum of squares of 2^20", best([&] { at_sum_squares(x); }),
	       best([&] { x->v.to(at::kDouble).square().sum().item<double>(); }));
	report("finite, 2^20", best([&] { at_finite(x); }),
	       best([&] { at::isfinite(x->v).all().item<bool>(); }));
	at_end(s);
}
} // namespace

int main()
{
	at_set_threads(1);
	printf("%s\n%-44s %13s %13s\n", at_version(), "", "at.h", "ATen");
	layers(at::kFloat);
	layers(at::kBFloat16);
	losses();
	attention();
	sums();
}
