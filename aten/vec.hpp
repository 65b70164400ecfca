// vec.hpp -- sixteen floats at a time, for kernels that are compiled for several instruction sets.
#pragma once
#include <cstdint>
#include <cstring>

namespace lanes
{
constexpr int LANES = 16;
typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(4)));
#define INLINE inline __attribute__((always_inline))

// Vectors go by reference: by value, their place in registers would depend on the instruction set of a clone.
INLINE vec &as_vec(float *p)
{
	return *reinterpret_cast<vec *>(p);
}
INLINE const vec &as_vec(const float *p)
{
	return *reinterpret_cast<const vec *>(p);
}

// x becomes e^x, for x <= 0, within 2 ulp: 2^n times a polynomial on [-ln2 / 2, ln2 / 2] (Cephes' expf); 0
// below -87.
INLINE void exp_in_place(vec &x)
{
	ivec alive = x > -87.0f;
	x = x < -88.0f ? vec {} - 88.0f : x;   // -inf would become a NaN below; a NaN stays one
	vec t = x * 1.44269504f + 12582912.0f; // the sum's low bits hold the rounded product
	vec n = t - 12582912.0f;
	vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
	vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * r * r + r + 1.0f;
	ivec bits;
	memcpy(&bits, &t, sizeof bits);
	ivec power = ((bits - 0x4b400000) + 127) << 23;
	vec two;
	power &= alive;
	memcpy(&two, &power, sizeof two);
	x = p * two;
}
} // namespace lanes
