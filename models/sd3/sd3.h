/* sd3.h -- Stable Diffusion 3 and 3.5 (StableDiffusion3Pipeline) as a model family. */
#ifndef SD3_H
#define SD3_H
#include "models/family.h"

extern const struct family family_sd3;
extern const struct transformer_type transformer_sd3;

#endif
