/* z_image.h -- Z-Image and Z-Image-Turbo (ZImagePipeline) as a model family. */
#ifndef Z_IMAGE_H
#define Z_IMAGE_H
#include "models/family.h"

extern const struct family family_z_image;
extern const struct transformer_type transformer_z_image;
extern const struct text_encoder_type z_image_text_encoder;

#endif
