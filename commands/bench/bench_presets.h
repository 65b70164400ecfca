/* bench_presets.h -- models of published sizes that `bench` makes with random weights. */
#ifndef BENCH_PRESETS_H
#define BENCH_PRESETS_H
#include "models/vae/vae.h"

#define BENCH_PRESETS "tiny, medium, z-image"

struct bench_preset {
	const char *name, *transformer; /* as in its config.json */
	int64_t latent, text_tokens;
	struct vae_conf vae;
};
const struct bench_preset *bench_preset_find(const char *name); /* NULL: there is none */

#endif
