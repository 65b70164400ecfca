/*
 * content_hash.h -- hashes of model files, which are the same as long as the files are: each is read once and
 * then remembered.
 *
 * A model's files are tens of GB, and a job of many ranks starts many times.  What was found is kept in a
 * folder, beside names, sizes, inodes and times (to the nanosecond) of modification and of change: a file of
 * which any is another is read anew.  Files that changed within the last seconds are not remembered, as a
 * file system with coarse times would not tell the next change.
 */
#ifndef CONTENT_HASH_H
#define CONTENT_HASH_H
#include "aten/safetensors.h"

/* st_hash, or what is remembered of it.  folder: where; NULL: nowhere.  A folder that cannot be written is
 * none. */
uint64_t content_hash(const struct st_file *f, const char *folder);
/* file_hash_path likewise. */
int content_hash_path(uint64_t *hash, const char *path, const char *folder, struct err *e);
/* Of a text encoder's folder (config.json and weights) and its tokenizer's, both in `dir`: *hash goes on. */
int content_hash_encoder(uint64_t *hash, const char *dir, const char *encoder, const char *tokenizer,
			 const char *folder, struct err *e);
/* Bytes that this process has read for hashes. */
uint64_t content_hash_read(void);

#endif
