/*
 * reward_jpeg.c -- how well an image compresses: the smallest reward there is, for tests and first steps.
 *
 * Sizes are of a JPEG of quality 95 in units of 1000 bytes; compressibility divides them by -500, as DDPO's
 * successors do (flow_grpo's rewards).
 */
#include "rewards/reward.h"
#include "base/image.h"
#include <stdlib.h>

enum { QUALITY = 95 };

static int score(const struct reward_item *item, int n, struct reward_score *out, double unit)
{
	for (int i = 0; i < n; i++) {
		struct err e;
		uint8_t *jpeg;
		size_t bytes;

		if (image_jpeg(&jpeg, &bytes, item[i].w, item[i].h, item[i].rgb, QUALITY, &e)) {
			reward_fail(&out[i], 1, e.msg);
			continue;
		}
		free(jpeg);
		reward_put(&out[i], 1, &(double) { (double)bytes / unit }, "the file's");
	}
	return 0;
}

static int compressibility(void *state, const struct reward_item *item, int n, struct reward_score *out,
			   struct err *e)
{
	(void)state, (void)e;
	return score(item, n, out, -500.0 * 1000.0);
}

static int incompressibility(void *state, const struct reward_item *item, int n, struct reward_score *out,
			     struct err *e)
{
	(void)state, (void)e;
	return score(item, n, out, 1000.0);
}

const struct reward_type reward_jpeg_compressibility = {
	.abi = REWARD_ABI,
	.name = "jpeg_compressibility",
	.doc = "Size as a JPEG of quality 95 in kB, / -500",
	.flags = REWARD_THREAD_SAFE,
	.score = compressibility,
};

const struct reward_type reward_jpeg_incompressibility = {
	.abi = REWARD_ABI,
	.name = "jpeg_incompressibility",
	.doc = "Size as a JPEG of quality 95 in kB",
	.flags = REWARD_THREAD_SAFE,
	.score = incompressibility,
};
