/*
 * byte_pairs.h -- byte-level BPE: tokens are runs of bytes, and a word's bytes are merged pair by pair in the
 * order of a learned list.  CLIP's and Qwen's tokenizers are made of it.
 */
#ifndef BYTE_PAIRS_H
#define BYTE_PAIRS_H
#include "base/json.h"
#include <stdint.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct byte_pair {
	uint64_t pair; /* left id << 32 | right id */
	int32_t rank, id;
};
struct byte_pairs {
	char *path;    /* of the vocabulary, for messages */
	json_t *vocab; /* token -> id */
	json_t *whole; /* tokenizer.json, where it was read; else NULL */
	struct byte_pair *merge;
	size_t n_merge;
};

/* DIR/vocab.json and merges.txt, or tokenizer.json where the first is missing. */
int byte_pairs_open(struct byte_pairs *b, const char *dir, struct err *e);
void byte_pairs_release(struct byte_pairs *b);
/* The id of a token, or -1. */
int64_t byte_pairs_id(const struct byte_pairs *b, const char *token);
/* The ids of all bytes with `suffix` behind their names; -1: the vocabulary has none. */
void byte_pairs_bytes(const struct byte_pairs *b, const char *suffix, int32_t id[256]);
/* A word's bytes become ids in place of id[0..n); returns how many are left.  The pair of lowest rank is
 * merged first, the leftmost of equals; ids below 0 never merge. */
size_t byte_pairs_merge(const struct byte_pairs *b, int32_t *id, size_t n);

/* What tokenizer_config.json, or else special_tokens_map.json, has under such a key ("pad_token"); free().
 * NULL where neither says. */
int byte_pairs_special(char **token, const char *dir, const char *key, struct err *e);
/* An expression that finds words in UTF-8. */
pcre2_code *byte_pairs_words(const char *expression);

#endif
