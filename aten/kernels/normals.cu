// normals.cu -- noise made where it is used. Compiled with -fmad=false: its bits are the CPU's.
#include "aten/kernels/normals.hpp"
#include <stdexcept>
#include <string>

namespace normals
{
namespace
{
constexpr int THREADS = 256;

__global__ void kernel(args a, int64_t count)
{
	int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
	if (i < count)
		four(a, i);
}
} // namespace

void gpu(const args &a, int64_t count, void *stream)
{
	kernel<<<static_cast<unsigned>((count + THREADS - 1) / THREADS), THREADS, 0,
		 static_cast<cudaStream_t>(stream)>>>(a, count);
	cudaError_t r = cudaGetLastError();
	if (r != cudaSuccess)
		throw std::runtime_error(std::string("normals: ") + cudaGetErrorString(r));
}
} // namespace normals
