// group_norm.cu -- the three launches of a group norm: sums of pieces, statistics, values.
#include "aten/kernels/group_norm.hpp"
#include <stdexcept>
#include <string>

namespace group_norm
{
namespace
{
template <class T> __global__ void sums_kernel(args a)
{
	__shared__ float sum[THREADS], square[THREADS];
	const int t = static_cast<int>(threadIdx.x);

	thread_sums<T>(a, blockIdx.y, blockIdx.x, t, sum[t], square[t]);
	__syncthreads();
	for (int64_t g = t; g < a.G; g += THREADS)
		block_sums(a, blockIdx.y, blockIdx.x, g, sum, square);
}

// A warp has a group of an image; those beyond the last repeat it, so that whole warps meet in the shuffles.
template <class T> __global__ void statistics_kernel(args a)
{
	const int64_t all = a.N * a.G, warp = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) / 32,
		      i = warp < all ? warp : all - 1;
	double sum, square;

	piece_sums(a, i / a.G, i % a.G, threadIdx.x % 32, 32, sum, square);
	for (int far = 16; far; far /= 2) {
		sum += __shfl_xor_sync(0xffffffffu, sum, far);
		square += __shfl_xor_sync(0xffffffffu, square, far);
	}
	if (threadIdx.x % 32 == 0)
		finish<T>(a, i / a.G, i % a.G, sum, square);
}

template <class T> __global__ void apply_kernel(args a)
{
	thread_apply<T>(a, blockIdx.y, blockIdx.x, static_cast<int>(threadIdx.x));
}

void launched()
{
	cudaError_t r = cudaGetLastError();
	if (r != cudaSuccess)
		throw std::runtime_error(std::string("group_norm: ") + cudaGetErrorString(r));
}

template <class T> void launch(const args &a, cudaStream_t stream)
{
	const dim3 grid(static_cast<unsigned>(a.pieces), static_cast<unsigned>(a.N));

	sums_kernel<T><<<grid, THREADS, 0, stream>>>(a);
	launched();
	statistics_kernel<T>
	    <<<static_cast<unsigned>((a.N * a.G * 32 + THREADS - 1) / THREADS), THREADS, 0, stream>>>(a);
	launched();
	apply_kernel<T><<<grid, THREADS, 0, stream>>>(a);
	launched();
}
} // namespace

void gpu(rows::storage t, const args &a, void *stream)
{
	auto *on = static_cast<cudaStream_t>(stream);

	if (t == rows::F32)
		launch<float>(a, on);
	else if (t == rows::BF16)
		launch<c10::BFloat16>(a, on);
	else
		launch<c10::Half>(a, on);
}
} // namespace group_norm
