#include "base/image/resize.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>

#define BITS    22
#define SUPPORT 2.0

/* Where each output pixel reads, and with which weights. */
struct taps_of {
	int most;        /* weights a pixel at most */
	int *from, *n;   /* an entry an output pixel */
	int32_t *weight; /* output pixels x most */
};

static double cubic(double x)
{
	const double a = -0.5;

	x = fabs(x);
	if (x < 1)
		return ((a + 2) * x - (a + 3)) * x * x + 1;
	return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/* Of `count` output pixels from `first` on, of `out`. */
static struct taps_of make_taps(int in, int64_t out, int64_t first, int count)
{
	double scale = (double)in / (double)out, wide = scale < 1 ? 1 : scale, support = SUPPORT * wide;
	struct taps_of t = { .most = (int)ceil(support) * 2 + 1 };
	double *k = mem_zero((size_t)t.most, sizeof *k);

	t.from = mem_zero((size_t)count, sizeof *t.from);
	t.n = mem_zero((size_t)count, sizeof *t.n);
	t.weight = mem_zero((size_t)count * (size_t)t.most, sizeof *t.weight);
	for (int i = 0; i < count; i++) {
		int32_t *weight = t.weight + (size_t)i * (size_t)t.most;
		double center = ((double)(first + i) + 0.5) * scale, sum = 0;
		int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5);

		low = low < 0 ? 0 : low;
		high = high > in ? in : high;
		t.from[i] = low;
		t.n[i] = high - low;
		for (int x = 0; x < high - low; x++)
			sum += k[x] = cubic((x + low - center + 0.5) / wide);
		for (int x = 0; x < high - low; x++) {
			double w = (sum != 0 ? k[x] / sum : k[x]) * (1 << BITS);

			weight[x] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
		}
	}
	free(k);
	return t;
}

static void free_taps(struct taps_of *t)
{
	free(t->from);
	free(t->n);
	free(t->weight);
}

static uint8_t clip(int32_t v)
{
	v >>= BITS;
	return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Along one axis: pixel i of a line reads `step` bytes apart. */
static void line(uint8_t *to, const uint8_t *from, const struct taps_of *t, int out, size_t step,
		 size_t to_step)
{
	for (int i = 0; i < out; i++)
		for (int c = 0; c < 3; c++) {
			const uint8_t *p = from + (size_t)t->from[i] * step + c;
			const int32_t *weight = t->weight + (size_t)i * (size_t)t->most;
			int32_t sum = 1 << (BITS - 1);

			for (int x = 0; x < t->n[i]; x++)
				sum += p[(size_t)x * step] * weight[x];
			to[(size_t)i * to_step + (size_t)c] = clip(sum);
		}
}

uint8_t *resize_bicubic_window(const uint8_t *rgb, int w, int h, const struct resize_window *part)
{
	size_t row = 3 * (size_t)w, to_row = 3 * (size_t)part->w;
	struct taps_of x = make_taps(w, part->to_w, part->x, part->w),
		       y = make_taps(h, part->to_h, part->y, part->h);
	int last = part->h - 1, low = y.from[0], high = y.from[last] + y.n[last]; /* rows that are read */
	uint8_t *wide = mem_alloc(to_row * (size_t)(high - low)), *out = mem_alloc(to_row * (size_t)part->h);

	for (int i = low; i < high; i++)
		line(wide + (size_t)(i - low) * to_row, rgb + (size_t)i * row, &x, part->w, 3, 3);
	for (int i = 0; i < part->h; i++)
		y.from[i] -= low;
	for (int i = 0; i < part->w; i++)
		line(out + 3 * (size_t)i, wide + 3 * (size_t)i, &y, part->h, to_row, to_row);
	free(wide);
	free_taps(&x);
	free_taps(&y);
	return out;
}

uint8_t *resize_bicubic(const uint8_t *rgb, int w, int h, int to_w, int to_h)
{
	return resize_bicubic_window(
	    rgb, w, h, &(struct resize_window) { .to_w = to_w, .to_h = to_h, .w = to_w, .h = to_h });
}
