#include "base/rng.h"
#include "base/rng_formulas.h"
#include <assert.h>
#include <string.h>

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
	rng_words(counter, key, out);
}

struct rng rng_make(uint64_t seed, enum rng_purpose purpose, uint64_t epoch, uint64_t sample)
{
	assert((uint32_t)purpose < 1u << 16 && epoch < (uint64_t)1 << 48 && sample < (uint64_t)1 << 32);
	return (struct rng) {
		.key = { (uint32_t)seed, (uint32_t)(seed >> 32) },
		.hi = { (uint32_t)purpose | (uint32_t)(epoch >> 32) << 16, (uint32_t)epoch,
			(uint32_t)sample },
	};
}

struct rng rng_make_step(uint64_t seed, enum rng_purpose purpose, uint64_t epoch, uint64_t sample,
			 uint64_t step)
{
	assert(epoch < (uint64_t)1 << 32 && step < (uint64_t)1 << 16);
	return rng_make(seed, purpose, epoch | step << 32, sample);
}

void rng_name(const struct rng *r, int64_t name[2])
{
	name[0] = (int64_t)((uint64_t)r->hi[0] << 32 | r->hi[1]);
	name[1] = r->hi[2];
}

static void next_block(struct rng *r, uint32_t out[4])
{
	const uint32_t counter[4] = { r->index, r->hi[2], r->hi[1], r->hi[0] };

	assert(r->index < UINT32_MAX);
	rng_words(counter, r->key, out);
	r->index++;
}

uint32_t rng_u32(struct rng *r)
{
	if (!r->left) {
		next_block(r, r->word);
		r->left = 4;
	}
	return r->word[4 - r->left--];
}

double rng_uniform(struct rng *r)
{
	uint32_t high = rng_u32(r) >> 5, low = rng_u32(r) >> 6;

	return (high * 67108864.0 + low) * 0x1p-53;
}

/* Lemire, "Fast random integer generation in an interval" (2019). */
uint32_t rng_below(struct rng *r, uint32_t n)
{
	assert(n > 0);
	uint64_t m = (uint64_t)rng_u32(r) * n;
	if ((uint32_t)m < n) {
		uint32_t unfair = (uint32_t)-n % n;
		while ((uint32_t)m < unfair)
			m = (uint64_t)rng_u32(r) * n;
	}
	return (uint32_t)(m >> 32);
}

void rng_shuffle(struct rng *r, int64_t *v, int64_t n)
{
	assert(n <= UINT32_MAX);
	for (int64_t i = n - 1; i > 0; i--) {
		int64_t j = rng_below(r, (uint32_t)i + 1), keep = v[i];
		v[i] = v[j];
		v[j] = keep;
	}
}

double rng_normal(struct rng *r)
{
	uint32_t u = rng_u32(r), v = rng_u32(r);
	double c, s;

	rng_circle(v, &c, &s);
	return rng_radius(u) * c;
}

void rng_normals(struct rng *r, float *out, size_t n)
{
	r->left = 0;
	for (size_t i = 0; i < n; i += 4) {
		uint32_t w[4];
		float z[4];
		next_block(r, w);
		rng_four(w, z);
		memcpy(out + i, z, (n - i < 4 ? n - i : 4) * sizeof *z);
	}
}
