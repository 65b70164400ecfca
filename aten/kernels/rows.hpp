// rows.hpp -- the formulas of the fused kernels, written once for the CPU and the GPU.
//
// A row (a token, a head of a token, a sample) is a team's work: one CPU thread is a team of one, on a GPU
// some lanes of a warp or a block share a row. A team says where a member begins, how far it steps, how many
// neighbours it takes at a time, and sums over its members; always in the same order, so no result depends on
// the number of threads. rows.cpp has the team of the CPU, rows.cu those of the GPU. Arithmetic is in
// float32, whatever T is stored as.
#pragma once
#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Half.h>
#include <cstdint>
#include <type_traits>
#if defined(CONTRAFLOW_CUDA) ||                                                                              \
    defined(CONTRAFLOW_FIBRES) // the latter: a test that has the GPU's kernels run here
#define GPU_KERNELS
#endif
#ifdef __CUDACC__
#include <cuda_fp8.h>
#define TEAM   __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define SIMD_SUM(...)
#define SIMD
#else
#define TEAM inline __attribute__((always_inline))
#define UNROLL
#define SIMD_TEXT(x)  _Pragma(#x)
#define SIMD_SUM(...) SIMD_TEXT(omp simd reduction(+ : __VA_ARGS__))
#define SIMD          SIMD_TEXT(omp simd)
#endif

