/*
 * tokenizer.h -- prompts to the ids that text encoders read, identical to transformers' tokenizers: SD3's
 * three, Qwen's, Gemma's, and BERT's for rewards.
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

/* The same ids as open_clip's own tokenizer has, which cleans a prompt otherwise (open_clip_text.h) and knows
 * special tokens by other names. */
int clip_tokenizer_encode_open(const struct clip_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			       struct err *e);

/* ---- T5: sentencepiece's unigram model ----------------------------------------------------------- */
struct t5_tokenizer;

/* spiece.model, or tokenizer.json where it is missing; the 100 sentinels <extra_id_0> .. follow its pieces in
 * falling order. */
int t5_tokenizer_open(struct t5_tokenizer **t, const char *dir, struct err *e);
void t5_tokenizer_close(struct t5_tokenizer *t);
/* At most length - 1 ids, </s>, padding: `length` entries. */
int t5_tokenizer_encode(const struct t5_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			struct err *e);

/* ---- Qwen2, Qwen2.5 and Qwen3: byte-level BPE without case or word ends ----------------------------- */
struct qwen_tokenizer;

/* vocab.json and merges.txt, with the added tokens of tokenizer_config.json and added_tokens.json, or
 * tokenizer.json where they are missing. */
int qwen_tokenizer_open(struct qwen_tokenizer **t, const char *dir, struct err *e);
void qwen_tokenizer_close(struct qwen_tokenizer *t);
/* At most `length` ids and nothing around them, then padding: `length` entries.  Into *count, unless NULL,
 * how many come before the padding. */
int qwen_tokenizer_encode(const struct qwen_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			  int64_t *count, struct err *e);

/* ---- Gemma: BPE over characters, blanks among them -------------------------------------------------- */
struct gemma_tokenizer;

/* tokenizer.json, whose post_processor says what a text begins with (<bos>, or nothing);
 * tokenizer_config.json names the padding token (<pad>). */
int gemma_tokenizer_open(struct gemma_tokenizer **t, const char *dir, struct err *e);
void gemma_tokenizer_close(struct gemma_tokenizer *t);
/* That, at most length - 1 ids, padding: `length` entries.  *count as above, the first token included. */
int gemma_tokenizer_encode(const struct gemma_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			   int64_t *count, struct err *e);

/* ---- BERT: WordPiece ------------------------------------------------------------------------------ */
struct bert_tokenizer;

/* tokenizer.json, or vocab.txt where it is missing, with tokenizer_config.json for its lower case, accents,
 * ideographs and added tokens (its absence means bert-base-uncased). */
int bert_tokenizer_open(struct bert_tokenizer **t, const char *dir, struct err *e);
void bert_tokenizer_close(struct bert_tokenizer *t);
/* [CLS], at most length - 2 ids, [SEP], padding: `length` entries. */
int bert_tokenizer_encode(const struct bert_tokenizer *t, const char *text, int64_t length, int64_t *ids,
			  struct err *e);

/* ---- Whichever a folder holds --------------------------------------------------------------------- */
struct tokenizer;

/* By tokenizer_class of tokenizer_config.json; where that is missing or of no use, by the first of these
 * files: spiece.model is T5's, vocab.json CLIP's, vocab.txt BERT's, and tokenizer.json says whose it is. */
int tokenizer_open(struct tokenizer **t, const char *dir, struct err *e);
void tokenizer_close(struct tokenizer *t); /* NULL is fine */
/* As above; length is at least 2. */
int tokenizer_encode(const struct tokenizer *t, const char *text, int64_t length, int64_t *ids,
		     struct err *e);

#endif
