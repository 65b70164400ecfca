/*
 * clip.h -- CLIP whole (arXiv 2103.00020): an image and a text as points on one sphere.
 *
 * DIR is a folder of transformers' CLIPModel (config.json, model.safetensors, preprocessor_config.json) or of
 * open_clip (open_clip_config.json, open_clip_model.safetensors), with the tokenizer's files beside.  Pixels
 * are resized as PIL does it.
 */
#ifndef CLIP_H
#define CLIP_H
#include "models/text/clip_text.h"

struct clip_vision {
	int64_t image_size, patch_size, projection_dim;
	struct clip_layers layers;
	at_t class_D, patch_w_D3pp, position_ND, pre_w, pre_b, post_w, post_b;
	struct nn_linear projection;
	at_t projection_DP; /* open_clip's, the other way round; NULL with `projection` */
};
struct clip {
	struct nn_net net;
	struct clip_text text;
	struct clip_vision vision;
	struct clip_tokenizer *tokenizer;
	double logit_scale; /* exp of the file's value: about 100 */
	double mean[3], std[3];
	enum at_dtype dtype;
	enum at_device device;
	char *dir;
	const char *stem; /* of its files of weights */
};

/* How an image that is not square becomes one. */
enum clip_fit {
	CLIP_CROP,         /* the shorter side is resized, the longer cut off on both sides (transformers) */
	CLIP_CROP_ROUNDED, /* likewise, half a pixel rounded to even ones (torchvision, as open_clip uses it)
			    */
	CLIP_PAD           /* the longer side is resized, the shorter filled up with black (HPSv2) */
};

/* Its configuration, tokenizer and the names and shapes of its weights: all that tokenizing needs.  Must not
 * move while open. */
int clip_open(struct clip *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e);
int clip_load(struct clip *m, struct err *e); /* the weights, before the first features */
void clip_release(struct clip *m);
/* (3, image_size, image_size) normalised values of an 8-bit image. */
void clip_pixels(const struct clip *m, enum clip_fit fit, const uint8_t *rgb, int w, int h, float *out);
/* Unit vectors (B, P), float32, of the innermost scope. */
at_t clip_image_features(const struct clip *m, at_t pixels_B3SS);
/* Tokens as transformers cuts them, or as open_clip does, whichever the published scores were made with. */
int clip_text_features(const struct clip *m, bool as_open_clip, const char *const *prompts, int n,
		       at_t *out_BP, struct err *e);

#endif
