/*
 * rng_formulas.h -- from a counter to words and from words to normals, written once for the CPU (rng.c) and
 * the GPU (aten/kernels/normals.cu).
 *
 * Arithmetic alone, each operation rounded as IEEE 754 says and none contracted (-ffp-contract=off, nvcc's
 * -fmad=false): the same bits everywhere.
 */
#ifndef RNG_FORMULAS_H
#define RNG_FORMULAS_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __CUDACC__
#define RNG_FORMULA static inline __device__
#else
#define RNG_FORMULA static inline
#endif

enum { RNG_ROUNDS = 10 };

/* Philox 4x32-10. */
RNG_FORMULA void rng_words(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
	uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
	uint32_t k0 = key[0], k1 = key[1];

	for (int i = 0; i < RNG_ROUNDS; i++) {
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

/*
 * log, sin and cos from +, *, / alone: libm picks other code on other processors and in other versions, and a
 * latent must not depend on them.  Both series are exact to about 1e-16, far below a float's rounding.
 */

/* sqrt(-2 log u) of u = (w + 1) / 2^32 in (0, 1]. */
RNG_FORMULA double rng_radius(uint32_t w)
{
	const uint64_t one_bits = (uint64_t)1023 << 52;
	double x = (double)w + 1.0, m;
	uint64_t bits;

	/* x = m 2^e with m in [1/sqrt 2, sqrt 2): 0x95f62 are the top mantissa bits that sqrt 2 lacks to 2.
	 */
	memcpy(&bits, &x, sizeof bits);
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
RNG_FORMULA void rng_circle(uint32_t w, double *c, double *s)
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

/* The four normals of a block of words (rng_normals). */
RNG_FORMULA void rng_four(const uint32_t w[4], float z[4])
{
	for (int i = 0; i < 4; i += 2) {
		double r = rng_radius(w[i]), c, s;
		rng_circle(w[i + 1], &c, &s);
		z[i] = (float)(r * c);
		z[i + 1] = (float)(r * s);
	}
}

#endif
