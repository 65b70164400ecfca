/*
 * pipeline.h -- a diffusers directory as one model: prompt -> conditioning -> velocity -> image.
 *
 * DIR/model_index.json names the class of each part; transformer/, vae/, text_encoder/ (for SD3 also
 * text_encoder_2/, text_encoder_3/ and tokenizers) and scheduler/ hold them.  Nothing above this file knows
 * which classes they are.  The autoencoder runs in vae_dtype.
 */
#ifndef PIPELINE_H
#define PIPELINE_H
#include "models/family.h"
#include "models/text/conditioner.h"
#include "models/lora/lora.h"
#include "models/schedule_conf.h"

struct pipeline {
	char *dir;
	const struct family *family;
	struct transformer transformer;
	struct conditioner *text;
	const struct autoencoder_type *vae_type;
	void *vae;
	struct schedule_conf schedule; /* scheduler/scheduler_config.json */
	enum at_device device;
	enum at_dtype dtype;
	int64_t vae_batch;
};

struct pipeline_options {
	const char *dir;
	enum at_dtype dtype;
	enum at_device device;
	enum at_dtype vae_dtype;
	int64_t vae_batch;   /* images decoded at a time; 0: 1 */
	int64_t text_length; /* as in text_options */
	/* A folder for embeddings of prompts (conditioner.h) and hashes of files (content_hash.h), or NULL.
	 */
	const char *text_cache;
	const struct pipeline_hashes *hashes; /* what pipeline_hash said, where it was asked, or NULL */
};
/* Names by contents: of the transformer's weights; of the text encoders and how they are used (0 for encoders
 * whose embeddings are not kept). */
struct pipeline_hashes {
	uint64_t transformer, text;
};
/* Reads all of these files, unless they are remembered; opens nothing. */
int pipeline_hash(struct pipeline_hashes *h, const struct pipeline_options *o, struct err *e);
int pipeline_open(struct pipeline *p, const struct pipeline_options *o, struct err *e);
void pipeline_close(struct pipeline *p);
/* The family of a directory, by model_index.json; without one the first.  NULL and an error where the class
 * is unknown. */
const struct family *pipeline_family(const char *dir, struct err *e);
/* The text encoders of a directory, which may lack everything else: by model_index.json, or without one by
 * the class in text_encoder/config.json.  NULL and an error where that is unknown. */
const struct text_encoder_type *pipeline_text_type(const char *dir, struct err *e);
/* The autoencoder in a folder of its own, by the class in config.json; AutoencoderKL where that has none. */
const struct autoencoder_type *pipeline_vae_type(const char *folder, struct err *e);

/* Whether images of height x width pixels (0: the model's own) can be made with the model in `dir`, by its
 * configurations alone: before anything is loaded.  `what` goes before "height" and "width" in the error. */
int pipeline_check_size(const char *dir, int64_t height, int64_t width, const char *what, struct err *e);
/* The latents of an image of height x width pixels (0: the transformer's sample_size): without the batch. */
struct at_dims pipeline_latent_shape(const struct pipeline *p, int64_t height, int64_t width);
/* What the transformer makes of latents of that shape: the number that a dynamic schedule depends on. */
int64_t pipeline_tokens(const struct pipeline *p, struct at_dims latent_CHW);

/* The text encoders are the larger part of a model: with a cache, conditioner_rest(p->text) frees them once
 * every prompt is known. */
int pipeline_encode(const struct pipeline *p, const char *const *prompts, int n, struct cond *out,
		    struct err *e);
/* The prompt that guidance leads away from: one row. */
int pipeline_encode_negative(const struct pipeline *p, const char *prompt, struct cond *out, struct err *e);
/* v(x, t): t_B is float32 in [0, 1000]; x and the result are float32 whatever the weights are.  guidance_B:
 * of a transformer whose facts say `guided`, else NULL. */
at_t pipeline_velocity(const struct pipeline *p, const struct pass *pass, at_t x_BCHW, at_t t_B,
		       const struct cond *c, at_t guidance_B);
/* Latents -> 8-bit RGB: clamp(x / 2 + 0.5, 0, 1) * 255 rounded to nearest; uint8 (B, H, W, 3), on the
 * pipeline's device and on the CPU. */
at_t pipeline_pixels(const struct pipeline *p, at_t latents_BChw);
at_t pipeline_images(const struct pipeline *p, at_t latents_BChw);

/* model_index.json and scheduler/scheduler_config.json of a new model directory; the parts save themselves.
 */
int pipeline_write_index(const char *dir, const struct family *f, const char *text_class,
			 const char *vae_class, double shift, struct err *e);

#endif
