/*
 * added_tokens.h -- tokens that stand beside a tokenizer's vocabulary ("<|im_start|>", "<start_of_turn>") and
 * are found in the text before it is cut into others.
 */
#ifndef ADDED_TOKENS_H
#define ADDED_TOKENS_H
#include "base/err.h"
#include "base/json.h"
#include <stdint.h>

struct added_token {
	char *name;
	size_t size;
	int64_t id;
	bool normal; /* `normalized`: found in the text as the tokenizer's normaliser leaves it, not before */
};
struct added_tokens {
	struct added_token *token;
	int n, cap;
};

/* The same token twice with one id is fine. */
int added_tokens_add(struct added_tokens *t, const char *name, int64_t id, bool normal, const char *path,
		     struct err *e);
/* added_tokens of tokenizer.json: [{ "id": 107, "content": ... }]. */
int added_tokens_list(struct added_tokens *t, const json_t *list, const char *path, struct err *e);
/* added_tokens_decoder of tokenizer_config.json: { "151644": { "content": ... } }. */
int added_tokens_decoder(struct added_tokens *t, const json_t *config, const char *path, struct err *e);
/* The file added_tokens.json: { "<|im_start|>": 151644 }. */
int added_tokens_file(struct added_tokens *t, const char *path, struct err *e);
const struct added_token *added_tokens_find(const struct added_tokens *t, const char *name); /* or NULL */
/* The first of a kind in s, the longest of those that begin there: its place and *which, or n and NULL. */
size_t added_tokens_first(const struct added_tokens *t, bool normal, const char *s, size_t n,
			  const struct added_token **which);
void added_tokens_release(struct added_tokens *t);

#endif
