/*
 * images.h -- images whose channels are neighbours in memory ("channels-last", NHWC), as a GPU's convolutions
 * want them.  A tensor is (B, C, H, W) either way; operations keep the order that they are given, and a
 * convolution has that of its image or its kernel.  at_contiguous makes rows of pixels neighbours again.
 */
#ifndef IMAGES_H
#define IMAGES_H
#include "aten/at.h"
#ifdef __cplusplus
extern "C" {
#endif

at_t at_channels_last(at_t x_BCHW);
/* silu(at_group_norm(...)): in two passes over memory where x is channels-last and nothing needs a gradient.
 */
at_t at_group_norm_silu(at_t x_BCHW, int groups, at_t w_C, at_t b_C, double eps);

/* at_conv2d of channels in groups that do not see each other; as many groups as channels: one by one. */
at_t at_conv2d_grouped(at_t x_BCHW, at_t w, at_t b_or_null, int stride, int padding, int64_t groups);

#ifdef __cplusplus
}
#endif
#endif
