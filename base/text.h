/* text.h -- a growing string, and the few string questions the project asks more than once. */
#ifndef TEXT_H
#define TEXT_H
#include <stdbool.h>
#include <stddef.h>

struct text {
	char *s; /* NUL-terminated, never NULL after the first append */
	size_t n, cap;
};

void text_add(struct text *t, const char *s);
void text_add_bytes(struct text *t, const void *p, size_t n);
void text_printf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_real(struct text *t, double x); /* the shortest of %.15g, %.16g, %.17g that reads back as x */
void text_base64(struct text *t, const void *p, size_t n); /* RFC 4648, padded */
/* The bytes of n characters of base64, appended.  False, with nothing appended, for what text_base64 does not
 * write: other characters, white space too, missing padding, bits behind the last byte. */
bool text_unbase64(struct text *t, const char *s, size_t n);
void text_free(struct text *t); /* back to empty */

bool text_starts(const char *s, const char *prefix);
bool text_ends(const char *s, const char *suffix);
int text_index(const char *name,
	       const char *const *names); /* in a NULL-terminated list; -1: it is not there */

/* The member of names (NULL-terminated) nearest to key by edit distance (a swap of neighbours counts one), or
 * NULL when none is near enough to be a likely typo (distance at most 2, or a third of the key's length, and
 * less than its whole length).  Of equals the first. */
const char *text_nearest(const char *key, const char *const *names);

/* What a file begins as that should hold something else: "a git-lfs pointer ...", "an HTML page ...", or
 * NULL. */
const char *text_other_file(const void *data, size_t n);
/* Text from a file, for a terminal: control characters, those of 8 bits in UTF-8 too, become spaces. */
void text_tame(char *s);

const char *text_size(char out[32], double bytes); /* "1.68 MB", "37.4 GB"; returns out */

#endif
