// bench_ops.cpp -- what an op costs through at.h, against ATen called directly: `ninja -C build
// aten/bench_ops`.
#include "aten/at.h"
#include <ATen/ATen.h>
#include <algorithm>
#include <c10/core/GradMode.h>
#include <chrono>
#include <cstdio>

namespace
{
constexpr int calls = 20000, repeats = 15;

double seconds()
{
	return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The fastest of several runs, in ns a call: the others were disturbed.
template <class F> double best(F f)
{
	double least = 1e9;
	for (int r = 0; r < repeats; r++) {
		double start = seconds();
		for (int i = 0; i < calls; i++)
			f();
		least = std::min(least, (seconds() - start) / calls * 1e9);
	}
	return least;
}

void row(const char *name, double direct, double ours)
{
	printf("%-34s %8.0f %8.0f %+8.0f\n", name, direct, ours, ours - direct);
}
} // namespace

int main()
{
	at_set_threads(1);
	at_scope *outer = at_begin(AT_NO_GRAD);
	const at_dims d4 = { 1, { 4 } }, d44 = { 2, { 4, 4 } }, d24 = { 2, { 2, 4 } };
	at_t a = at_full(d4, 1, AT_F32, AT_CPU), b = at_full(d4, 2, AT_F32, AT_CPU);
	at_t w = at_full(d44, 1, AT_F32, AT_CPU), x = at_full(d24, 1, AT_F32, AT_CPU);
	at::Tensor ta = at::ones({ 4 }), tb = at::ones({ 4 }), tw = at::ones({ 4, 4 }),
		   tx = at::ones({ 2, 4 });
	c10::NoGradGuard no_grad;

	printf("%-34s %8s %8s %8s   ns a call\n", "", "ATen", "at.h", "overhead");
	row("add of 4 elements, freed at once", best([&] { at::add(ta, tb); }),
	    best([&] { at_drop(at_add_tt(a, b)); }));
	row("linear 2x4 by 4x4", best([&] { at::linear(tx, tw); }),
	    best([&] { at_drop(at_linear(x, w, nullptr)); }));
	row("narrow (a view)", best([&] { ta.narrow(0, 1, 2); }),
	    best([&] { at_drop(at_narrow(a, 0, 1, 2)); }));
	row("add in a scope of its own", best([&] { at::add(ta, tb); }), best([&] {
		    at_scope *s = at_begin(AT_NO_GRAD);
		    at_add_tt(a, b);
		    at_end(s);
	    }));
	at_end(outer);
	return 0;
}
