/* grids.h -- held-out prompts as a grid of images, with captions: what a run looks like. */
#ifndef GRIDS_H
#define GRIDS_H
#include "base/image.h"
#include "base/json.h"
#include "trainer/evaluation/evaluate.h"

/* The first image of up to n prompts, tags taking turns, `cols` a row, each pixel zoom x zoom, with its
 * prompt and what v->mixture says of it.  *told, a new reference: where each image is, and the same words as
 * JSON: {"width", "height" (of an image, enlarged), "zoom", "images": [{"x", "y", "prompt", "tag", and what
 * captions_score adds}, ...]}.  Every rank calls; rank 0 gets both, others an empty image and NULL. */
int grid_sample(struct image *grid, json_t **told, const struct evaluator *v, const struct pass *pass, int n,
		int cols, int zoom, struct err *e);
/* The prompts in that order: the j-th of each tag before the (j + 1)-th of any.  Returns how many of the n
 * there are. */
int grid_choose(const struct prompts *p, int n, int64_t *prompt);

#endif
