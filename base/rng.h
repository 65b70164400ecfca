/*
 * rng.h -- randomness as a function: every number is named by what it is for, never by who drew it when.
 *
 * Philox 4x32-10 (Salmon et al., SC'11) keyed by the seed; the counter holds (index, sample, epoch, purpose).
 * Nothing needs saving, and neither the number of ranks nor the order of calls changes a value.
 */
#ifndef RNG_H
#define RNG_H
#include <stddef.h>
#include <stdint.h>

enum rng_purpose {                   /* values are part of the file format: append, never renumber */
		   RNG_PROMPTS = 1,  /* order of the prompts of an epoch */
		   RNG_LATENT = 2,   /* initial latents of a rollout */
		   RNG_SOLVER = 3,   /* noise inside a stochastic solver, in a rollout */
		   RNG_SHUFFLE = 4,  /* order of the samples in an update */
		   RNG_TIMESTEP = 5, /* which timesteps a sample is trained at, and their order */
		   RNG_DIFFUSE = 6,  /* the noise of x_t in an update */
		   RNG_KL = 7,       /* which samples get a reference velocity */
		   RNG_LORA_INIT = 8,
		   RNG_MODEL_INIT = 9,
		   RNG_EVAL = 10,        /* initial latents of an evaluation */
		   RNG_SCENE = 11,       /* the shapes world's scenes */
		   RNG_CAPTION = 12,     /* caption noise in pretraining */
		   RNG_USER = 13,        /* `sample --seed` */
		   RNG_EVAL_SOLVER = 14, /* noise inside a stochastic solver, in an evaluation */
		   RNG_USER_SOLVER = 15, /* and in `sample` */
		   RNG_WINDOW = 16,      /* which steps of a rollout take noise */
		   RNG_BOOTSTRAP = 17,   /* prompts drawn again, for intervals */
		   RNG_HEALTH = 18,      /* which numbers of a latent its diversity is told by */
};

struct rng { /* a stream: (seed, purpose, epoch, sample) name it, index runs */
	uint32_t key[2];
	uint32_t hi[3]; /* purpose | epoch's high bits, epoch's low 32 bits, sample */
	uint32_t index; /* blocks of four 32-bit words used so far */
	uint32_t word[4];
	int left; /* words of `word` not yet given out */
};

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]); /* 10 rounds */

/* purpose < 2^16, epoch < 2^48, sample < 2^32. */
struct rng rng_make(uint64_t seed, enum rng_purpose purpose, uint64_t epoch, uint64_t sample);
/* A stream for every step of a sample.  epoch < 2^32, step < 2^16; of purposes that draw by step alone, since
 * step 0 has rng_make's stream. */
struct rng rng_make_step(uint64_t seed, enum rng_purpose purpose, uint64_t epoch, uint64_t sample,
			 uint64_t step);
/* A fresh stream's name beyond its seed, for whoever draws where there are no structs (at_normals). */
void rng_name(const struct rng *r, int64_t name[2]);
uint32_t rng_u32(struct rng *r);
double rng_uniform(struct rng *r);             /* [0, 1), 53 bits */
uint32_t rng_below(struct rng *r, uint32_t n); /* [0, n), unbiased; n > 0 */
double
rng_normal(struct rng *r); /* Box-Muller in double from two 32-bit words; its second value is not kept */
void rng_shuffle(struct rng *r, int64_t *v, int64_t n); /* Fisher-Yates */

/* n standard normals, from a fresh block of four words on (words left of the last one are dropped): words w0
 * w1 give r cos a, r sin a with r = sqrt(-2 log((w0 + 1) / 2^32)) and a = 2 pi w1 / 2^32; w2 w3 give the next
 * two.  Computed in double from arithmetic alone, so the bits are the same with every libm, compiler and
 * processor. */
void rng_normals(struct rng *r, float *out, size_t n);

#endif
