// normals.hpp -- rows of normals, four at a time: the kernel of the CPU and of the GPU.
#pragma once
#include "base/rng_formulas.h"

namespace normals
{
struct args {
	uint32_t key[2];
	const int64_t *name; // (B, 2), rng_name's
	float *out;          // (B, each)
	int64_t each, fours; // numbers of a row; blocks of words, of which the last may be used in part
};

#ifdef __CUDACC__
__device__
#endif
    static inline void
    four(const args &a, int64_t i)
{
	const int64_t b = i / a.fours, at = i - b * a.fours, left = a.each - 4 * at;
	const auto purpose_epoch = static_cast<uint64_t>(a.name[2 * b]);
	const uint32_t counter[4] = { static_cast<uint32_t>(at), static_cast<uint32_t>(a.name[2 * b + 1]),
				      static_cast<uint32_t>(purpose_epoch),
				      static_cast<uint32_t>(purpose_epoch >> 32) };
	float *out = a.out + b * a.each + 4 * at, z[4];
	uint32_t w[4];

	rng_words(counter, a.key, w);
	rng_four(w, z);
	for (int k = 0; k < 4 && k < left; k++)
		out[k] = z[k];
}

#ifdef CONTRAFLOW_CUDA
void gpu(const args &a, int64_t count,
	 void *stream); // normals.cu: on a cudaStream_t; a launch that fails throws
#endif
} // namespace normals
