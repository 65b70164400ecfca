/*
 * text_cache.h -- embeddings of prompts on disk, each once: DIR/ENCODER/xx/PROMPT.zst, named by hashes of
 * their contents.
 *
 * A file holds the prompt, the names, shapes, lengths and values of its conditioning, bytes of equal
 * significance together (they compress better so) behind a checksum.  It appears whole or not at all,
 * whichever of many processes writes it first; all read it through the operating system's page cache, which
 * keeps one compressed copy for a machine.
 */
#ifndef TEXT_CACHE_H
#define TEXT_CACHE_H
#include "models/encoder.h"

struct text_cache {
	char *dir; /* of one encoder */
	enum at_dtype dtype;
	enum at_device device;
};

/* `encoder` names everything that an embedding depends on but its prompt.  Makes the folder. */
int text_cache_open(struct text_cache *c, const char *dir, uint64_t encoder, enum at_dtype dt,
		    enum at_device dev, struct err *e);
void text_cache_close(struct text_cache *c);

bool text_cache_has(const struct text_cache *c, const char *prompt);
/* What a prompt's file takes on disk, in whole blocks; 0: there is none. */
double text_cache_bytes(const struct text_cache *c, const char *prompt);
/* The folder, and what its file system has free for this user; quotas are not known. */
const char *text_cache_space(const struct text_cache *c, double *bytes);
/* One row into an empty cond, of the innermost scope; false when it is not there or damaged. */
bool text_cache_get(const struct text_cache *c, const char *prompt, struct cond *row);
/* One row; its parts are (1, L, E) or (1, P). */
int text_cache_put(const struct text_cache *c, const char *prompt, const struct cond *row, struct err *e);

#endif
