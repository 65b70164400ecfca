// lanes.hpp -- CPU kernels that work on as many floats at a time as the machine can: lanes.cpp, compiled once
// for each instruction set that makes them faster than libtorch's. Plain data and addresses alone: what an
// inline function of a header were compiled to there, the linker could give to code that must run everywhere.
#pragma once
#include <cstdint>

namespace lanes
{
// The longest sequence and the widest head of `attention`; widths are multiples of STEP.
constexpr int LONGEST = 64, WIDEST = 64, STEP = 16;

// One operand as (B, H, S, K) with unit stride over K: its address, NULL where a gradient is not wanted, and
// strides.
struct heads {
	float *p;
	int64_t b, h, s;
};

// Scaled dot-product attention of I queries and J keys of width K.
struct attention {
	int64_t H;
	int I, J, K;
	float scale;
	heads q, k, v, o, g, gq, gk, gv; // g: gradient of o
	float *stat; // (B, H, I, 2): the largest score of a query and 1 / the sum of its weights
};

struct kernels {
	// Heads from to `to`, of B H.
	void (*attend)(const attention &a, int64_t from, int64_t to);
	void (*attend_back)(const attention &a, int64_t from, int64_t to);
	// GELU with the tanh approximation, n elements.
	void (*gelu)(const float *x, float *y, int64_t n);
	void (*gelu_back)(const float *x, const float *g, float *gx, int64_t n);
};

extern const kernels avx2, avx512;

// Those for the instruction set that libtorch uses (its ATEN_CPU_CAPABILITY may name an older one), or NULL:
// there, libtorch's own are faster.
const kernels *best();
} // namespace lanes
