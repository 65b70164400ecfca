// rows.cu -- the teams of the GPU, and the launches of the fused kernels. Each is one pass of memory traffic;
// a row that is read twice or three times comes from the caches.
#include "aten/kernels/launches.hpp"
#include "aten/kernels/warps.hpp"
#include <stdexcept>
#include <string>

namespace rows
{
namespace
{
// W lanes of a warp share a row, 16 bytes of neighbours each at a time.
template <int W, class T> struct lanes {
	static constexpr int WIDE = LANE<T>;
	__device__ int64_t first() const { return static_cast<int64_t>(threadIdx.x % W) * WIDE; }
	__device__ int64_t step() const { return W * WIDE; }
	__device__ float sum(float x) const
	{
		for (int far = W / 2; far; far /= 2)
			x += __shfl_xor_sync(0xffffffffu, x, far, W);
		return x;
	}
	__device__ float most(float x) const
	{
		for (int far = W / 2; far; far /= 2)
			x = larger(x, __shfl_xor_sync(0xffffffffu, x, far, W));
		return x;
	}
};

// A whole block does: of rows that a warp would read twice from far.
template <class T> struct wide_block {
	static constexpr int WIDE = LANE<T>;
	__device__ int64_t first() const { return static_cast<int64_t>(threadIdx.x) * WIDE; }
	__device__ int64_t step() const { return THREADS * WIDE; }
	__device__ float most(float x) const // once a kernel
	{
		__shared__ float part[THREADS / 32];
		x = lanes<32, T>().most(x);
		if (threadIdx.x % 32 == 0)
			part[threadIdx.x / 32] = x;
		__syncthreads();
		for (int i = 0; i < THREADS / 32; i++)
			x = larger(x, part[i]);
		return x;
	}
};

// The same for sums in float64.
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
	modulate_row<T>(lanes<32, T>(), m, my_row<32>(m.rows));
}
template <class T> __global__ void modulate_back_kernel(modulate_args m)
{
	modulate_row_back<T>(lanes<32, T>(), m, my_row<32>(m.rows));
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
	rms_row<T>(lanes<W, T>(), r, my_row<W>(r.count));
}
template <class T, int W> __global__ void rms_back_kernel(rms_args r)
{
	rms_row_back<T>(lanes<W, T>(), r, my_row<W>(r.count));
}
template <class T> __global__ void gate_kernel(gate_args a)
{
	gate_row<T>(lanes<32, T>(), a, my_row<32>(a.rows));
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

template <class T> __global__ void quantise_kernel(quantise_args a)
{
	quantise_row<T>(lanes<32, T>(), a, my_row<32>(a.rows));
}
template <class T> __global__ void quantise_wide_kernel(quantise_args a)
{
	quantise_row<T>(wide_block<T>(), a, blockIdx.x);
}

// The token of a warp's sample, by the grid's two dimensions; warps without one repeat the last.
__device__ int64_t my_token(int64_t S)
{
	const int64_t s = static_cast<int64_t>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
	return s < S ? s : S - 1;
}
template <class T> __global__ void qkv_kernel(qkv_args a)
{
	qkv_token<T>(a, threadIdx.x % 32, blockIdx.y, my_token(a.N0 + a.N1));
}
template <class T> __global__ void qkv_back_kernel(qkv_args a)
{
	qkv_token_back<T>(a, threadIdx.x % 32, blockIdx.y, my_token(a.N0 + a.N1));
}
template <class T, int P> __global__ void gate_modulate_kernel(gate_modulate_args a)
{
	gate_modulate_token<T, P>(lanes<32, T>(), a, blockIdx.y, my_token(a.S));
}
template <class T, int P> __global__ void gate_modulate_back_kernel(gate_modulate_args a)
{
	gate_modulate_token_back<T, P>(lanes<32, T>(), a, blockIdx.y, my_token(a.S));
}

#ifdef __CUDACC__ // fibres.hpp has the other one
template <class A>
void launch(const char *name, void (*kernel)(A), grid_size grid, int threads, void *stream, const A &a)
{
	kernel<<<dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y)), threads, 0,
		 static_cast<cudaStream_t>(stream)>>>(a);
	cudaError_t r = cudaGetLastError();
	if (r != cudaSuccess)
		throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(r));
}
#endif

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

// Lanes of a warp for rows of up to 64 elements, 16 bytes each.
template <class T> constexpr int SHORT = 64 / LANE<T>;
// Accesses of a lane that hold a row of D.
template <class T, int D> constexpr int HOLDS = D / (32 * LANE<T>);
static_assert(HOLDS<float, GATE_MODULATE_WIDEST> * 32 * LANE<float> == GATE_MODULATE_WIDEST &&
		  HOLDS<c10::Half, GATE_MODULATE_WIDEST> * 32 * LANE<c10::Half> == GATE_MODULATE_WIDEST,
	      "the widest row is whole accesses of a warp");
} // namespace

