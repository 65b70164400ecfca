// warps.hpp -- formulas of the GPU alone, where a token is a warp's: its lanes take 16 bytes each at a time,
// and nothing is divided but by powers of two. On the CPU libtorch's ops do the same (fused.cpp).
#pragma once
#include "aten/kernels/rows.hpp"

namespace rows
{
template <class T> using lane_pack = pack<T, LANE<T>>;

template <class T> TEAM lane_pack<T> take(const T *p)
{
	return *reinterpret_cast<const lane_pack<T> *>(p);
}
template <class T> TEAM void put(T *p, const lane_pack<T> &a)
{
	*reinterpret_cast<lane_pack<T> *>(p) = a;
}

// ---- Queries, keys and values ----------------------------------------------------------------------------
// A head is `wide` lanes' work, a power of two; the warp takes 32 / wide heads at a time. All of a warp meet
// in the sums: lanes past the last head work on the first one's, and keep what they found to themselves.
template <class T> struct head_walk {
	static constexpr int V = LANE<T>, STEP = 32 * V;
	int D, K, start, within; // the lane's first element, of the token and of its head
	int wide, shift;         // shift: log2 of K

	TEAM head_walk(const qkv_args &a, int lane)
	    : D(static_cast<int>(a.H * a.K)), K(static_cast<int>(a.K)), start(lane * V),
	      within(start & (K - 1)), wide(K / V), shift(0)
	{
		while (1 << shift < K)
			shift++;
	}
	TEAM float sum(float x) const
	{
		for (int far = wide / 2; far; far /= 2)
			x += __shfl_xor_sync(0xffffffffu, x, far);
		return x;
	}
	// f(at, mine): elements from `at` of the token's D; mine: nobody else's.
	template <class F> TEAM void each(F f) const
	{
		for (int base = 0; base < D; base += STEP) {
			const bool mine = base + start < D;
			f(mine ? base + start : within, mine);
		}
	}
	TEAM int64_t head(int at) const { return at >> shift; }
};

// x / rms(x) * w, or x itself where w is NULL.
template <class T> TEAM void norm_heads(const head_walk<T> &walk, const T *x, const T *w, T *y, float eps)
{
	constexpr int V = LANE<T>;
	float f[V];

	if (!w) {
		walk.each([&](int at, bool mine) {
			if (mine)
				put(y + at, take(x + at));
		});
		return;
	}
	load(f, w + walk.within);
	walk.each([&](int at, bool mine) {
		float a[V], square = 0;
		load(a, x + at);
		for (int k = 0; k < V; k++)
			square += a[k] * a[k];
		float r = 1 / sqrtf(walk.sum(square) / static_cast<float>(walk.K) + eps);
		for (int k = 0; k < V; k++)
			a[k] = a[k] * r * f[k];
		if (mine)
			store(y + at, a);
	});
}

// g is the gradient of y: a token's heads, `stride` apart.
template <class T>
TEAM void norm_heads_back(const head_walk<T> &walk, const T *x, const T *w, const T *g, int64_t stride, T *gx,
			  float eps)
{
	constexpr int V = LANE<T>;
	float f[V];

	if (!w) {
		walk.each([&](int at, bool mine) {
			if (mine)
				put(gx + at, take(g + walk.head(at) * stride + walk.within));
		});
		return;
	}
	load(f, w + walk.within);
	walk.each([&](int at, bool mine) {
		float a[V], u[V], square = 0, dot = 0, K = static_cast<float>(walk.K);
		load(a, x + at);
		load(u, g + walk.head(at) * stride + walk.within);
		for (int k = 0; k < V; k++) {
			u[k] *= f[k];
			square += a[k] * a[k];
			dot += u[k] * a[k];
		}
		float r = 1 / sqrtf(walk.sum(square) / K + eps);
		dot = walk.sum(dot) * (r * r / K);
		for (int k = 0; k < V; k++)
			a[k] = r * (u[k] - a[k] * dot);
		if (mine)
			store(gx + at, a);
	});
}

// Token s of sample b, image first.
template <class T> TEAM void qkv_token(const qkv_args &a, int lane, int64_t b, int64_t s)
{
	const head_walk<T> walk(a, lane);
	const bool text = s >= a.N0;
	const int64_t D = walk.D, S = a.N0 + a.N1;
	const T *x =
	    text ? row_of<T>(a.x1, (b * a.N1 + s - a.N0) * 3 * D) : row_of<T>(a.x0, (b * a.N0 + s) * 3 * D);
	const T *wq = row_of<T>(text ? a.wq1 : a.wq0, 0), *wk = row_of<T>(text ? a.wk1 : a.wk0, 0);

	if (s < a.queries)
		norm_heads<T>(walk, x, wq, row_of<T>(a.q, (b * a.queries + s) * D), a.eps);
	norm_heads<T>(walk, x + D, wk, row_of<T>(a.k, (b * S + s) * D), a.eps);
	if (a.v)
		norm_heads<T>(walk, x + 2 * D, nullptr, row_of<T>(a.v, (b * S + s) * D), a.eps);
}

template <class T> TEAM const T *gradient_of(const void *g, const int64_t (&stride)[3], int64_t b, int64_t s)
{
	return row_of<T>(g, b * stride[0] + s * stride[1]);
}

template <class T> TEAM void qkv_token_back(const qkv_args &a, int lane, int64_t b, int64_t s)
{
	const head_walk<T> walk(a, lane);
	const bool text = s >= a.N0;
	const int64_t D = walk.D, row = text ? (b * a.N1 + s - a.N0) * 3 * D : (b * a.N0 + s) * 3 * D;
	const T *x = row_of<T>(text ? a.x1 : a.x0, row);
	const T *wq = row_of<T>(text ? a.wq1 : a.wq0, 0), *wk = row_of<T>(text ? a.wk1 : a.wk0, 0);
	T *gx = row_of<T>(text ? a.gx1 : a.gx0, row);

	if (s < a.queries)
		norm_heads_back<T>(walk, x, wq, gradient_of<T>(a.gq, a.gq_stride, b, s), a.gq_stride[2], gx,
				   a.eps);
	else // nothing reads them
		walk.each([&](int at, bool mine) {
			const float none[LANE<T>] = {};
			if (mine)
				store(gx + at, none);
		});
	norm_heads_back<T>(walk, x + D, wk, gradient_of<T>(a.gk, a.gk_stride, b, s), a.gk_stride[2], gx + D,
			   a.eps);
	norm_heads_back<T>(walk, x + 2 * D, nullptr, gradient_of<T>(a.gv, a.gv_stride, b, s), a.gv_stride[2],
			   gx + 2 * D, a.eps);
}

// ---- x + gate * y, and its modulated layer norm ----------------------------------------------------------
// A row stays in registers: P accesses a lane.
template <class T, int P, class Team>
TEAM void gate_modulate_token(const Team &team, const gate_modulate_args &a, int64_t b, int64_t s)
{
	constexpr int V = LANE<T>;
	const int64_t D = a.D, i = b * a.S + s;
	const T *x = row_of<T>(a.x, i * D), *y = row_of<T>(a.y, i * D),
		*gate = row_of<T>(a.gate, b * a.gate_stride), *shift = row_of<T>(a.shift, b * a.shift_stride),
		*scale = row_of<T>(a.scale, b * a.scale_stride);
	T *out = row_of<T>(a.out, i * D), *m = row_of<T>(a.m, i * D);
	lane_pack<T> h[P];
	float mean = 0, var = 0;

	UNROLL for (int p = 0; p < P; p++)
	{
		const int64_t d = team.first() + p * team.step();
		if (d < D) {
			float u[V], v[V], w[V];
			load(u, x + d);
			load(v, gate + d);
			load(w, y + d);
			for (int k = 0; k < V; k++) {
				h[p].v[k] = static_cast<T>(u[k] + v[k] * w[k]);
				mean += static_cast<float>(h[p].v[k]);
			}
			put(out + d, h[p]);
		}
	}
	mean = team.sum(mean) / static_cast<float>(D);
	UNROLL for (int p = 0; p < P; p++) if (team.first() + p * team.step() < D) for (int k = 0; k < V; k++)
	{
		float far = static_cast<float>(h[p].v[k]) - mean;
		var += far * far;
	}
	const float r = 1 / sqrtf(team.sum(var) / static_cast<float>(D) + a.eps);
	UNROLL for (int p = 0; p < P; p++)
	{
		const int64_t d = team.first() + p * team.step();
		if (d < D) {
			float u[V], v[V];
			load(u, shift + d);
			load(v, scale + d);
			for (int k = 0; k < V; k++)
				u[k] = (static_cast<float>(h[p].v[k]) - mean) * r * (1 + v[k]) + u[k];
			store(m + d, u);
		}
	}
	if (team.first() == 0) {
		a.stat[2 * i] = mean;
		a.stat[2 * i + 1] = r;
	}
}

template <class T, int P, class Team>
TEAM void gate_modulate_token_back(const Team &team, const gate_modulate_args &a, int64_t b, int64_t s)
{
	constexpr int V = LANE<T>;
	const int64_t D = a.D, i = b * a.S + s;
	const T *out = row_of<T>(static_cast<const void *>(a.out), i * D), *g = row_of<T>(a.g_m, i * D),
		*more = a.g_out ? row_of<T>(a.g_out, i * D) : nullptr,
		*gate = row_of<T>(a.gate, b * a.gate_stride), *scale = row_of<T>(a.scale, b * a.scale_stride);
	T *gx = row_of<T>(a.gx, i * D), *gy = row_of<T>(a.gy, i * D);
	const float mean = a.stat[2 * i], r = a.stat[2 * i + 1];
	lane_pack<T> h[P], u[P];
	float m1 = 0, m2 = 0;

	UNROLL for (int p = 0; p < P; p++)
	{
		const int64_t d = team.first() + p * team.step();
		if (d < D) {
			float c[V];
			h[p] = take(out + d);
			u[p] = take(g + d);
			load(c, scale + d);
			for (int k = 0; k < V; k++) {
				float f = static_cast<float>(u[p].v[k]) * (1 + c[k]);
				m1 += f;
				m2 += f * (static_cast<float>(h[p].v[k]) - mean) * r;
			}
		}
	}
	m1 = team.sum(m1) / static_cast<float>(D);
	m2 = team.sum(m2) / static_cast<float>(D);
	UNROLL for (int p = 0; p < P; p++)
	{
		const int64_t d = team.first() + p * team.step();
		if (d < D) {
			float c[V], f[V], e[V] = {};
			load(c, scale + d);
			load(f, gate + d);
			if (more)
				load(e, more + d);
			for (int k = 0; k < V; k++) {
				float n = (static_cast<float>(h[p].v[k]) - mean) * r;
				e[k] += r * (static_cast<float>(u[p].v[k]) * (1 + c[k]) - m1 - n * m2);
				f[k] *= e[k];
			}
			store(gx + d, e);
			store(gy + d, f);
		}
	}
}
} // namespace rows
