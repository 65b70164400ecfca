// rows.cpp -- the fused kernels on the CPU, a row a thread; and the choice between CPU and GPU.
#include "aten/kernels/rows_run.hpp"
#include "aten/shim.hpp"
#include <algorithm>
#include <cmath>
#if defined(CONTRAFLOW_CUDA) && !defined(CONTRAFLOW_FIBRES)
#include <c10/cuda/CUDAStream.h>
#endif

namespace rows
{
namespace
{
struct solo {
	static constexpr int WIDE = 1;
	static constexpr int64_t first() { return 0; }
	static constexpr int64_t step() { return 1; }
	template <class U> static U sum(U x) { return x; }
};

// Rows a thread takes at least: below that, waking a second thread costs more than it saves.
int64_t grain(int64_t width)
{
	return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width));
}

// f(T()) for what T is stored as.
template <class F> TEAM void typed(storage t, F f)
{
	if (t == F32)
		f(float());
	else if (t == BF16)
		f(c10::BFloat16());
	else
		f(c10::Half());
}

KERNEL void modulate_rows(storage t, const modulate_args &m, int64_t from, int64_t to)
{
	typed(
	    t, [&](auto v) __attribute__((always_inline)) {
		    for (int64_t i = from; i < to; i++)
			    modulate_row<decltype(v)>(solo(), m, i);
	    });
}

// The part of row i in the gradients of shift and scale.
template <class T> TEAM void modulate_columns(const modulate_args &m, int64_t i)
{
	const int64_t D = m.D, at = i / m.S * D;
	const T *x = row_of<T>(m.x, i * D), *u = row_of<T>(m.g, i * D);
	float mean = m.stat[2 * i], r = m.stat[2 * i + 1];

	if (m.gshift) {
		float *o = m.gshift + at;
		SIMD for (int64_t d = 0; d < D; d++) o[d] += u[d];
	}
	if (m.gscale) {
		float *o = m.gscale + at;
		SIMD for (int64_t d = 0; d < D; d++) o[d] += u[d] * (x[d] - mean) * r;
	}
}

// A sample is one thread's: its rows share the gradients of shift and scale.
KERNEL void modulate_samples_back(storage t, const modulate_args &m, int64_t from, int64_t to)
{
	typed(
	    t, [&](auto v) __attribute__((always_inline)) {
		    for (int64_t i = from * m.S; i < to * m.S; i++) {
			    if (m.gx)
				    modulate_row_back<decltype(v)>(solo(), m, i);
			    modulate_columns<decltype(v)>(m, i);
		    }
	    });
}

KERNEL void rms_rows(storage t, const rms_args &r, int64_t from, int64_t to)
{
	typed(
	    t, [&](auto v) __attribute__((always_inline)) {
		    for (int64_t i = from; i < to; i++)
			    rms_row<decltype(v)>(solo(), r, i);
	    });
}

KERNEL void rms_rows_back(storage t, const rms_args &r, int64_t from, int64_t to)
{
	typed(
	    t, [&](auto v) __attribute__((always_inline)) {
		    for (int64_t i = from; i < to; i++)
			    rms_row_back<decltype(v)>(solo(), r, i);
	    });
}

// Rows of a piece: fixed, whatever the threads, so that the sum of the pieces is too.
int64_t piece_rows(const rms_args &r)
{
	return 8 * grain(r.K);
}

KERNEL void rms_weight_pieces(storage t, const rms_args &r, float *gw, int64_t from, int64_t to)
{
	typed(
	    t, [&](auto v) __attribute__((always_inline)) {
		    using T = decltype(v);
		    for (int64_t i = from * piece_rows(r); i < std::min(r.count, to * piece_rows(r)); i++) {
			    const T *x = row_of<T>(r.x, row_at(r.n, r.x_stride, i)),
				    *u = row_of<T>(r.g, row_at(r.n, r.g_stride, i));
			    float *o = gw + i / piece_rows(r) * r.K, rstd = r.rstd[i];
			    SIMD for (int64_t k = 0; k < r.K; k++) o[k] += u[k] * x[k] * rstd;
		    }
	    });
}

KERNEL void x0_rows(const x0_args &x, int64_t from, int64_t to)
{
	for (int64_t b = from; b < to; b++)
		x0_row(solo(), x, b);
}

KERNEL void x0_rows_back(const x0_args &x, int64_t from, int64_t to)
{
	for (int64_t b = from; b < to; b++)
		SIMD for (int64_t i = 0; i < x.M; i++) x0_element_back(x, b, i);
}

KERNEL void adamw_elements(const adamw_args &a, int64_t from, int64_t to)
{
	SIMD for (int64_t i = from; i < to; i++) adamw_element(a, i);
}

#ifdef GPU_KERNELS
void *stream()
{
#ifdef CONTRAFLOW_FIBRES
	return nullptr;
#else
	return c10::cuda::getCurrentCUDAStream().stream();
#endif
}
#else
[[noreturn]] void no_gpu()
{
	throw std::logic_error("this kernel is the GPU's");
}
#endif
} // namespace

storage storage_of(const at::Tensor &x)
{
	return x.scalar_type() == at::kFloat ? F32 : x.scalar_type() == at::kBFloat16 ? BF16 : F16;
}

bool on_gpu(const at::Tensor &x)
{
#ifdef CONTRAFLOW_FIBRES
	return x.device().is_cpu();
#else
	return x.is_cuda();
#endif
}

