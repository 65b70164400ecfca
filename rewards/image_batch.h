/* image_batch.h -- a batch's images as a network takes them. */
#ifndef IMAGE_BATCH_H
#define IMAGE_BATCH_H
#include "aten/at.h"
#include "rewards/reward.h"

/* (n, 3, h, w) float32 in [0, 1] on the CPU: images of one size, or resized to a square of `size` pixels
 * (bicubic, as PIL) where that is not 0. */
at_t image_batch_tensor(const struct reward_item *item, int n, int64_t size);
/* How many of the n from the first on have the first's size: 1 to max. */
int images_alike(const struct reward_item *item, int n, int max);

#endif
