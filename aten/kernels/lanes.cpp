// lanes.cpp -- the kernels of lanes.hpp for the instruction set that the compiler was told, as
// lanes::KERNELS.
#include "aten/kernels/lanes.hpp"
#include <cmath>
#include <cstring>
#include <xmmintrin.h>

namespace
{
using namespace lanes;

// Vectors are the machine's own: of wider ones GCC keeps the halves in memory. A product's tile is ROWS rows
// by WIDE vectors, whose sums, with a row of b, fill the registers.
#ifdef __AVX512F__
constexpr int LANES = 16, WIDE = 4;
#else
constexpr int LANES = 8, WIDE = 2;
#endif
constexpr int ROWS = 4;
typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(4)));
#define INLINE inline __attribute__((always_inline))

INLINE vec &as_vec(float *p)
{
	return *reinterpret_cast<vec *>(p);
}
INLINE const vec &as_vec(const float *p)
{
	return *reinterpret_cast<const vec *>(p);
}

// x becomes e^x, for x <= 0, within 2 ulp: 2^n times a polynomial on [-ln2 / 2, ln2 / 2] (Cephes' expf); 0
// below -87.
INLINE void exp_in_place(vec &x)
{
	ivec alive = x > -87.0f;
	x = x < -88.0f ? vec {} - 88.0f : x;   // -inf would become a NaN below; a NaN stays one
	vec t = x * 1.44269504f + 12582912.0f; // the sum's low bits hold the rounded product
	vec n = t - 12582912.0f;
	vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
	vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * r * r + r + 1.0f;
	ivec bits;
	memcpy(&bits, &t, sizeof bits);
	ivec power = ((bits - 0x4b400000) + 127) << 23;
	vec two;
	power &= alive;
	memcpy(&two, &power, sizeof two);
	x = p * two;
}

// ---- Attention ------------------------------------------------------------------------------------------

INLINE float *head(const heads &x, int64_t i, int64_t H)
{
	return x.p + i / H * x.b + i % H * x.h;
}

// c[r][0..N vectors) = sum over x < n of a[r * a_row + x * a_step] * b[x * b_row + ...], for R rows.
template <int R, int N>
INLINE void product(const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t b_row, int n,
		    vec c[R][N])
{
	for (int r = 0; r < R; r++)
		for (int k = 0; k < N; k++)
			c[r][k] = vec {};
	for (int x = 0; x < n; x++) {
		vec row[N];
		for (int k = 0; k < N; k++)
			row[k] = as_vec(b + x * b_row + k * LANES);
		for (int r = 0; r < R; r++)
			for (int k = 0; k < N; k++)
				c[r][k] += a[r * a_row + x * a_step] * row[k];
	}
}
template <int R, int N>
INLINE void product_to(float *out, int64_t out_row, const float *a, int64_t a_row, int64_t a_step,
		       const float *b, int64_t b_row, int n)
{
	vec c[R][N];
	product<R, N>(a, a_row, a_step, b, b_row, n, c);
	for (int r = 0; r < R; r++)
		for (int k = 0; k < N; k++)
			as_vec(out + r * out_row + k * LANES) = c[r][k];
}
template <int N>
INLINE void all_rows(int rows, float *out, int64_t out_row, const float *a, int64_t a_row, int64_t a_step,
		     const float *b, int64_t b_row, int n)
{
	int i = 0;
	for (; i + ROWS <= rows; i += ROWS)
		product_to<ROWS, N>(out + i * out_row, out_row, a + i * a_row, a_row, a_step, b, b_row, n);
	for (; i + 2 <= rows; i += 2)
		product_to<2, N>(out + i * out_row, out_row, a + i * a_row, a_row, a_step, b, b_row, n);
	for (; i < rows; i++)
		product_to<1, N>(out + i * out_row, out_row, a + i * a_row, a_row, a_step, b, b_row, n);
}
// out (rows, columns) = a b for whole vectors of columns. Compiled once: inlined into its seven callers, it
// took the compiler a minute.
__attribute__((noinline)) void multiply(int columns, int rows, float *out, int64_t out_row, const float *a,
					int64_t a_row, int64_t a_step, const float *b, int64_t b_row, int n)
{
	int k = 0;
	for (; k + WIDE * LANES <= columns; k += WIDE * LANES)
		all_rows<WIDE>(rows, out + k, out_row, a, a_row, a_step, b + k, b_row, n);
#ifdef __AVX512F__
	static_assert(WIDE == 4, "what may be left over");
	if (k + 2 * LANES < columns)
		return all_rows<3>(rows, out + k, out_row, a, a_row, a_step, b + k, b_row, n);
	if (k + LANES < columns)
		return all_rows<2>(rows, out + k, out_row, a, a_row, a_step, b + k, b_row, n);
#endif
	if (k < columns)
		all_rows<1>(rows, out + k, out_row, a, a_row, a_step, b + k, b_row, n);
}

