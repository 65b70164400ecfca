/* spiece.h -- libsentencepiece behind a C face. */
#ifndef SPIECE_H
#define SPIECE_H
#include "base/err.h"
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct spiece;

/* A serialized ModelProto (spiece.model); `what` names it in errors. */
int spiece_open(struct spiece **s, const void *model, size_t n, const char *what, struct err *e);
void spiece_close(struct spiece *s);
int spiece_size(const struct spiece *s);                              /* pieces */
int spiece_find(const struct spiece *s, const char *piece, size_t n); /* its id; -1: there is none */
float spiece_score(const struct spiece *s, int id);                   /* its log-probability */
size_t spiece_bytes(const struct spiece *s, int id);                  /* its length */

#ifdef __cplusplus
}
#endif
#endif
