// attention.cpp -- scaled dot-product attention; on the CPU in float32 a kernel of its own for short
// sequences.
//
// libtorch's CPU kernel calls a BLAS product per head and block, which costs more than the arithmetic when a
// head has a few dozen tokens. Here a head's whole work stays in the first-level cache: keys and values are
// turned once, four queries share each of their rows, and the backward computes the weights again from the
// stored log-sum-exp.
//
// Measured with bench_kernels (Zen, AVX-512, one thread, 96 samples of 4 heads), us for libtorch's fused
// kernel -> this one; libtorch's products and softmax are slower than its fused kernel in every forward:
//   I x J x K        forward           and backward
//   46 x 46 x 32     4019 -> 2471      12782 -> 6101
//   28 x 28 x 32     1864 -> 1158       4694 -> 2766
//   19 x 19 x 32      961 ->  833       2924 -> 1972
//    9 x 28 x 32      747 ->  424       2059 -> 1080
//   64 x 64 x 64     8871 -> 6295      29444 -> 22003
//
// Shapes: B batch, H heads, I queries, J keys (padded to a multiple of LANES), K width of a head.
#include "aten/shim.hpp"
#include "aten/vec.hpp"
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <cmath>
#ifdef __SSE__
#include <xmmintrin.h>
#endif
#include <torch/csrc/autograd/custom_function.h>

