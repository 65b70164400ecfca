/*
 * normals.h -- noise made on the device that needs it.
 */
#ifndef NORMALS_H
#define NORMALS_H
#include "aten/at.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Unit normals of `shape` (B, ...), float32, where the names are: row b has the bits of base/rng.h's
 * rng_normals from the stream of that seed which rng_name calls names[b]; int64 (B, 2). */
at_t at_normals(uint64_t seed, at_t names_B2, struct at_dims shape);

#ifdef __cplusplus
}
#endif
#endif
