/*
 * sample.h -- from noise and conditioning to clean latents, with any solver, with or without guidance.
 */
#ifndef SAMPLE_H
#define SAMPLE_H
#include "base/conf/conf.h"
#include "base/rng.h"
#include "models/pipeline.h"
#include "sampler/schedule.h"
#include "sampler/solver.h"

struct sampler_conf {
	char *solver;
	int64_t steps;
	double guidance; /* classifier-free guidance scale; 1: none */
	char *negative;  /* the prompt that guidance leads away from; NULL: the empty one */
	double shift;    /* 0: the model's */
	char *timesteps; /* "float" or "integer": what the transformer is told of sigma */
	int64_t batch;   /* images a forward; 0: auto */
	bool cuda_graphs;
	bool fp8; /* rollouts with 8-bit weights; who samples hands the pass */
};
/* Tables are made for the two places that sample, because their published defaults differ. */
extern const struct field_word batch_words[]; /* auto */
extern const struct field rollout_fields[], eval_sampler_fields[];

struct sampler {
	const struct pipeline *pipeline; /* borrowed */
	const struct solver_type *solver;
	struct schedule schedule;
	double guidance;
	struct cond negative;    /* of the negative prompt, one row, kept; only with guidance */
	struct replays *replays; /* NULL: forwards are run, not replayed */
};
int sampler_init(struct sampler *s, const struct pipeline *p, const struct sampler_conf *c, struct err *e);
void sampler_release(struct sampler *s);

/* x at sigma 1 -> clean latents (B, C, H, W), float32, of the innermost scope. */
at_t sampler_run(const struct sampler *s, const struct pass *pass, at_t noise_BCHW, const struct cond *c);

/* v(x, t) as the sampler has it: with guidance, both branches.  Differentiable; t_B float32 in [0, 1000]. */
at_t sampler_velocity(const struct sampler *s, const struct pass *pass, at_t x_BCHW, at_t t_B,
		      const struct cond *c);

/* The same without gradients, replayed on a GPU where it can be (replay.h): *s must stay where it is. */
at_t sampler_still_velocity(const struct sampler *s, const struct pass *pass, at_t x_BCHW, at_t t_B,
			    const struct cond *c);

/* Noise of samples id[0..n): each drawn from its own stream (seed, purpose, epoch, id), on the pipeline's
 * device. */
at_t sampler_noise(const struct pipeline *p, uint64_t seed, enum rng_purpose purpose, uint64_t epoch,
		   const int64_t *id, int n, struct at_dims shape_CHW);

#endif