namespace rows
{
enum storage { F32, BF16, F16 };

// ---- What a kernel is given: addresses, and counts in elements -------------------------------------------

// layer_norm(x) * (1 + scale) + shift. x (B, S, D) contiguous, `rows` = B S; shift and scale (B, 1, D).
struct modulate_args {
	int64_t rows, S, D, shift_stride, scale_stride;
	const void *x, *shift, *scale, *g; // g: gradient of y
	void *y, *gx;                      // gx NULL: not wanted
	float *stat;                       // (rows, 2): mean and 1 / std
	float *gshift, *gscale;            // (B, D), zero before; NULL: not wanted
	float eps;
};

// x / rms(x) * w over K; x and g are 4-d views with unit stride over K, y and gx contiguous.
struct rms_args {
	int64_t count, n[3], x_stride[3], g_stride[3], K;
	const void *x, *w, *g;
	void *y, *gx;
	float *rstd; // (count)
	float eps;
};

// x + gate * y over D. x and y (B, S, D) contiguous, `rows` = B S; gate (B, 1, D). Backward: y's gradient g *
// gate.
struct gate_args {
	int64_t rows, S, D, gate_stride;
	const void *x, *gate, *y;
	void *out;
};

// The error of the x0 that a velocity implies, e = xt - t v - x0, M values a sample: mean e^2 / weight with
// weight = max(mean |e|, 1e-5), which no gradient goes through.
struct x0_args {
	int64_t B, M;
	const float *xt, *x0, *v, *t;
	double *loss, *weight; // (B)
	const double *g;       // (B): gradient of loss
	float *gv;             // (B, M)
};

struct adamw_args {
	int64_t n;
	float *theta, *m, *v;
	const float *g;
	float keep, f1, f2, g2, rate, root, tiny;
};

// Rows of C in E4M3, each over its largest value. x (rows, C) contiguous.
struct quantise_args {
	int64_t rows, C;
	const void *x;
	uint8_t *y;
	float *scale; // (rows)
};

// Queries, keys and values of attention over the tokens of two streams (of one: N1 = 0), of products x0 (B,
// N0, 3, H, K) and x1 (B, N1, 3, H, K), contiguous; weights of RMS norms (K), NULL: none. q (B, queries, H,
// K), k and v (B, N0 + N1, H, K), contiguous; queries is N0 or N0 + N1. Gradients have any strides over B,
// tokens and H, and one over K. K is a power of two.
struct qkv_args {
	int64_t B, N0, N1, H, K, queries;
	const void *x0, *x1, *wq0, *wk0, *wq1, *wk1;
	void *q, *k, *v;
	const void *gq, *gk, *gv;
	int64_t gq_stride[3], gk_stride[3], gv_stride[3];
	void *gx0, *gx1;
	float eps;
};

// out = x + gate * y and m = layer_norm(out) * (1 + scale) + shift, all (B, S, D) and contiguous but for
// gate, shift and scale (B, 1, D). Backward: of gradients g_out (NULL: none) and g_m.
constexpr int GATE_MODULATE_WIDEST = 2560; // D at most: a row stays in a warp's registers
struct gate_modulate_args {
	int64_t B, S, D, gate_stride, shift_stride, scale_stride;
	const void *x, *gate, *y, *shift, *scale;
	void *out, *m;
	float *stat; // (B S, 2): mean and 1 / std
	const void *g_out, *g_m;
	void *gx, *gy;
	float eps;
};

// What a kernel is launched with: copied to the GPU as it is.
template <class A> constexpr bool travels = std::is_trivially_copyable<A>::value && sizeof(A) <= 4096;
static_assert(travels<modulate_args> && travels<rms_args> && travels<gate_args> && travels<x0_args> &&
		  travels<adamw_args> && travels<quantise_args> && travels<qkv_args> &&
		  travels<gate_modulate_args>,
	      "a kernel's parameters are plain data of 4 KB at most");

#ifdef GPU_KERNELS
// rows.cu: on a cudaStream_t; a launch that fails throws.
void modulate_gpu(storage t, const modulate_args &m, void *stream);
void modulate_back_gpu(storage t, const modulate_args &m, void *stream);
void rms_gpu(storage t, const rms_args &r, void *stream);
void rms_back_gpu(storage t, const rms_args &r, void *stream);
void gate_gpu(storage t, const gate_args &a, void *stream); // x NULL: gate * y
void x0_gpu(const x0_args &x, void *stream);
void x0_back_gpu(const x0_args &x, void *stream);
void adamw_gpu(const adamw_args &a, void *stream);
void quantise_gpu(storage t, const quantise_args &a, void *stream);
void qkv_gpu(storage t, const qkv_args &a, void *stream);
void qkv_back_gpu(storage t, const qkv_args &a, void *stream);
void gate_modulate_gpu(storage t, const gate_modulate_args &a, void *stream);
void gate_modulate_back_gpu(storage t, const gate_modulate_args &a, void *stream);
#endif

// ---- Rows ------------------------------------------------------------------------------------------------

template <class T> TEAM const T *row_of(const void *p, int64_t at)
{
	return static_cast<const T *>(p) + at;
}
template <class T> TEAM T *row_of(void *p, int64_t at)
{
	return static_cast<T *>(p) + at;
}

// V neighbours, as one access where the hardware has one: addresses are multiples of V elements.
template <class T, int V> struct alignas(V * sizeof(T)) pack {
	T v[V];
};
constexpr int ACCESS = 16; // bytes that a lane of the GPU takes at a time
template <class T> constexpr int LANE = ACCESS / (int)sizeof(T); // and elements
template <class T>
constexpr bool is_one_access = sizeof(pack<T, LANE<T>>) == ACCESS && alignof(pack<T, LANE<T>>) == ACCESS &&
			       sizeof(T) * LANE<T> == ACCESS;
static_assert(is_one_access<float> && is_one_access<c10::BFloat16> && is_one_access<c10::Half>,
	      "a lane's access is 16 bytes");
template <int V, class T> TEAM void load(float (&to)[V], const T *p)
{
	const pack<T, V> a = *reinterpret_cast<const pack<T, V> *>(p);
	for (int k = 0; k < V; k++)
		to[k] = static_cast<float>(a.v[k]);
}
template <int V, class T> TEAM void store(T *p, const float (&from)[V])
{
	pack<T, V> a;
	for (int k = 0; k < V; k++)
		a.v[k] = static_cast<T>(from[k]);
	*reinterpret_cast<pack<T, V> *>(p) = a;
}
template <class T, class Team> TEAM void modulate_row(const Team &team, const modulate_args &m, int64_t i)
{
	constexpr int V = Team::WIDE;
	const int64_t D = m.D;
	const T *x = row_of<T>(m.x, i * D), *shift = row_of<T>(m.shift, i / m.S * m.shift_stride),
		*scale = row_of<T>(m.scale, i / m.S * m.scale_stride);
	T *y = row_of<T>(m.y, i * D);
	float mean = 0, var = 0;

	SIMD_SUM(mean)
	for (int64_t d = team.first(); d < D; d += team.step()) {
		float a[V];
		load(a, x + d);
		for (int k = 0; k < V; k++)
			mean += a[k];
	}
	mean = team.sum(mean) / static_cast<float>(D);
	SIMD_SUM(var)
	for (int64_t d = team.first(); d < D; d += team.step()) {
		float a[V];
		load(a, x + d);
		for (int k = 0; k < V; k++)
			var += (a[k] - mean) * (a[k] - mean);
	}
	float r = 1 / sqrtf(team.sum(var) / static_cast<float>(D) + m.eps);
	SIMD for (int64_t d = team.first(); d < D; d += team.step())
	{
		float a[V], b[V], c[V];
		load(a, x + d);
		load(b, shift + d);
		load(c, scale + d);
		for (int k = 0; k < V; k++)
			a[k] = (a[k] - mean) * r * (1 + c[k]) + b[k];
		store(y + d, a);
	}
	if (team.first() == 0) {
		m.stat[2 * i] = mean;
		m.stat[2 * i + 1] = r;
	}
}

// The gradient of x in row i.
template <class T, class Team>
TEAM void modulate_row_back(const Team &team, const modulate_args &m, int64_t i)
{
	constexpr int V = Team::WIDE;
	const int64_t D = m.D;
	const T *x = row_of<T>(m.x, i * D), *u = row_of<T>(m.g, i * D),
		*scale = row_of<T>(m.scale, i / m.S * m.scale_stride);
	T *gx = row_of<T>(m.gx, i * D);
	float mean = m.stat[2 * i], r = m.stat[2 * i + 1], m1 = 0, m2 = 0;

	SIMD_SUM(m1, m2)
	for (int64_t d = team.first(); d < D; d += team.step()) {
		float a[V], b[V], c[V];
		load(a, x + d);
		load(b, u + d);
		load(c, scale + d);
		for (int k = 0; k < V; k++) {
			float h = b[k] * (1 + c[k]);
			m1 += h;
			m2 += h * (a[k] - mean) * r;
		}
	}
	m1 = team.sum(m1) / static_cast<float>(D);
	m2 = team.sum(m2) / static_cast<float>(D);
	SIMD for (int64_t d = team.first(); d < D; d += team.step())
	{
		float a[V], b[V], c[V];
		load(a, x + d);
		load(b, u + d);
		load(c, scale + d);
		for (int k = 0; k < V; k++)
			a[k] = r * (b[k] * (1 + c[k]) - m1 - (a[k] - mean) * r * m2);
		store(gx + d, a);
	}
}

// Row i of a view, in elements from its start. i is below 2^32: on a GPU a 64-bit division is a subroutine of
// a hundred instructions, and a lane has four elements to make up for it.
TEAM int64_t row_at(const int64_t (&n)[3], const int64_t (&stride)[3], int64_t i)
{
	const auto at = static_cast<uint32_t>(i), n1 = static_cast<uint32_t>(n[1]),
		   n2 = static_cast<uint32_t>(n[2]);
	const uint32_t outer = at / n2, first = outer / n1;

	return first * stride[0] + (outer - first * n1) * stride[1] + (at - outer * n2) * stride[2];
}

template <class T, class Team> TEAM void rms_row(const Team &team, const rms_args &p, int64_t i)
{
	constexpr int V = Team::WIDE;
	const int64_t K = p.K;
	const T *x = row_of<T>(p.x, row_at(p.n, p.x_stride, i)), *w = row_of<T>(p.w, 0);
	T *y = row_of<T>(p.y, i * K);
	float sum = 0;

	SIMD_SUM(sum)
	for (int64_t d = team.first(); d < K; d += team.step()) {
		float a[V];
		load(a, x + d);
		for (int k = 0; k < V; k++)
			sum += a[k] * a[k];
	}
	float r = 1 / sqrtf(team.sum(sum) / static_cast<float>(K) + p.eps);
	SIMD for (int64_t d = team.first(); d < K; d += team.step())
	{
		float a[V], b[V];
		load(a, x + d);
		load(b, w + d);
		for (int k = 0; k < V; k++)
			a[k] = a[k] * r * b[k];
		store(y + d, a);
	}
	if (team.first() == 0)
		p.rstd[i] = r;
}

template <class T, class Team> TEAM void rms_row_back(const Team &team, const rms_args &p, int64_t i)
{
	constexpr int V = Team::WIDE;
	const int64_t K = p.K;
	const T *x = row_of<T>(p.x, row_at(p.n, p.x_stride, i)), *w = row_of<T>(p.w, 0),
		*u = row_of<T>(p.g, row_at(p.n, p.g_stride, i));
	T *gx = row_of<T>(p.gx, i * K);
	float r = p.rstd[i], dot = 0;

	SIMD_SUM(dot)
	for (int64_t d = team.first(); d < K; d += team.step()) {
		float a[V], b[V], c[V];
		load(a, x + d);
		load(b, w + d);
		load(c, u + d);
		for (int k = 0; k < V; k++)
			dot += c[k] * b[k] * a[k];
	}
	dot = team.sum(dot) * (r * r / static_cast<float>(K));
	SIMD for (int64_t d = team.first(); d < K; d += team.step())
	{
		float a[V], b[V], c[V];
		load(a, x + d);
		load(b, w + d);
		load(c, u + d);
		for (int k = 0; k < V; k++)
			a[k] = r * (c[k] * b[k] - a[k] * dot);
		store(gx + d, a);
	}
}

template <class T, class Team> TEAM void gate_row(const Team &team, const gate_args &p, int64_t i)
{
	constexpr int V = Team::WIDE;
	const int64_t D = p.D;
	const T *gate = row_of<T>(p.gate, i / p.S * p.gate_stride), *y = row_of<T>(p.y, i * D);
	const T *x = p.x ? row_of<T>(p.x, i * D) : nullptr;
	T *out = row_of<T>(p.out, i * D);

	for (int64_t d = team.first(); d < D; d += team.step()) {
		float a[V] = {}, b[V], c[V];
		if (x)
			load(a, x + d);
		load(b, gate + d);
		load(c, y + d);
		for (int k = 0; k < V; k++)
			a[k] += b[k] * c[k];
		store(out + d, a);
	}
}

template <class Team> TEAM void x0_row(const Team &team, const x0_args &p, int64_t b)
{
	const float *xt = p.xt + b * p.M, *x0 = p.x0 + b * p.M, *v = p.v + b * p.M, t = p.t[b];
	double size = 0, square = 0, M = static_cast<double>(p.M);

	SIMD_SUM(size, square)
	for (int64_t i = team.first(); i < p.M; i += team.step()) {
		float e = xt[i] - v[i] * t - x0[i];
		size += e < 0 ? -e : e;
		square += e * e;
	}
	size = team.sum(size) / M;
	square = team.sum(square) / M;
	if (team.first() == 0) {
		double weight = size > 1e-5 || size != size ? size : 1e-5; // not a number stays that
		p.weight[b] = weight;
		p.loss[b] = square / weight;
	}
}

// Element i of sample b.
TEAM void x0_element_back(const x0_args &p, int64_t b, int64_t i)
{
	const int64_t at = b * p.M + i;
	float f = static_cast<float>(-2 * p.g[b] * p.t[b] / (static_cast<double>(p.M) * p.weight[b]));

	p.gv[at] = f * (p.xt[at] - p.v[at] * p.t[b] - p.x0[at]);
}

// The larger of what may be: not a number stays that.
TEAM float larger(float a, float b)
{
	return b > a || b != b ? b : a;
}

// To E4M3, what is beyond its largest value (448) as that value.
template <int V> TEAM void store_e4m3(uint8_t *p, const float (&from)[V])
{
	pack<uint8_t, V> a;
#ifdef __CUDACC__ // two at a time is one instruction from sm_89 on
	for (int k = 0; k < V; k += 2) {
		auto two =
		    __nv_cvt_float2_to_fp8x2(make_float2(from[k], from[k + 1]), __NV_SATFINITE, __NV_E4M3);
		a.v[k] = static_cast<uint8_t>(two & 0xff);
		a.v[k + 1] = static_cast<uint8_t>(two >> 8);
	}
#else
	for (int k = 0; k < V; k++) {
		float most = from[k] > 448 ? 448 : from[k] < -448 ? -448 : from[k];
		a.v[k] = c10::Float8_e4m3fn(most).x;
	}
#endif
	*reinterpret_cast<pack<uint8_t, V> *>(p) = a;
}

template <class T, class Team> TEAM void quantise_row(const Team &team, const quantise_args &q, int64_t i)
{
	constexpr int V = Team::WIDE;
	const T *x = row_of<T>(q.x, i * q.C);
	uint8_t *y = q.y + i * q.C;
	float most = 0;

	for (int64_t d = team.first(); d < q.C; d += team.step()) {
		float a[V];
		load(a, x + d);
		for (int k = 0; k < V; k++)
			most = larger(most, a[k] < 0 ? -a[k] : a[k]);
	}
	float scale = team.most(most) / 448;
	if (!(scale > 0)) // a row of nothing, and one with a NaN
		scale = 1;
	for (int64_t d = team.first(); d < q.C; d += team.step()) {
		float a[V];
		load(a, x + d);
		for (int k = 0; k < V; k++)
			a[k] /= scale;
		store_e4m3(y + d, a);
	}
	if (team.first() == 0)
		q.scale[i] = scale;
}

TEAM void adamw_element(const adamw_args &a, int64_t i)
{
	float m = a.m[i] + a.f1 * (a.g[i] - a.m[i]), v = a.f2 * a.v[i] + a.g2 * a.g[i] * a.g[i];

	a.m[i] = m;
	a.v[i] = v;
	a.theta[i] = a.keep * a.theta[i] - a.rate * m / (sqrtf(v) / a.root + a.tiny);
}
} // namespace rows
