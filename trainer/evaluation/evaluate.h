/*
 * evaluate.h -- the held-out score: every prompt exactly once (times images_per_prompt), each with a fixed
 * noise, the same score for any number of ranks.  Image i is image i % images_per_prompt of prompt
 * i / images_per_prompt.
 */
#ifndef EVALUATE_H
#define EVALUATE_H
#include "trainer/evaluation/album.h"
#include "trainer/evaluation/eval_result.h"
#include "trainer/sampling.h"

struct evaluator {
	struct dist *dist;
	const struct pipeline *pipeline;
	const struct sampler *sampler;
	struct mixture *mixture;
	const struct prompts *prompts;
	int64_t images_per_prompt, batch, height, width;
	uint64_t seed;
	bool quiet;
	/* NULL, or where the images go: those that are there already are scored as they are, and the others
	 * made. */
	const struct album *album;
};
/* Collective; every rank gets the result, which may be of few images or of none: see eval_lacking.  A request
 * to stop is an error of all.  *r is { 0 } or an earlier result, which is released. */
int evaluate(const struct evaluator *v, const struct pass *pass, struct eval_result *r, struct err *e);

/* How an evaluation samples, but for who takes the images; *v must stay until they are sampled. */
struct sampling evaluator_sampling(const struct evaluator *v, const struct pass *pass);

#endif
