/*
 * tokenizer.h -- prompts to the ids that SD3's three text encoders read, identical to transformers'
 * tokenizers.
 *
 * Text is UTF-8; other bytes are an error.  Ids are truncated so that the closing token fits, and padded.
 */
#ifndef TOKENIZER_H
#define TOKENIZER_H
#include "base/err.h"
#include <stdint.h>

/* ---- CLIP: byte-level BPE, lower-cased, each word closed by "</w>" ------------------------------- */
struct clip_tokenizer;

/* vocab.json and merges.txt, or tokenizer.json where they are missing; tokenizer_config.json or
 * special_tokens_map.json names the padding token (its absence means "<|endoftext|>"). */
int clip_tokenizer_open(struct clip_tokenizer **t, const char *dir, struct err *e);
void clip_tokenizer_close(struct clip_tokenizer *t);
/* bos, at most length - 2 ids, eos, padding: `length` entries. */
int clip_tokenizer_encode(const struct clip_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			  struct err *e);

/* ---- T5: sentencepiece's unigram model ----------------------------------------------------------- */
struct t5_tokenizer;

/* spiece.model; the 100 sentinels <extra_id_0> .. follow its pieces in falling order. */
int t5_tokenizer_open(struct t5_tokenizer **t, const char *dir, struct err *e);
void t5_tokenizer_close(struct t5_tokenizer *t);
/* At most length - 1 ids, </s>, padding: `length` entries. */
int t5_tokenizer_encode(const struct t5_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			struct err *e);

#endif
