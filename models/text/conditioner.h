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

/* cache: a folder, or NULL; encoders whose type has no hash() do without one.  The strings of *o are copied.
 */
int conditioner_open(struct conditioner **c, const struct text_encoder_type *type,
		     const struct text_options *o, const char *cache, struct err *e);
void conditioner_close(struct conditioner *c); /* NULL is fine */
int conditioner_encode(struct conditioner *c, const char *const *prompts, int n, struct cond *out,
		       struct err *e);
/* Prompts `share`, share + shares, ... will be in the cache; without a cache, they are tried. `progress`,
 * unless NULL, is called after each that had to be encoded, with its index. */
int conditioner_fill(struct conditioner *c, const char *const *prompts, int64_t n, int share, int shares,
		     void (*progress)(void *ctx, int64_t i), void *ctx, struct err *e);
void conditioner_rest(struct conditioner *c);

#endif
