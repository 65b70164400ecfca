/* json.h -- what the project needs on top of jansson: files, messages with a place, canonical text. */
#ifndef JSON_H
#define JSON_H
#include "base/err.h"
#include "base/text.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* The root object or array of a file, or NULL with "PATH:LINE: what". json_decref() it.  An integer beyond 64
 * bits is a real; NaN, Infinity and -Infinity, which Python's json writes, are null. */
json_t *json_read(const char *path, struct err *e);
/* Of any text, which has to be JSON but for such integers; `what` names it. */
json_t *json_parse(const char *text, size_t n, const char *what, struct err *e);
/* Of what a program outside says: NaN, the infinities, as Python's json writes them, and numbers beyond a
 * double are null, so that one of many that failed spoils only itself. */
json_t *json_parse_answer(const char *text, size_t n, const char *what, struct err *e);
int json_write(const char *path, const json_t *j,
	       struct err *e); /* atomic, indented, sorted keys, newline at the end */
/* Sorted keys, reals with as few digits (15 to 17) as read back exactly; NULL for what JSON cannot hold;
 * free(). `flags`: JSON_INDENT(n) or JSON_COMPACT. */
char *json_text(const json_t *j, size_t flags);
char *json_line(const json_t *j); /* the same, compact */
/* The one way from a double to JSON: NaN and the infinities, which JSON cannot hold, become null, so that no
 * number keeps a file from being written.  json_get_number reads it back. */
json_t *json_number(double v);
void json_add_number(struct text *t, double v); /* the same as text, for JSON that is put together by hand */
/* A string from text that may be cut within a character or come from anywhere: what is no UTF-8 becomes '?'.
 */
json_t *json_words(const char *s);

/* Members of an object with a type: absent gives the default, another type is an error naming key and `what`.
 */
int json_get_int(int64_t *out, const json_t *o, const char *key, int64_t absent, const char *what,
		 struct err *e);
int json_get_real(double *out, const json_t *o, const char *key, double absent, const char *what,
		  struct err *e);
/* What json_number wrote: null is NAN. */
int json_get_number(double *out, const json_t *o, const char *key, double absent, const char *what,
		    struct err *e);
int json_get_bool(bool *out, const json_t *o, const char *key, bool absent, const char *what, struct err *e);
int json_get_str(const char **out, const json_t *o, const char *key, const char *absent, const char *what,
		 struct err *e); /* borrowed */

/* A key that another program's file may have, and what it may say: any value (NULL: it is read, or changes no
 * result), or one of some, as compact JSON between '|'. */
struct json_known {
	const char *key, *values;
};
/* Every member of `o` is known to one of the two lists, which end with a NULL key (`more` may be NULL), or
 * says nothing (null, false, "", [], {}).  Anything else could change a result without a word: an error names
 * it. */
int json_check_keys(const json_t *o, const struct json_known *known, const struct json_known *more,
		    const char *what, struct err *e);

#endif