void modulate_gpu(storage t, const modulate_args &m, void *stream)
{
	typed(t, [&](auto v) {
		launch("modulate", modulate_kernel<decltype(v)>, per_row(m.rows, 32), THREADS, stream, m);
	});
}

void modulate_back_gpu(storage t, const modulate_args &m, void *stream)
{
	typed(t, [&](auto v) {
		using T = decltype(v);
		if (m.gx)
			launch("modulate_back", modulate_back_kernel<T>, per_row(m.rows, 32), THREADS, stream,
			       m);
		if (m.gshift || m.gscale)
			launch("modulate_columns", modulate_columns_kernel<T>, per_thread(m.rows / m.S * m.D),
			       THREADS, stream, m);
	});
}

void rms_gpu(storage t, const rms_args &r, void *stream)
{
	typed(t, [&](auto v) {
		using T = decltype(v);
		if (r.K <= 64)
			launch("rms", rms_kernel<T, SHORT<T>>, per_row(r.count, SHORT<T>), THREADS, stream,
			       r);
		else
			launch("rms", rms_kernel<T, 32>, per_row(r.count, 32), THREADS, stream, r);
	});
}

void rms_back_gpu(storage t, const rms_args &r, void *stream)
{
	typed(t, [&](auto v) {
		using T = decltype(v);
		if (r.K <= 64)
			launch("rms_back", rms_back_kernel<T, SHORT<T>>, per_row(r.count, SHORT<T>), THREADS,
			       stream, r);
		else
			launch("rms_back", rms_back_kernel<T, 32>, per_row(r.count, 32), THREADS, stream, r);
	});
}

void gate_gpu(storage t, const gate_args &a, void *stream)
{
	typed(t, [&](auto v) {
		launch("gate", gate_kernel<decltype(v)>, per_row(a.rows, 32), THREADS, stream, a);
	});
}

void x0_gpu(const x0_args &x, void *stream)
{
	launch("x0", x0_kernel, { x.B, 1 }, 1024, stream, x);
}

void x0_back_gpu(const x0_args &x, void *stream)
{
	launch("x0_back", x0_back_kernel, { per_thread(x.M).x, x.B }, THREADS, stream, x);
}

void adamw_gpu(const adamw_args &a, void *stream)
{
	launch("adamw", adamw_kernel, per_thread(a.n), THREADS, stream, a);
}

void quantise_gpu(storage t, const quantise_args &a, void *stream)
{
	typed(t, [&](auto v) {
		using T = decltype(v);
		if (a.C <= 2048)
			launch("quantise", quantise_kernel<T>, per_row(a.rows, 32), THREADS, stream, a);
		else
			launch("quantise_wide", quantise_wide_kernel<T>, { a.rows, 1 }, THREADS, stream, a);
	});
}

void qkv_gpu(storage t, const qkv_args &a, void *stream)
{
	typed(t, [&](auto v) {
		launch("qkv", qkv_kernel<decltype(v)>, per_token(a.N0 + a.N1, a.B), THREADS, stream, a);
	});
}

void qkv_back_gpu(storage t, const qkv_args &a, void *stream)
{
	typed(t, [&](auto v) {
		launch("qkv_back", qkv_back_kernel<decltype(v)>, per_token(a.N0 + a.N1, a.B), THREADS, stream,
		       a);
	});
}

void gate_modulate_gpu(storage t, const gate_modulate_args &a, void *stream)
{
	typed(t, [&](auto v) {
		using T = decltype(v);
		auto *kernel = a.D <= 1536 ? gate_modulate_kernel<T, HOLDS<T, 1536>>
					   : gate_modulate_kernel<T, HOLDS<T, GATE_MODULATE_WIDEST>>;
		launch("gate_modulate", kernel, per_token(a.S, a.B), THREADS, stream, a);
	});
}

void gate_modulate_back_gpu(storage t, const gate_modulate_args &a, void *stream)
{
	typed(t, [&](auto v) {
		using T = decltype(v);
		auto *kernel = a.D <= 1536 ? gate_modulate_back_kernel<T, HOLDS<T, 1536>>
					   : gate_modulate_back_kernel<T, HOLDS<T, GATE_MODULATE_WIDEST>>;
		launch("gate_modulate_back", kernel, per_token(a.S, a.B), THREADS, stream, a);
	});
}
} // namespace rows