// The sum and the largest of a vector's lanes, by halves.
INLINE float sum_of(const vec &v)
{
	float t[LANES];
	as_vec(t) = v;
	for (int half = LANES / 2; half; half /= 2)
		for (int l = 0; l < half; l++)
			t[l] += t[l + half];
	return t[0];
}
INLINE float most_of(const vec &v)
{
	float t[LANES];
	as_vec(t) = v;
	for (int half = LANES / 2; half; half /= 2)
		for (int l = 0; l < half; l++)
			t[l] = t[l + half] > t[l] ? t[l + half] : t[l];
	return t[0];
}

// (J, K) -> (K, JP), the padding 0.
INLINE void turn(float *out, const float *x, int64_t x_row, int J, int JP, int K)
{
	int j = 0;
#ifdef __SSE__
	for (; j + 4 <= J; j += 4)
		for (int k = 0; k < K; k += 4) {
			const float *from = x + j * x_row + k;
			float *to = out + k * JP + j;
			__m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + x_row),
			       c = _mm_loadu_ps(from + 2 * x_row), d = _mm_loadu_ps(from + 3 * x_row);
			_MM_TRANSPOSE4_PS(a, b, c, d);
			_mm_storeu_ps(to, a);
			_mm_storeu_ps(to + JP, b);
			_mm_storeu_ps(to + 2 * JP, c);
			_mm_storeu_ps(to + 3 * JP, d);
		}
#endif
	for (; j < JP; j++)
		for (int k = 0; k < K; k++)
			out[k * JP + j] = j < J ? x[j * x_row + k] : 0;
}

// A row of scores becomes softmax, the padding 0; stat gets what the backward needs to find it again.
INLINE void softmax_row(float *s, int J, int JP, float scale, float *stat)
{
	for (int j = J; j < JP; j++)
		s[j] = -INFINITY;
	vec high = as_vec(s), total = {};
	for (int j = LANES; j < JP; j += LANES) {
		vec x = as_vec(s + j);
		high = x > high ? x : high;
	}
	const float most = most_of(high);
	for (int j = 0; j < JP; j += LANES) {
		vec e = (as_vec(s + j) - most) * scale;
		exp_in_place(e);
		as_vec(s + j) = e;
		total += e;
	}
	const float share = 1 / sum_of(total);
	for (int j = 0; j < JP; j += LANES)
		as_vec(s + j) = as_vec(s + j) * share;
	stat[0] = most;
	stat[1] = share;
}

void attend(const attention &a, int64_t from, int64_t to)
{
	alignas(64) float kT[WIDEST * LONGEST], s[LONGEST * LONGEST];
	const int JP = (a.J + LANES - 1) / LANES * LANES;
	for (int64_t i = from; i < to; i++) {
		const float *q = head(a.q, i, a.H), *v = head(a.v, i, a.H);
		float *o = head(a.o, i, a.H);
		turn(kT, head(a.k, i, a.H), a.k.s, a.J, JP, a.K);
		multiply(JP, a.I, s, JP, q, a.q.s, 1, kT, JP, a.K);
		for (int r = 0; r < a.I; r++)
			softmax_row(s + r * JP, a.J, JP, a.scale, a.stat + 2 * (i * a.I + r));
		multiply(a.K, a.I, o, a.o.s, s, JP, 1, v, a.v.s, a.J);
	}
}

