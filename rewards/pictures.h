/* pictures.h -- a batch's pictures as a network takes them. */
#ifndef PICTURES_H
#define PICTURES_H
#include "aten/at.h"
#include "rewards/reward.h"

/* (n, 3, h, w) float32 in [0, 1] on the CPU: pictures of one size, or resized to a square of `size` pixels
 * (bicubic, as PIL) where that is not 0. */
at_t pictures_tensor(const struct reward_item *item, int n, int64_t size);
/* How many of the n from the first on have the first's size: 1 to max. */
int pictures_alike(const struct reward_item *item, int n, int max);

#endif
