/* grids.h -- held-out prompts as a grid of images: what a run looks like. */
#ifndef GRIDS_H
#define GRIDS_H
#include "base/image.h"
#include "trainer/evaluation/evaluate.h"

/* The first image of up to n prompts, tags taking turns, `cols` a row, each pixel zoom x zoom.  Every rank
 * calls; rank 0 gets it, others an empty image. */
int grid_sample(struct image *grid, const struct evaluator *v, const struct pass *pass, int n, int cols,
		int zoom, struct err *e);
/* What such a grid shows, with the scores that an evaluation of the same policy has given the same images, as
 * JSON: {"columns", "gap" (pixels), "images": [{"prompt", "tag", and what eval_image_json says}, ...]}.  Rank
 * 0's. */
int grid_write_scores(const char *path, const struct evaluator *v, const struct eval_result *r, int n,
		      int cols, struct err *e);
/* The prompts in that order: the j-th of each tag before the (j + 1)-th of any.  Returns how many of the n
 * there are. */
int grid_choose(const struct prompts *p, int n, int64_t *prompt);

#endif
