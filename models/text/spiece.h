/*
 * spiece.h -- a sentencepiece model: its unigram pieces and its table of replacements, from spiece.model or
 * from tokenizer.json, the only file that transformers 5 saves.
 *
 * libsentencepiece is not used, though it could read the file: it exports a variable FLAGS_minloglevel, as
 * libtorch does, of another size; whichever the loader picks, one of them writes into what is not its own.
 * https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
 */
#ifndef SPIECE_H
#define SPIECE_H
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

struct spiece;

/* A serialized ModelProto of a unigram model, which must stay where it is; `what` names it in errors. */
int spiece_open(struct spiece **s, const void *model, size_t n, const char *what, struct err *e);
/* The same of a tokenizer.json of T5's kind: a unigram model, Precompiled text, words cut at white space with
 * the blank's sign before each; without the sentinels <extra_id_0> .. behind its pieces, whose number goes to
 * *sentinels.  What is of another kind is an error that names it. */
int spiece_open_json(struct spiece **s, const char *text, size_t n, const char *what, int *sentinels,
		     struct err *e);
void spiece_close(struct spiece *s);                                  /* NULL is fine */
int spiece_size(const struct spiece *s);                              /* pieces */
int spiece_find(const struct spiece *s, const char *piece, size_t n); /* its id; -1: there is none */
float spiece_score(const struct spiece *s, int id);                   /* its log-probability */
size_t spiece_bytes(const struct spiece *s, int id);                  /* its length */
/* NormalizerSpec.precompiled_charsmap: NULL and 0 when there is none. */
const uint8_t *spiece_table(const struct spiece *s, size_t *n);

#endif
