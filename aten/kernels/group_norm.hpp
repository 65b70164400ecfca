// group_norm.hpp -- group norm of channels-last images, with SiLU where it follows: what a thread does,
// written once for the CPU and the GPU.
//
// Two passes over memory instead of the four and more of ATen, which copies such images to NCHW and back. A
// block of threads has a piece of an image's pixels; a thread has PACK neighbouring channels of every few
// pixels. Sums are of the distance from the group's first value, which loses nothing to a large mean, and
// always in the same order.
#pragma once
#include "aten/kernels/rows.hpp"

namespace group_norm
{
constexpr int THREADS = 256, PACK = 4, PIXELS = 16; // PIXELS: of a thread

// N images of P pixels of C channels in G groups, each of a multiple of PACK channels; C at most THREADS *
// PACK.
struct args {
	int64_t P, C, G, N, piece, pieces; // pixels of a piece; pieces of an image
	const void *x, *w, *b;             // x (N, P, C); w and b (C), in x's type
	void *y;
	float *part; // (N, pieces, G, 2): sums of x - first and of its square
	float *stat; // (N, G, 2): mean and 1 / std
	float eps;
	bool silu;
};

TEAM int64_t lanes_of(const args &a) // threads of a pixel
{
	return a.C / PACK;
}
TEAM int64_t pixels_at_once(const args &a)
{
	return THREADS / lanes_of(a);
}
TEAM int64_t end_of(const args &a, int64_t piece)
{
	const int64_t end = (piece + 1) * a.piece;
	return end < a.P ? end : a.P;
}
template <class T> TEAM float first_of(const args &a, int64_t n, int64_t g)
{
	return static_cast<float>(rows::row_of<T>(a.x, n * a.P * a.C)[g * (a.C / a.G)]);
}

// What thread t of a piece's block sums; the last threads have nothing where C does not divide.
template <class T>
TEAM void thread_sums(const args &a, int64_t n, int64_t piece, int t, float &sum, float &square)
{
	const int64_t lanes = lanes_of(a), c = t % lanes * PACK, end = end_of(a, piece);

	sum = square = 0;
	if (t / lanes >= pixels_at_once(a))
		return;
	const float first = first_of<T>(a, n, c / (a.C / a.G));
	for (int64_t p = piece * a.piece + t / lanes; p < end; p += pixels_at_once(a)) {
		float v[PACK];
		rows::load(v, rows::row_of<T>(a.x, (n * a.P + p) * a.C + c));
		for (int k = 0; k < PACK; k++) {
			float e = v[k] - first;
			sum += e;
			square += e * e;
		}
	}
}

// The block's sums of group g, of those of its threads.
TEAM void block_sums(const args &a, int64_t n, int64_t piece, int64_t g, const float *sum,
		     const float *square)
{
	const int64_t lanes = lanes_of(a), mine = lanes / a.G;
	float *out = a.part + ((n * a.pieces + piece) * a.G + g) * 2, s = 0, q = 0;

	for (int64_t r = 0; r < pixels_at_once(a); r++)
		for (int64_t l = 0; l < mine; l++) {
			s += sum[r * lanes + g * mine + l];
			q += square[r * lanes + g * mine + l];
		}
	out[0] = s;
	out[1] = q;
}

// Every `step`-th piece's sums of a group, from `from` on.
TEAM void piece_sums(const args &a, int64_t n, int64_t g, int64_t from, int64_t step, double &sum,
		     double &square)
{
	sum = square = 0;
	for (int64_t i = from; i < a.pieces; i += step) {
		const float *part = a.part + ((n * a.pieces + i) * a.G + g) * 2;
		sum += static_cast<double>(part[0]);
		square += static_cast<double>(part[1]);
	}
}

template <class T> TEAM void finish(const args &a, int64_t n, int64_t g, double sum, double square)
{
	const double M = static_cast<double>(a.P * (a.C / a.G)), mean = sum / M,
		     var = square / M - mean * mean;
	float *out = a.stat + (n * a.G + g) * 2;

	out[0] = static_cast<float>(mean + static_cast<double>(first_of<T>(a, n, g)));
	out[1] = static_cast<float>(1 / sqrt((var > 0 ? var : 0) + static_cast<double>(a.eps)));
}

template <class T> TEAM void thread_apply(const args &a, int64_t n, int64_t piece, int t)
{
	const int64_t lanes = lanes_of(a), c = t % lanes * PACK, end = end_of(a, piece);

	if (t / lanes >= pixels_at_once(a))
		return;
	const float *stat = a.stat + (n * a.G + c / (a.C / a.G)) * 2, mean = stat[0], r = stat[1];
	float w[PACK], b[PACK];
	rows::load(w, rows::row_of<T>(a.w, c));
	rows::load(b, rows::row_of<T>(a.b, c));
	for (int64_t p = piece * a.piece + t / lanes; p < end; p += pixels_at_once(a)) {
		const int64_t at = (n * a.P + p) * a.C + c;
		float v[PACK];
		rows::load(v, rows::row_of<T>(a.x, at));
		for (int k = 0; k < PACK; k++) {
			v[k] = (v[k] - mean) * r * w[k] + b[k];
			if (a.silu)
				v[k] = v[k] / (1 + expf(-v[k]));
		}
		rows::store(rows::row_of<T>(a.y, at), v);
	}
}

#ifdef CONTRAFLOW_CUDA
void gpu(rows::storage t, const args &a, void *stream); // group_norm.cu; a launch that fails throws
#endif
} // namespace group_norm