// With P the weights and u = dL/do: gv = P^T u, dP = u v^T, dS = P (dP - rowsum(u o)) scale, gq = dS k, gk =
// dS^T q.
void attend_back(const attention &a, int64_t from, int64_t to)
{
	alignas(64) float turned[WIDEST * LONGEST], p[LONGEST * LONGEST], ds[LONGEST * LONGEST];
	const int JP = (a.J + LANES - 1) / LANES * LANES;
	for (int64_t i = from; i < to; i++) {
		const float *q = head(a.q, i, a.H), *k = head(a.k, i, a.H), *v = head(a.v, i, a.H),
			    *o = head(a.o, i, a.H), *u = head(a.g, i, a.H);
		turn(turned, k, a.k.s, a.J, JP, a.K);
		multiply(JP, a.I, p, JP, q, a.q.s, 1, turned, JP, a.K);
		turn(turned, v, a.v.s, a.J, JP, a.K);
		multiply(JP, a.I, ds, JP, u, a.g.s, 1, turned, JP, a.K);
		for (int r = 0; r < a.I; r++) {
			vec both = {};
			const float most = a.stat[2 * (i * a.I + r)], share = a.stat[2 * (i * a.I + r) + 1];
			float *w = p + r * JP, *d = ds + r * JP;
			for (int x = 0; x < a.K; x += LANES)
				both += as_vec(u + r * a.g.s + x) * as_vec(o + r * a.o.s + x);
			const float dot = sum_of(both);
			for (int j = a.J; j < JP; j++)
				w[j] = -INFINITY;
			for (int j = 0; j < JP; j += LANES) {
				vec weight = (as_vec(w + j) - most) * a.scale;
				exp_in_place(weight);
				weight *= share;
				as_vec(w + j) = weight;
				as_vec(d + j) = weight * (as_vec(d + j) - dot) * a.scale;
			}
		}
		if (a.gq.p)
			multiply(a.K, a.I, head(a.gq, i, a.H), a.gq.s, ds, JP, 1, k, a.k.s, a.J);
		if (a.gk.p)
			multiply(a.K, a.J, head(a.gk, i, a.H), a.gk.s, ds, 1, JP, q, a.q.s, a.I);
		if (a.gv.p)
			multiply(a.K, a.J, head(a.gv, i, a.H), a.gv.s, p, 1, JP, u, a.g.s, a.I);
	}
}

// ---- GELU -----------------------------------------------------------------------------------------------

constexpr float A = 1.5957691216057308f, B = 0.07135481627260025f; // 2 sqrt(2 / pi), and 0.044715 times that

// share = 1 / (1 + e^-2u) and rest = 1 - share, each exact to rounding: the exponential is of -|2u|.
INLINE void divide(const vec &x, vec &share, vec &rest)
{
	vec u = x * (x * x * B + A), e = u < 0.0f ? u : -u;
	exp_in_place(e);
	vec large = 1.0f / (1.0f + e), small = e * large;
	share = u < 0.0f ? small : large;
	rest = u < 0.0f ? large : small;
}

INLINE void gelu_lanes(const float *x, float *y)
{
	vec share, rest;
	divide(as_vec(x), share, rest);
	as_vec(y) = as_vec(x) * share;
}

INLINE void gelu_back_lanes(const float *x, const float *g, float *gx)
{
	vec share, rest, v = as_vec(x);
	divide(v, share, rest);
	as_vec(gx) = as_vec(g) * (share + v * share * rest * (v * v * (3 * B) + A));
}

void gelu(const float *x, float *y, int64_t n)
{
	int64_t i = 0;
	for (; i + LANES <= n; i += LANES)
		gelu_lanes(x + i, y + i);
	if (i < n) {
		float last[2][LANES] = {};
		memcpy(last[0], x + i, static_cast<size_t>(n - i) * sizeof(float));
		gelu_lanes(last[0], last[1]);
		memcpy(y + i, last[1], static_cast<size_t>(n - i) * sizeof(float));
	}
}

void gelu_back(const float *x, const float *g, float *gx, int64_t n)
{
	int64_t i = 0;
	for (; i + LANES <= n; i += LANES)
		gelu_back_lanes(x + i, g + i, gx + i);
	if (i < n) {
		float last[3][LANES] = {};
		memcpy(last[0], x + i, static_cast<size_t>(n - i) * sizeof(float));
		memcpy(last[1], g + i, static_cast<size_t>(n - i) * sizeof(float));
		gelu_back_lanes(last[0], last[1], last[2]);
		memcpy(gx + i, last[2], static_cast<size_t>(n - i) * sizeof(float));
	}
}
} // namespace

const kernels lanes::KERNELS = { attend, attend_back, gelu, gelu_back };
