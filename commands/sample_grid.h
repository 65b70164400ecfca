/* sample_grid.h -- sample's one picture of all images, with captions and beside another's, or the latents. */
#ifndef SAMPLE_GRID_H
#define SAMPLE_GRID_H
#include "commands/keep.h"

struct sample_options {
	struct option_list prompt;             /* --prompt */
	const char *file;                      /* --prompts */
	struct prompts prompts;                /* either's */
	int64_t seed, per, cols, zoom, choose; /* choose: so many of the prompts; 0: all */
	const char *latents, *save_latents, *out, *against, *config;
	struct keep keep;
	bool captions, quiet;
};
/* Writes r->out and r->save_latents, where they are given, and says how they were made. */
int sample_grid(struct dist *d, const struct session_settings *used, const struct sample_options *r,
		struct err *e);

#endif
