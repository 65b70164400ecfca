/*
 * sampling.h -- the images of a list, batch by batch: noise keyed by an image's id, its conditioning, the
 * sampler, and pixels on their way to the CPU while the next batch is sampled.  Rollout, evaluation, grids
 * and the benchmark all sample here.
 */
#ifndef SAMPLING_H
#define SAMPLING_H
#include "data/prompts.h"
#include "dist/dist.h"
#include "sampler/sample.h"

struct sampling {
	const struct pipeline *pipeline;
	const struct sampler *sampler;
	const struct pass *pass;
	struct at_dims chw;       /* of the latents: pipeline_latent_shape */
	int64_t batch;            /* images at a time */
	uint64_t seed, epoch;     /* of the noise */
	enum rng_purpose purpose; /* of the noise that a run starts from */
	enum rng_purpose steps;   /* of what a stochastic solver adds on the way: RNG_SOLVER, ... */
	at_t x0_NCHW;             /* where the latents go, a row an image; NULL: nowhere */
	/* NULL, or by step where x before it goes, likewise: of the steps that take noise. */
	at_t *state_NCHW;
	int64_t *forwards; /* NULL, or counts up, as in sampler_steps */
	bool keep_next;    /* and where each of those led, into the step after it */
	/* Conditioning of images id[0..n), of the innermost scope. */
	int (*cond)(void *ctx, const int64_t *id, int n, struct cond *out, struct err *e);
	void *cond_ctx;
	/* Gets every image once, in order: rgb (n, H, W, 3) uint8 on the CPU, of the innermost scope, are
	 * images at .. at + n - 1 of the list.  The device goes on sampling meanwhile.  An error ends it all.
	 * NULL: no pixels are made. */
	int (*take)(void *ctx, int64_t at, at_t rgb_BHW3, struct err *e);
	void *take_ctx;
};
/* Images id[0..n).  After an error, which is cond's, take's or a request to stop (base/machine/stop.h), those
 * sampled until then have been handed over. */
int sampling_run(const struct sampling *s, const int64_t *id, int64_t n, struct err *e);

/* ---- Conditioning of a file's prompts ---- */

/* Collective: every prompt of a file can be encoded, and is in the cache where the model has one; all ranks
 * have the same ones.  A request to stop is an error; what was encoded by then is kept. */
int prepare_prompts(struct dist *d, const struct pipeline *p, const struct prompts *in, struct err *e);
/* Conditioning of prompts index[0..n) of a file, row by row; of the innermost scope. */
int encode_prompts(const struct pipeline *p, const struct prompts *in, const int64_t *index, int n,
		   struct cond *out, struct err *e);

#endif
