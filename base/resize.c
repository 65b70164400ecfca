#include "base/resize.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>

#define BITS    22
#define SUPPORT 2.0

/* Where each output pixel reads, and with which weights. */
struct taps_of {
	int most;        /* weights a pixel at most */
	int *from, *n;   /* out entries each */
	int32_t *weight; /* out x most */
};

static double cubic(double x)
{
	const double a = -0.5;

	x = fabs(x);
	if (x < 1)
		return ((a + 2) * x - (a + 3)) * x * x + 1;
	return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

static struct taps_of make_taps(int in, int out)
{
	double scale = (double)in / out, wide = scale < 1 ? 1 : scale, support = SUPPORT * wide;
	struct taps_of t = { .most = (int)ceil(support) * 2 + 1 };
	double *k = mem_zero((size_t)t.most, sizeof *k);

	t.from = mem_zero((size_t)out, sizeof *t.from);
	t.n = mem_zero((size_t)out, sizeof *t.n);
	t.weight = mem_zero((size_t)out * (size_t)t.most, sizeof *t.weight);
	for (int i = 0; i < out; i++) {
		double center = (i + 0.5) * scale, sum = 0;
		int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5);

		low = low < 0 ? 0 : low;
		high = high > in ? in : high;
		t.from[i] = low;
		t.n[i] = high - low;
		for (int x = 0; x < high - low; x++)
			sum += k[x] = cubic((x + low - center + 0.5) / wide);
		for (int x = 0; x < high - low; x++) {
			double w = (sum != 0 ? k[x] / sum : k[x]) * (1 << BITS);

			t.weight[i * t.most + x] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
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
			int32_t sum = 1 << (BITS - 1);

			for (int x = 0; x < t->n[i]; x++)
				sum += p[(size_t)x * step] * t->weight[i * t->most + x];
			to[(size_t)i * to_step + (size_t)c] = clip(sum);
		}
}

uint8_t *resize_bicubic(const uint8_t *rgb, int w, int h, int to_w, int to_h)
{
	size_t row = 3 * (size_t)w, to_row = 3 * (size_t)to_w;
	struct taps_of x = make_taps(w, to_w), y = make_taps(h, to_h);
	uint8_t *wide = mem_alloc(to_row * (size_t)h), *out = mem_alloc(to_row * (size_t)to_h);

	for (int i = 0; i < h; i++)
		line(wide + (size_t)i * to_row, rgb + (size_t)i * row, &x, to_w, 3, 3);
	for (int i = 0; i < to_w; i++)
		line(out + 3 * (size_t)i, wide + 3 * (size_t)i, &y, to_h, to_row, to_row);
	free(wide);
	free_taps(&x);
	free_taps(&y);
	return out;
}
