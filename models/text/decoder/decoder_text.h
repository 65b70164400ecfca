/*
 * decoder_text.h -- conditioning from a decoder: what families of models differ in is one struct, and these
 * functions are a struct text_encoder_type's behind it.
 *
 * The prompt stands in a string, which DIR/tokenizer makes ids of and DIR/text_encoder hidden states; those
 * of a token lie side by side in a row of "text".
 */
#ifndef DECODER_TEXT_H
#define DECODER_TEXT_H
#include "models/encoder.h"
#include "models/text/decoder/decoder.h"

struct decoder_prompt {
	const char *before, *after; /* the prompt stands between them */
	int64_t rows;               /* at most, unless text_options has a text_length */
	int64_t tokens;             /* of the string that are read, more are cut off; 0: as many as rows */
	int64_t drop;               /* rows of the first tokens, left out whatever they are */
	/* `before` is an instruction, of which the rows of the first and the last token stay; a prompt behind
	 * TEXT_NEGATIVE goes without.  Prompts are lower-cased, and blanks around them stripped.  `drop` and
	 * `tokens` follow from the tokenizer. */
	bool instructed;
	bool gemma; /* its tokenizer is Gemma's, else Qwen's */
	bool fill;  /* with padding, up to `rows`: there are always so many.  Else a prompt alone has as many
		       as it has tokens, and no padding. */
	int states; /* how many hidden states, */
	int64_t state[DECODER_STATES]; /* and which (decoder_open) */
};

int decoder_text_open(void **state, const struct decoder_prompt *how, const struct text_options *o,
		      struct err *e);
int decoder_text_hash(uint64_t *hash, const struct decoder_prompt *how, const struct text_options *o,
		      struct err *e);
int decoder_text_encode(void *state, const char *const *prompts, int n, struct cond *out, struct err *e);
int decoder_text_tokenize(void *state, const char *const *prompts, int n, at_t ids_BL[TEXT_TOKENIZERS],
			  struct err *e);
void decoder_text_close(void *state);

#endif
