/*
 * tiny_model.h -- a model of the shapes world while it is pretrained: word embeddings, a linear autoencoder
 * and a small transformer of Stable Diffusion 3's kind, saved as a model directory.
 */
#ifndef TINY_MODEL_H
#define TINY_MODEL_H
#include "models/encoder.h"
#include "models/transformer.h"

struct tiny_conf {
	int64_t side, channels; /* of the latents */
	int64_t patch, layers, heads, head_dim, dual_layers;
	bool qk_norm;
	int64_t text_dim, text_length;
	double shift; /* of the schedule */
};
/* Must not move while it is open: its networks' lists point into it. */
struct tiny_model {
	struct tiny_conf conf;
	struct word_encoder words;
	struct linear_ae ae; /* who made the model fits it */
	struct transformer transformer;
};
/* Random weights; words in the order of their ids. */
int tiny_model_new(struct tiny_model *m, const struct tiny_conf *c, const char *const *words, int n_words,
		   uint64_t seed, struct err *e);
/* The weights and the autoencoder of a model directory that tiny_model_save made, of the same sizes and
 * words. */
int tiny_model_load(struct tiny_model *m, const char *dir, struct err *e);
/* t_B in [0, 1]; differentiable in the transformer and the embeddings. */
at_t tiny_model_velocity(const struct tiny_model *m, at_t x_BChw, at_t t_B, at_t ids_BL);
/* Replaces DIR. */
int tiny_model_save(const struct tiny_model *m, const char *dir, struct err *e);
void tiny_model_release(struct tiny_model *m);

#endif
