/*
 * family.h -- a model family: what the class of a pipeline decides and no configuration file holds.
 *
 * One constant a pipeline class of diffusers, in the family's folder; families.c lists them.
 */
#ifndef FAMILY_H
#define FAMILY_H
#include "models/encoder.h"
#include "models/schedule_conf.h"
#include "models/transformer.h"

struct family {
	const char *class_name; /* of model_index.json: "StableDiffusion3Pipeline" */
	const struct transformer_type *transformer;
	/* By the class of the folder text_encoder; NULL-terminated. */
	const struct text_encoder_type *const *text;
	const struct autoencoder_type *const *vae; /* by the class of the folder vae; NULL-terminated */
	enum schedule_grid grid;                   /* of its noise levels; scheduler/ has the rest */
	enum schedule_mu mu;
	/* Tokens of a prompt in training, unless model.text_length says; 0: as the stock pipeline. */
	int64_t text_length;
	int64_t text_beside;  /* rows of a prompt's text beside those: CLIP's 77 of SD3 */
	const char *negative; /* the prompt that guidance leads away from unless told */
	/* Guidance of scale g from the velocities with and without the prompt; NULL: v0 + g (v1 - v0). */
	at_t (*guide)(at_t v1, at_t v0, double g);
};

extern const struct family *const families[]; /* NULL-terminated */

#endif