namespace
{
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using namespace lanes;

constexpr int ROWS = 4, LONGEST = 64, WIDEST = 64;
// One operand as (B, H, S, K) with unit stride over K.
struct heads {
	float *p;
	int64_t b, h, s;
	explicit heads(const at::Tensor &x)
	    : p(const_cast<float *>(x.const_data_ptr<float>())), b(x.stride(0)), h(x.stride(1)),
	      s(x.stride(2))
	{
	}
	heads() : p(nullptr), b(0), h(0), s(0) {}
	float *head(int64_t i, int64_t H) const { return p + i / H * b + i % H * h; }
};

struct attention {
	int64_t H;
	int I, J, JP, K; // JP: J padded
	float scale;
	heads q, k, v, o, g, gq, gk, gv;
	float *stat; // (B, H, I, 2): the largest score of a query and 1 / the sum of its weights
};

// c[r][0..16 N) = sum over x < n of a[r * a_row + x * a_step] * b[x * b_row + ...], for R rows.
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
// out (rows, 16 N) = a b for N of 1 to 4.
INLINE void multiply(int N, int rows, float *out, int64_t out_row, const float *a, int64_t a_row,
		     int64_t a_step, const float *b, int64_t b_row, int n)
{
	if (N == 1)
		all_rows<1>(rows, out, out_row, a, a_row, a_step, b, b_row, n);
	else if (N == 2)
		all_rows<2>(rows, out, out_row, a, a_row, a_step, b, b_row, n);
	else if (N == 3)
		all_rows<3>(rows, out, out_row, a, a_row, a_step, b, b_row, n);
	else
		all_rows<4>(rows, out, out_row, a, a_row, a_step, b, b_row, n);
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

KERNEL void forward_heads(const attention &a, int64_t from, int64_t to)
{
	alignas(64) float kT[WIDEST * LONGEST], s[LONGEST * LONGEST];
	for (int64_t i = from; i < to; i++) {
		const float *q = a.q.head(i, a.H), *v = a.v.head(i, a.H);
		float *o = a.o.head(i, a.H);
		turn(kT, a.k.head(i, a.H), a.k.s, a.J, a.JP, a.K);
		multiply(a.JP / LANES, a.I, s, a.JP, q, a.q.s, 1, kT, a.JP, a.K);
		for (int r = 0; r < a.I; r++)
			softmax_row(s + r * a.JP, a.J, a.JP, a.scale, a.stat + 2 * (i * a.I + r));
		multiply(a.K / LANES, a.I, o, a.o.s, s, a.JP, 1, v, a.v.s, a.J);
	}
}

// With P the weights and u = dL/do: gv = P^T u, dP = u v^T, dS = P (dP - rowsum(u o)) scale, gq = dS k, gk =
// dS^T q.
KERNEL void backward_heads(const attention &a, int64_t from, int64_t to)
{
	alignas(64) float turned[WIDEST * LONGEST], p[LONGEST * LONGEST], ds[LONGEST * LONGEST];
	for (int64_t i = from; i < to; i++) {
		const float *q = a.q.head(i, a.H), *k = a.k.head(i, a.H), *v = a.v.head(i, a.H),
			    *o = a.o.head(i, a.H), *u = a.g.head(i, a.H);
		turn(turned, k, a.k.s, a.J, a.JP, a.K);
		multiply(a.JP / LANES, a.I, p, a.JP, q, a.q.s, 1, turned, a.JP, a.K);
		turn(turned, v, a.v.s, a.J, a.JP, a.K);
		multiply(a.JP / LANES, a.I, ds, a.JP, u, a.g.s, 1, turned, a.JP, a.K);
		for (int r = 0; r < a.I; r++) {
			vec both = {};
			const float most = a.stat[2 * (i * a.I + r)], share = a.stat[2 * (i * a.I + r) + 1];
			float *w = p + r * a.JP, *d = ds + r * a.JP;
			for (int x = 0; x < a.K; x += LANES)
				both += as_vec(u + r * a.g.s + x) * as_vec(o + r * a.o.s + x);
			const float dot = sum_of(both);
			for (int j = a.J; j < a.JP; j++)
				w[j] = -INFINITY;
			for (int j = 0; j < a.JP; j += LANES) {
				vec weight = (as_vec(w + j) - most) * a.scale;
				exp_in_place(weight);
				weight *= share;
				as_vec(w + j) = weight;
				as_vec(d + j) = weight * (as_vec(d + j) - dot) * a.scale;
			}
		}
		if (a.gq.p)
			multiply(a.K / LANES, a.I, a.gq.head(i, a.H), a.gq.s, ds, a.JP, 1, k, a.k.s, a.J);
		if (a.gk.p)
			multiply(a.K / LANES, a.J, a.gk.head(i, a.H), a.gk.s, ds, 1, a.JP, q, a.q.s, a.I);
		if (a.gv.p)
			multiply(a.K / LANES, a.J, a.gv.head(i, a.H), a.gv.s, p, 1, a.JP, u, a.g.s, a.I);
	}
}

// (B, H, S, K) laid out as (B, S, H, K), the layout of the products on both sides of an attention.
at::Tensor empty_like_tokens(const at::Tensor &x)
{
	return at::empty({ x.size(0), x.size(2), x.size(1), x.size(3) }, x.options()).transpose(1, 2);
}

struct SmallAttention : torch::autograd::Function<SmallAttention> {
	static attention arguments(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
				   const at::Tensor &o, const at::Tensor &stat, double scale)
	{
		attention a = {};
		a.H = q.size(1), a.I = static_cast<int>(q.size(2)), a.J = static_cast<int>(k.size(2));
		a.JP = (a.J + LANES - 1) / LANES * LANES, a.K = static_cast<int>(q.size(3));
		a.scale = static_cast<float>(scale);
		a.q = heads(q), a.k = heads(k), a.v = heads(v), a.o = heads(o);
		a.stat = stat.data_ptr<float>();
		return a;
	}

	// Heads a thread takes at least.
	static int64_t grain(const attention &a)
	{
		return std::max<int64_t>(1, (1 << 17) / (static_cast<int64_t>(a.I) * a.JP * a.K));
	}

	static at::Tensor forward(AutogradContext *ac, const at::Tensor &q, const at::Tensor &k,
				  const at::Tensor &v, double scale)
	{
		at::Tensor o = empty_like_tokens(q),
			   stat = at::empty({ q.size(0), q.size(1), q.size(2), 2 }, q.options());
		attention a = arguments(q, k, v, o, stat, scale);
		shim::parallel(q.size(0) * a.H, grain(a),
			       [&](int64_t from, int64_t to) { forward_heads(a, from, to); });
		ac->save_for_backward({ q, k, v, o, stat });
		ac->saved_data["scale"] = scale;
		return o;
	}

	static variable_list backward(AutogradContext *ac, variable_list grad)
	{
		auto saved = ac->get_saved_variables();
		at::Tensor q = saved[0], k = saved[1], v = saved[2], gq, gk, gv;
		at::Tensor g = grad[0].stride(3) == 1 ? grad[0] : grad[0].contiguous();
		attention a = arguments(q, k, v, saved[3], saved[4], ac->saved_data["scale"].toDouble());
		a.g = heads(g);
		if (ac->needs_input_grad(0))
			a.gq = heads(gq = empty_like_tokens(q));
		if (ac->needs_input_grad(1))
			a.gk = heads(gk = empty_like_tokens(k));
		if (ac->needs_input_grad(2))
			a.gv = heads(gv = empty_like_tokens(v));
		shim::parallel(q.size(0) * a.H, grain(a),
			       [&](int64_t from, int64_t to) { backward_heads(a, from, to); });
		return { gq, gk, gv, at::Tensor() };
	}
};

bool is_small(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v)
{
	for (const at::Tensor &x : { q, k, v })
		if (!shim::is_f32(x) || x.dim() != 4 || x.stride(3) != 1 || x.numel() == 0 ||
		    x.size(0) != q.size(0) || x.size(1) != q.size(1) || x.size(2) > LONGEST ||
		    x.size(3) != q.size(3))
			return false;
	return k.size(2) == v.size(2) && q.size(3) % LANES == 0 && q.size(3) <= WIDEST;
}

at::Tensor sdpa(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &bias,
		bool causal, double scale)
{
	if (!bias.defined() && !causal && scale >= 0 && is_small(q, k, v))
		return SmallAttention::apply(
		    q, k, v, scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(q.size(3))));
	return at::scaled_dot_product_attention(
	    q, k, v, bias.defined() ? c10::optional<at::Tensor>(bias) : c10::nullopt, 0.0, causal,
	    scale != 0 ? c10::optional<double>(scale) : c10::nullopt);
}
} // namespace

extern "C" at_t at_sdpa(at_t q, at_t k, at_t v, at_t bias, bool causal, double scale)
{
	return shim::call("at_sdpa", { q, k, v }, { bias }, [&] {
		return sdpa(q->v, k->v, v->v, bias ? bias->v : at::Tensor(), causal, scale);
	});
}
