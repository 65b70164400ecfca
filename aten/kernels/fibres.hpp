// fibres.hpp -- rows.cu where there is no GPU: a block of threads is so many fibres of one thread, which meet
// at shuffles and at __syncthreads. Who does not arrive where others wait ends the program. Included before
// rows.cu, by a test.
#pragma once
#include "aten/kernels/launches.hpp"
#include <cmath>
#include <cstdint>
#include <string>

#define __global__
#define __device__
#define __shared__ static // one block runs at a time

namespace fibres
{
struct index {
	unsigned x, y, z;
};
extern index thread_at, block_at, block_size;

float shuffle_xor(uint32_t mask, float x, int far);
double shuffle_xor(uint32_t mask, double x, int far);
void wait_for_block();
// body(ctx) by every thread of every block.
void run(const char *name, int64_t x, int64_t y, int threads, void (*body)(void *ctx), void *ctx);
} // namespace fibres

#define threadIdx fibres::thread_at
#define blockIdx  fibres::block_at
#define blockDim  fibres::block_size

template <class X> X __shfl_xor_sync(uint32_t mask, X x, int far, int = 32)
{
	return fibres::shuffle_xor(mask, x, far);
}
inline void __syncthreads()
{
	fibres::wait_for_block();
}

namespace rows
{
template <class A>
void launch(const char *name, void (*kernel)(A), grid_size grid, int threads, void *, const A &a)
{
	struct call {
		void (*kernel)(A);
		A a;
	} c = { kernel, a };
	fibres::run(
	    name, grid.x, grid.y, threads,
	    [](void *p) {
		    auto *k = static_cast<call *>(p);
		    k->kernel(k->a);
	    },
	    &c);
}
} // namespace rows

extern "C" int fibres_ran(const char *kernel); // how often, by the name that rows.cu launches it under
