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
	char *solver; /* a name, or with a slash the path of a plug-in */
	int64_t steps;
	double guidance; /* classifier-free guidance scale; 1: none */
	char *negative;  /* the prompt that guidance leads away from; NULL: the empty one */
	double shift;    /* 0: the model's */
	double eta;      /* noise of a stochastic solver; below 0: as much as the solver has by itself */
	char *grid;      /* "diffusers": the family's, or "even": GRID_STEPS, f(1 - i / steps) */
	char *timesteps; /* "float" or "integer": what the transformer is told of sigma */
	int64_t batch;   /* images a forward; 0: auto */
	bool cuda_graphs;
	bool fp8; /* rollouts with 8-bit weights; who samples hands the pass */
};
/* What can be tried without a model: the solver is there, and takes eta.  A message that begins with the key.
 */
int sampler_check(const struct sampler_conf *c, struct err *e);
/* Tables are made for the two places that sample, because their published defaults differ. */
extern const struct field_word batch_words[]; /* auto */
extern const struct field rollout_fields[], eval_sampler_fields[];

struct sampler {
	const struct pipeline *pipeline;  /* borrowed */
	const struct solver_type *solver; /* the sampler's own */
	struct schedule schedule;
	double eta;               /* of the steps noisy_from <= i < noisy_to, 0 at all others; */
	int noisy_from, noisy_to; /* all steps, until the owner says otherwise between runs */
	double guidance;
	struct cond negative;    /* of the negative prompt, one row, kept; only with guidance */
	struct replays *replays; /* NULL: forwards are run, not replayed */
};
/* For latents of one shape, on whose size the schedule may depend. */
int sampler_init(struct sampler *s, const struct pipeline *p, const struct sampler_conf *c,
		 struct at_dims latent_CHW, struct err *e);
void sampler_release(struct sampler *s);

/* What happens on the way.  Noise of a step is a function of (seed, purpose, epoch, sample, step): the same
 * for any batch size and number of ranks, and to be had again without the steps before. */
struct sampler_steps {
	uint64_t seed, epoch;
	enum rng_purpose purpose; /* RNG_SOLVER, RNG_EVAL_SOLVER or RNG_USER_SOLVER */
	const int64_t *id;        /* the samples, one a row */
	/* NULL, or called after each step that has a law and noise in it (solver.h). */
	void (*record)(void *ctx, int i, at_t x_BCHW, at_t next_BCHW);
	void *ctx;
	int64_t *forwards; /* NULL, or counts up: forwards of an image, two a velocity with guidance */
	int stop;          /* end after so many steps, for who measures; 0: after all */
};
/* x at sigma 1 -> clean latents (B, C, H, W), float32, of the innermost scope.  `steps` may be NULL for a
 * solver that adds no noise. */
at_t sampler_run(const struct sampler *s, const struct pass *pass, at_t noise_BCHW, const struct cond *c,
		 const struct sampler_steps *steps);
/* Unit normals of step i for the n samples in k->id, on the pipeline's device. */
at_t sampler_step_noise(const struct pipeline *p, const struct sampler_steps *k, int i, int n,
			struct at_dims shape_CHW);
/* The law of step i with the sampler's eta and window; only where the solver has one (s->solver->law). */
struct transition sampler_law(const struct sampler *s, int i);

/* v(x, t) as the sampler has it: with guidance, both branches.  Differentiable; t_B float32 in [0, 1000]. */
at_t sampler_velocity(const struct sampler *s, const struct pass *pass, at_t x_BCHW, at_t t_B,
		      const struct cond *c);

/* Forwards of the transformer that a velocity takes: with guidance 2, unless the model is told of it. */
int sampler_passes(const struct sampler *s);

/* The same without gradients, replayed on a GPU where it can be (replay.h): *s must stay where it is. */
at_t sampler_still_velocity(const struct sampler *s, const struct pass *pass, at_t x_BCHW, at_t t_B,
			    const struct cond *c);

/* Noise of samples id[0..n): each drawn from its own stream (seed, purpose, epoch, id), on the pipeline's
 * device. */
at_t sampler_noise(const struct pipeline *p, uint64_t seed, enum rng_purpose purpose, uint64_t epoch,
		   const int64_t *id, int n, struct at_dims shape_CHW);

#endif
