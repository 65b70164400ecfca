#include "base/rng.h"
#include <assert.h>
#include <math.h>
#include <string.h>

enum { ROUNDS = 10 };

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
	uint32_t k0 = key[0], k1 = key[1];

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
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

static void next_block(struct rng *r, uint32_t out[4])
{
	const uint32_t counter[4] = { r->index, r->hi[2], r->hi[1], r->hi[0] };

	assert(r->index < UINT32_MAX);
	philox4x32(counter, r->key, out);
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

/*
 * log, sin and cos from +, *, / alone: libm picks other code on other processors and in other versions, and a
 * latent must not depend on them.  Both series are exact to about 1e-16, far below a float's rounding.
 */

/* sqrt(-2 log u) of u = (w + 1) / 2^32 in (0, 1]. */
static double radius(uint32_t w)
{
	static const double one = 1.0;
	double x = (double)w + 1.0, m;
	uint64_t bits, one_bits;

	/* x = m 2^e with m in [1/sqrt 2, sqrt 2): 0x95f62 are the top mantissa bits that sqrt 2 lacks to 2.
	 */
	memcpy(&bits, &x, sizeof bits);
	memcpy(&one_bits, &one, sizeof one_bits);
	uint64_t up = bits + ((uint64_t)0x95f62 << 32);
	int e = (int)(up >> 52) - 1023;
	bits -= (up & ((uint64_t)0xfff << 52)) - one_bits;
	memcpy(&m, &bits, sizeof m);

	/* log m = 2 atanh s, |s| < 0.172. */
	double s = (m - 1.0) / (m + 1.0), z = s * s, p = 1.0 / 21;
	for (int k = 19; k > 0; k -= 2)
		p = p * z + 1.0 / k;
	double log_u = 2.0 * s * p + (e - 32) * 0.693147180559945309417;
	return sqrt(log_u < 0.0 ? -2.0 * log_u : 0.0);
}

/* The point of the unit circle at w / 2^32 of a turn. */
static void circle(uint32_t w, double *c, double *s)
{
	uint32_t quarter = (w + (1u << 29)) >> 30; /* the nearest; 4 is 0 again after the shift's wrap */
	double x = (double)(int32_t)(w - (quarter << 30)) * (6.283185307179586476925 * 0x1p-32), z = x * x;
	double sine =
	    x * (1.0 +
		 z * (-1.0 / 6 +
		      z * (1.0 / 120 +
			   z * (-1.0 / 5040 + z * (1.0 / 362880 + z * (-1.0 / 39916800 +
								       z * (1.0 / 6227020800 +
									    z * (-1.0 / 1307674368000))))))));
	double cosine =
	    1.0 +
	    z * (-1.0 / 2 +
		 z * (1.0 / 24 + z * (-1.0 / 720 +
				      z * (1.0 / 40320 +
					   z * (-1.0 / 3628800 +
						z * (1.0 / 479001600 + z * (-1.0 / 87178291200 +
									    z * (1.0 / 20922789888000))))))));
	double a = quarter & 1 ? sine : cosine, b = quarter & 1 ? cosine : sine;

	*c = (quarter + 1) & 2 ? -a : a;
	*s = quarter & 2 ? -b : b;
}

double rng_normal(struct rng *r)
{
	uint32_t u = rng_u32(r), v = rng_u32(r);
	double c, s;

	circle(v, &c, &s);
	return radius(u) * c;
}

void rng_normals(struct rng *r, float *out, size_t n)
{
	r->left = 0;
	for (size_t i = 0; i < n; i += 4) {
		uint32_t w[4];
		double c0, s0, c1, s1;
		next_block(r, w);
		double r0 = radius(w[0]), r1 = radius(w[2]);
		circle(w[1], &c0, &s0);
		circle(w[3], &c1, &s1);
		float z[4] = { (float)(r0 * c0), (float)(r0 * s0), (float)(r1 * c1), (float)(r1 * s1) };
		memcpy(out + i, z, (n - i < 4 ? n - i : 4) * sizeof *z);
	}
}
