/* families.c -- the model families that there are.  Adding one: docs/extending.md. */
#include "models/family.h"
#include "models/flux/flux.h"
#include "models/flux2/flux2.h"
#include "models/qwen_image/qwen_image.h"
#include "models/sana/sana.h"
#include "models/sd3/sd3.h"
#include "models/z_image/z_image.h"

const struct family *const families[] = { &family_sd3,     &family_flux, &family_flux2, &family_qwen_image,
					  &family_z_image, &family_sana, NULL };