bool can_run(const at::Tensor &x)
{
	bool known =
	    x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf;
#ifdef GPU_KERNELS
	if (on_gpu(x))
		return known;
#endif
	return known && x.device().is_cpu();
}

bool packs(const at::Tensor &x)
{
	auto address = reinterpret_cast<uintptr_t>(x.const_data_ptr());
	const int64_t lane = ACCESS / x.element_size();

	if (!on_gpu(x))
		return true;
	for (int64_t i = 0; i + 1 < x.dim(); i++)
		if (x.stride(i) % lane)
			return false;
	return x.size(-1) % lane == 0 && address % ACCESS == 0;
}

void modulate(const at::Tensor &like, const modulate_args &m)
{
	storage t = storage_of(like);
#ifdef GPU_KERNELS
	if (on_gpu(like))
		return modulate_gpu(t, m, stream());
#endif
	shim::parallel(m.rows, grain(m.D), [&](int64_t from, int64_t to) { modulate_rows(t, m, from, to); });
}

void modulate_back(const at::Tensor &like, const modulate_args &m)
{
	storage t = storage_of(like);
#ifdef GPU_KERNELS
	if (on_gpu(like))
		return modulate_back_gpu(t, m, stream());
#endif
	shim::parallel(m.rows / m.S, grain(m.S * m.D),
		       [&](int64_t from, int64_t to) { modulate_samples_back(t, m, from, to); });
}

void rms(const at::Tensor &like, const rms_args &r)
{
	storage t = storage_of(like);
#ifdef GPU_KERNELS
	if (on_gpu(like))
		return rms_gpu(t, r, stream());
#endif
	shim::parallel(r.count, grain(r.K), [&](int64_t from, int64_t to) { rms_rows(t, r, from, to); });
}

void rms_back(const at::Tensor &like, const rms_args &r)
{
	storage t = storage_of(like);
#ifdef GPU_KERNELS
	if (on_gpu(like))
		return rms_back_gpu(t, r, stream());
#endif
	shim::parallel(r.count, grain(r.K), [&](int64_t from, int64_t to) { rms_rows_back(t, r, from, to); });
}

int64_t rms_pieces(const rms_args &r)
{
	return (r.count + piece_rows(r) - 1) / piece_rows(r);
}

void rms_weight_back(const at::Tensor &like, const rms_args &r, float *gw)
{
	storage t = storage_of(like);
	shim::parallel(rms_pieces(r), 1,
		       [&](int64_t from, int64_t to) { rms_weight_pieces(t, r, gw, from, to); });
}

void x0(const at::Tensor &like, const x0_args &x)
{
#ifdef GPU_KERNELS
	if (on_gpu(like))
		return x0_gpu(x, stream());
#endif
	(void)like;
	shim::parallel(x.B, grain(x.M), [&](int64_t from, int64_t to) { x0_rows(x, from, to); });
}

void x0_back(const at::Tensor &like, const x0_args &x)
{
#ifdef GPU_KERNELS
	if (on_gpu(like))
		return x0_back_gpu(x, stream());
#endif
	(void)like;
	shim::parallel(x.B, grain(x.M), [&](int64_t from, int64_t to) { x0_rows_back(x, from, to); });
}

void adamw(const at::Tensor &like, const adamw_args &a)
{
#ifdef GPU_KERNELS
	if (on_gpu(like))
		return adamw_gpu(a, stream());
#endif
	(void)like;
	shim::parallel(a.n, 1 << 15, [&](int64_t from, int64_t to) { adamw_elements(a, from, to); });
}

bool has_qkv(const at::Tensor &like, int64_t B, int64_t K)
{
	const int64_t lanes = K * like.element_size() / ACCESS; // of a head: 1, 2, 4 ... 32

	return on_gpu(like) && can_run(like) && B <= 65535 && K * like.element_size() % ACCESS == 0 &&
	       lanes >= 1 && lanes <= 32 && (lanes & (lanes - 1)) == 0;
}

bool has_gate_modulate(const at::Tensor &like, int64_t B, int64_t D)
{
	return on_gpu(like) && can_run(like) && B <= 65535 && D <= GATE_MODULATE_WIDEST;
}

#ifdef GPU_KERNELS
#define GPU_ALONE(call) call
#else
#define GPU_ALONE(call) ((void)like, (void)a, no_gpu())
#endif

void gate(const at::Tensor &like, const gate_args &a)
{
	GPU_ALONE(gate_gpu(storage_of(like), a, stream()));
}

void quantise(const at::Tensor &like, const quantise_args &a)
{
	GPU_ALONE(quantise_gpu(storage_of(like), a, stream()));
}

void qkv(const at::Tensor &like, const qkv_args &a)
{
	GPU_ALONE(qkv_gpu(storage_of(like), a, stream()));
}

void qkv_back(const at::Tensor &like, const qkv_args &a)
{
	GPU_ALONE(qkv_back_gpu(storage_of(like), a, stream()));
}

void gate_modulate(const at::Tensor &like, const gate_modulate_args &a)
{
	GPU_ALONE(gate_modulate_gpu(storage_of(like), a, stream()));
}

void gate_modulate_back(const at::Tensor &like, const gate_modulate_args &a)
{
	GPU_ALONE(gate_modulate_back_gpu(storage_of(like), a, stream()));
}
} // namespace rows
