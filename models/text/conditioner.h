/*
 * conditioner.h -- prompts -> conditioning: a text encoder that is open only while it is needed, and the
 * cache of what it has made.
 *
 * With a cache, encoders are opened for the first prompt that is not in it, and closed by
 * conditioner_rest().  Each prompt is encoded alone: its embedding then has the same bits whatever is encoded
 * with it and on however many ranks.
 */
#ifndef CONDITIONER_H
#define CONDITIONER_H
#include "models/encoder.h"

struct conditioner;

/* cache: a folder, or NULL; encoders whose type has no hash() do without one.  hash: what type->hash says of
 * *o, where the caller knows it, or NULL.  The strings of *o are copied. */
int conditioner_open(struct conditioner **c, const struct text_encoder_type *type,
		     const struct text_options *o, const char *cache, const uint64_t *hash, struct err *e);
void conditioner_close(struct conditioner *c); /* NULL is fine */
int conditioner_encode(struct conditioner *c, const char *const *prompts, int n, struct cond *out,
		       struct err *e);
/* The prompt that guidance leads away from: one row. */
int conditioner_encode_negative(struct conditioner *c, const char *prompt, struct cond *out, struct err *e);
/* Those of prompts share, share + shares, ... that are not in the cache, each index into out; returns how
 * many.  Without a cache: all, which conditioner_make then tries. */
int64_t conditioner_missing(const struct conditioner *c, const char *const *prompts, int64_t n, int64_t share,
			    int64_t shares, int64_t *out);
/* One of them into the cache.  Into *size, unless NULL, what that takes there. */
struct conditioner_size {
	double plain;  /* bytes of its tensors */
	double stored; /* that it takes on disk, compressed and in whole blocks; 0 without a cache */
};
int conditioner_make(struct conditioner *c, const char *prompt, struct conditioner_size *size, struct err *e);
/* The cache's folder, and into *bytes what is free on its file system (quotas are not known); NULL without a
 * cache. */
const char *conditioner_space(const struct conditioner *c, double *bytes);
void conditioner_rest(struct conditioner *c);

#endif
