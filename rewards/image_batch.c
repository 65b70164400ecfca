#include "rewards/image_batch.h"
#include "base/image/resize.h"
#include <stdlib.h>

at_t image_batch_tensor(const struct reward_item *item, int n, int64_t size)
{
	int w = size ? (int)size : item->w, h = size ? (int)size : item->h;
	size_t plane = (size_t)w * (size_t)h;
	at_t out_N3HW = at_empty(DIMS(n, 3, h, w), AT_F32, AT_CPU);
	float *v = at_f32(out_N3HW);

	for (int i = 0; i < n; i++, v += 3 * plane) {
		uint8_t *sized = size ? resize_bicubic(item[i].rgb, item[i].w, item[i].h, w, h) : NULL;
		const uint8_t *rgb = sized ? sized : item[i].rgb;

		for (size_t p = 0; p < plane; p++)
			for (size_t k = 0; k < 3; k++)
				v[k * plane + p] = (float)rgb[3 * p + k] / 255.f;
		free(sized);
	}
	return out_N3HW;
}

int images_alike(const struct reward_item *item, int n, int max)
{
	int k = 1;

	while (k < n && k < max && item[k].w == item->w && item[k].h == item->h)
		k++;
	return k;
}
