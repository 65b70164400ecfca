// rows.cu -- the teams of the GPU, and the launches of the fused kernels. Each is one pass of memory traffic;
// a row that is read twice or three times comes from the caches.
#include "aten/kernels/rows.hpp"
#include <stdexcept>
#include <string>

namespace rows
{
namespace
{
constexpr int THREADS = 256;

// W lanes of a warp share a row, four neighbours each at a time.
template <int W> struct lanes {
	static constexpr int WIDE = 4;
	__device__ int64_t first() const { return static_cast<int64_t>(threadIdx.x % W) * WIDE; }
	__device__ int64_t step() const { return W * WIDE; }
	__device__ float sum(float x) const
	{
		for (int far = W / 2; far; far /= 2)
			x += __shfl_xor_sync(0xffffffffu, x, far, W);
		return x;
	}
};

// A whole block does.
struct block {
	__device__ int64_t first() const { return threadIdx.x; }
	__device__ int64_t step() const { return blockDim.x; }
	__device__ double sum(double x) const
	{
		__shared__ double part[32];
		for (int far = 16; far; far /= 2)
			x += __shfl_xor_sync(0xffffffffu, x, far);
		__syncthreads(); // a sum before this one may still be read
		if (threadIdx.x % 32 == 0)
			part[threadIdx.x / 32] = x;
		__syncthreads();
		x = 0;
		for (unsigned i = 0; i < blockDim.x / 32; i++)
			x += part[i];
		return x;
	}
};

// Lanes without a row of their own repeat the last one, so that all of a warp meet in its sums.
template <int W> __device__ int64_t my_row(int64_t rows)
{
	int64_t i = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) / W;
	return i < rows ? i : rows - 1;
}

template <class T> __global__ void modulate_kernel(modulate_args m)
{
	modulate_row<T>(lanes<32>(), m, my_row<32>(m.rows));
}
template <class T> __global__ void modulate_back_kernel(modulate_args m)
{
	modulate_row_back<T>(lanes<32>(), m, my_row<32>(m.rows));
}
// One column of one sample a thread; neighbours read neighbours.
template <class T> __global__ void modulate_columns_kernel(modulate_args m)
{
	int64_t at = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x, b = at / m.D, d = at % m.D;
	if (at >= m.rows / m.S * m.D)
		return;
	float shift = 0, scale = 0;
	for (int64_t i = b * m.S; i < (b + 1) * m.S; i++) {
		float u = row_of<T>(m.g, i * m.D)[d], a = row_of<T>(m.x, i * m.D)[d];
		shift += u;
		scale += u * (a - m.stat[2 * i]) * m.stat[2 * i + 1];
	}
	if (m.gshift)
		m.gshift[at] = shift;
	if (m.gscale)
		m.gscale[at] = scale;
}
template <class T, int W> __global__ void rms_kernel(rms_args r)
{
	rms_row<T>(lanes<W>(), r, my_row<W>(r.count));
}
template <class T, int W> __global__ void rms_back_kernel(rms_args r)
{
	rms_row_back<T>(lanes<W>(), r, my_row<W>(r.count));
}
template <class T> __global__ void gate_kernel(gate_args a)
{
	gate_row<T>(lanes<32>(), a, my_row<32>(a.rows));
}
__global__ void x0_kernel(x0_args x)
{
	x0_row(block(), x, blockIdx.x);
}
__global__ void x0_back_kernel(x0_args x)
{
	int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
	if (i < x.M)
		x0_element_back(x, blockIdx.y, i);
}
__global__ void adamw_kernel(adamw_args a)
{
	int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
	if (i < a.n)
		adamw_element(a, i);
}

unsigned blocks(int64_t threads)
{
	return static_cast<unsigned>((threads + THREADS - 1) / THREADS);
}

void launched(const char *kernel)
{
	cudaError_t r = cudaGetLastError();
	if (r != cudaSuccess)
		throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(r));
}

// f(T()) for what T is stored as.
template <class F> void typed(storage t, F f)
{
	if (t == F32)
		f(float());
	else if (t == BF16)
		f(c10::BFloat16());
	else
		f(c10::Half());
}

cudaStream_t on(void *stream)
{
	return static_cast<cudaStream_t>(stream);
}
} // namespace

void modulate_gpu(storage t, const modulate_args &m, void *stream)
{
	typed(t, [&](auto v) {
		modulate_kernel<decltype(v)><<<blocks(m.rows * 32), THREADS, 0, on(stream)>>>(m);
	});
	launched("modulate");
}

void modulate_back_gpu(storage t, const modulate_args &m, void *stream)
{
	typed(t, [&](auto v) {
		if (m.gx)
			modulate_back_kernel<decltype(v)><<<blocks(m.rows * 32), THREADS, 0, on(stream)>>>(m);
		if (m.gshift || m.gscale)
			modulate_columns_kernel<decltype(v)>
			    <<<blocks(m.rows / m.S * m.D), THREADS, 0, on(stream)>>>(m);
	});
	launched("modulate's backward");
}

void rms_gpu(storage t, const rms_args &r, void *stream)
{
	typed(t, [&](auto v) {
		if (r.K <= 64)
			rms_kernel<decltype(v), 16><<<blocks(r.count * 16), THREADS, 0, on(stream)>>>(r);
		else
			rms_kernel<decltype(v), 32><<<blocks(r.count * 32), THREADS, 0, on(stream)>>>(r);
	});
	launched("rms_norm");
}

void rms_back_gpu(storage t, const rms_args &r, void *stream)
{
	typed(t, [&](auto v) {
		if (r.K <= 64)
			rms_back_kernel<decltype(v), 16><<<blocks(r.count * 16), THREADS, 0, on(stream)>>>(r);
		else
			rms_back_kernel<decltype(v), 32><<<blocks(r.count * 32), THREADS, 0, on(stream)>>>(r);
	});
	launched("rms_norm's backward");
}

void gate_gpu(storage t, const gate_args &a, void *stream)
{
	typed(t,
	      [&](auto v) { gate_kernel<decltype(v)><<<blocks(a.rows * 32), THREADS, 0, on(stream)>>>(a); });
	launched("gate");
}

void x0_gpu(const x0_args &x, void *stream)
{
	x0_kernel<<<static_cast<unsigned>(x.B), 1024, 0, on(stream)>>>(x);
	launched("x0_loss");
}

void x0_back_gpu(const x0_args &x, void *stream)
{
	dim3 grid(blocks(x.M), static_cast<unsigned>(x.B));
	x0_back_kernel<<<grid, THREADS, 0, on(stream)>>>(x);
	launched("x0_loss's backward");
}

void adamw_gpu(const adamw_args &a, void *stream)
{
	adamw_kernel<<<blocks(a.n), THREADS, 0, on(stream)>>>(a);
	launched("adamw");
}
} // namespace rows
