/* unicode.h -- what tokenizers need to know of Unicode beyond utf8proc. */
#ifndef UNICODE_H
#define UNICODE_H
#include "base/err.h"
#include "base/text.h"
#include <stdint.h>

/* An error that says where when s is not UTF-8. */
int unicode_check(const char *s, size_t n, struct err *e);
/* The property White_Space. */
bool unicode_is_space(int32_t c);
/* One code point from valid UTF-8; returns its bytes. */
size_t unicode_next(const char *s, size_t n, int32_t *c);
void unicode_put(struct text *t, int32_t c);
void unicode_put_lower(struct text *t, int32_t c); /* in lower case, without its context */
/* Valid UTF-8 in lower case as Python's str.lower has it: a sigma that ends a word is a final one. */
void unicode_lower(struct text *out, const char *s, size_t n);
/* Canonical decomposition of valid UTF-8; *size: its bytes; free(). */
char *unicode_nfd(const char *s, size_t n, size_t *size);
char *unicode_nfc(const char *s, size_t n, size_t *size); /* the same composed; s NULL only if n is 0 */
/* NFC, runs of white space as one blank, lower case: CLIP's normaliser.  s is valid UTF-8. */
void unicode_clip(struct text *out, const char *s, size_t n);

#endif
