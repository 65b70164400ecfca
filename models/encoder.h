/*
 * encoder.h -- what turns prompts into conditioning, and latents into images: two small interfaces with one
 * file an implementation, chosen by the class that model_index.json names.
 */
#ifndef ENCODER_H
#define ENCODER_H
#include "models/cond.h"
#include "models/nn.h"

struct text_options {
	const char *dir; /* the model directory: an encoder may have several folders in it */
	int64_t
	    text_length; /* tokens of a prompt that are read, more are cut off; 0: as the stock pipeline */
	int64_t width;   /* channels that the transformer reads; 0: not known */
	enum at_dtype dtype;
	enum at_device device;
	const char *hashes; /* for `hash`: where hashes of files are remembered (content_hash.h), or NULL */
};
#define TEXT_TOKENIZERS 3 /* the most that an encoder has */
/* What stands before the prompt that guidance leads away from, for encoders that treat it otherwise. */
#define TEXT_NEGATIVE "\x01"

struct text_encoder_type {
	const char *class_name; /* of the folder text_encoder: "WordTextEncoder" */
	bool marks_negative;    /* it is to have TEXT_NEGATIVE */
	int (*open)(void **state, const struct text_options *o, struct err *e);
	/* Of all that an embedding depends on but its prompt; NULL: too cheap to be kept */
	int (*hash)(uint64_t *hash, const struct text_options *o, struct err *e);
	/* tensors of the innermost scope */
	int (*encode)(void *state, const char *const *prompts, int n, struct cond *out, struct err *e);
	/* The ids that its tokenizers make, on the CPU, for comparisons; NULL for one that the model lacks.
	 */
	int (*tokenize)(void *state, const char *const *prompts, int n, at_t ids_BL[TEXT_TOKENIZERS],
			struct err *e);
	void (*close)(void *state);
};

struct autoencoder_type {
	const char *class_name; /* "LinearAutoencoder" */
	int (*open)(void **state, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e);
	/* Latents as the sampler makes them (B, C, h, w) -> unclamped pixels in [-1, 1], and back. Where
	 * decoding takes memory, it is that of `at_a_time` images. */
	at_t (*decode)(void *state, at_t latents_BChw, int64_t at_a_time);
	at_t (*encode)(void *state, at_t pixels_B3HW);
	int64_t (*scale)(void *state); /* pixels a latent: 4 here, 8 for SD3 */
	/* The same by DIR/config.json alone. */
	int (*read_scale)(int64_t *scale, const char *dir, struct err *e);
	int64_t (*channels)(void *state);
	void (*close)(void *state);
};

extern const struct text_encoder_type word_text_encoder, sd3_text_encoder;
extern const struct autoencoder_type linear_autoencoder, kl_autoencoder, flux2_autoencoder;

/* ---- WordTextEncoder: learned embeddings of words and positions; the pooled vector is their mean. ---- */
struct word_encoder {
	int64_t dim, length; /* E (= P) and L: prompts are padded with word 0 "<pad>" to L */
	int n_words;
	char **word; /* NULL-terminated */
	struct nn_net net;
	at_t token_VE, position_LE; /* token_embedding.weight, position_embedding.weight */
};
/* Random embeddings (standard normal, float32, CPU).  `words` in the order of their ids; "<pad>" is put first
 * unless it is there.  A word is lower-case without blanks, and none comes twice: else an error. */
int word_encoder_new(struct word_encoder *w, const char *const *words, int n, int64_t dim, int64_t length,
		     uint64_t seed, struct err *e);
int word_encoder_open(struct word_encoder *w, const char *dir, enum at_dtype dt, enum at_device dev,
		      struct err *e);
/* config.json, vocab.json, model.safetensors */
int word_encoder_save(const struct word_encoder *w, const char *dir, struct err *e);
void word_encoder_release(struct word_encoder *w);
/* Lower-cased words split at white space; an unknown word or too many words is an error that names it.
 * ids: length entries. */
int word_encoder_tokenize(const struct word_encoder *w, const char *prompt, int64_t *ids, struct err *e);
void word_encoder_forward(const struct word_encoder *w, at_t ids_BL, struct cond *out); /* differentiable */

/* ---- LinearAutoencoder: patches of scale x scale x 3 pixels <-> C channels by a fixed linear map. ---- */
struct linear_ae {
	int64_t scale, channels;
	struct nn_net net;
	/* F = 3 * scale * scale, ordered (3, y, x); z = E (x - mean), x = D z + mean */
	at_t encode_CF, decode_FC, mean_F;
};
/* PCA of patches_NF, in float64 on the CPU: component k divided by std_k^0.5, then all by one factor to unit
 * global variance.  A component without variance encodes to 0.  channels <= F. */
int linear_ae_fit(struct linear_ae *a, at_t patches_NF, int64_t scale, int64_t channels, struct err *e);
int linear_ae_open(struct linear_ae *a, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e);
int linear_ae_save(const struct linear_ae *a, const char *dir, struct err *e);
void linear_ae_release(struct linear_ae *a);
at_t linear_ae_decode(const struct linear_ae *a, at_t z_BChw);
at_t linear_ae_encode(const struct linear_ae *a, at_t x_B3HW);

#endif
