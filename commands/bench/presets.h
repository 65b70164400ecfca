/*
 * presets.h -- models of which the sizes are known here, so that they can be timed (bench) and planned for
 * (plan) without any file of theirs.
 */
#ifndef PRESETS_H
#define PRESETS_H
#include "base/json.h"
#include "models/family.h"
#include "models/vae/vae.h"

#define PRESETS "tiny, medium, sd3.5-large, flux1-dev, z-image, qwen-image, flux2-klein, sana-1.5"

struct preset {
	const char *name, *transformer;     /* the transformer's config.json */
	int64_t latent, text_tokens, scale; /* latents of 512 pixels, a usual prompt, pixels a latent */
	const struct vae_conf *vae;         /* NULL: of another kind, whose time is not known */
};
const struct preset *preset_find(const char *name); /* NULL: none */
json_t *preset_config(const struct preset *p, struct err *e);
/* By the class that a transformer's config.json names, SD3's without one; NULL and an error where that is
 * unknown. */
const struct family *preset_family(const json_t *config, const char *what, struct err *e);

#endif
