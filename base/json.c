#include "base/json.h"
#include "base/file.h"
#include "base/mem.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The end of the string or number that begins at s, or of what is neither; of a string without an end: NUL.
 */
static const char *token_end(const char *s, bool *number)
{
	*number = *s == '-' || (*s >= '0' && *s <= '9');
	if (*number)
		return s + strspn(s, "+-.0123456789eE");
	if (*s != '"')
		return s + 1 + strcspn(s + 1, "\"-0123456789NI");
	for (s++; *s && *s != '"'; s++)
		s += *s == '\\' && s[1];
	return s + (*s == '"');
}

/* The length of what Python writes for a number that JSON has not; 0: another thing begins at s. */
static size_t python_number(const char *s)
{
	static const char *const words[] = { "-Infinity", "Infinity", "NaN" };

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (!strncmp(s, words[i], strlen(words[i])))
			return strlen(words[i]);
	return 0;
}

/* Of whom a text is. */
enum source { STRICT, OF_FILE, OF_PROGRAM };

/* With integers that 64 bits cannot hold as reals and, if not strict, what Python alone calls numbers as
 * null. */
static json_t *parse_again(const char *text, size_t n, enum source source, json_error_t *at)
{
	struct text all = { 0 }, t = { 0 };
	const char *s, *end;
	bool number;

	text_add_bytes(&all, text, n);
	for (s = all.s; *s; s = end) {
		size_t word = source == STRICT ? 0 : python_number(s);

		end = s + word;
		if (word) {
			text_add(&t, "null");
			continue;
		}
		end = token_end(s, &number);
		if (number && source == OF_PROGRAM && isinf(strtod(s, NULL))) {
			text_add(&t, "null");
			continue;
		}
		text_add_bytes(&t, s, (size_t)(end - s));
		errno = 0;
		if (number && s + strspn(s, "-0123456789") == end && strtoll(s, NULL, 10) && errno == ERANGE)
			text_add(&t, ".0");
	}
	text_add_bytes(&t, s, (size_t)(all.s + all.n - s)); /* what follows a zero byte is no text */
	json_t *j = json_loadb(t.s, t.n, JSON_REJECT_DUPLICATES, at);
	text_free(&all);
	text_free(&t);
	return j;
}

static json_t *parse(const char *text, size_t n, enum source source, const char *what, struct err *e)
{
	json_error_t at;
	json_t *j = json_loadb(text, n, JSON_REJECT_DUPLICATES, &at);

	/* transformers writes "no limit" as the integer 10^30, diffusers as -Infinity */
	if (!j && (source != STRICT || json_error_code(&at) == json_error_numeric_overflow))
		j = parse_again(text, n, source, &at);
	if (!j && text_other_file(text, n))
		err_set(e, "%s: not JSON but %s", what, text_other_file(text, n));
	else if (!j)
		err_set(e, "%s:%d: not valid JSON: %s", what, at.line, at.text);
	return j;
}

json_t *json_parse(const char *text, size_t n, const char *what, struct err *e)
{
	return parse(text, n, STRICT, what, e);
}

json_t *json_parse_answer(const char *text, size_t n, const char *what, struct err *e)
{
	return parse(text, n, OF_PROGRAM, what, e);
}

json_t *json_read(const char *path, struct err *e)
{
	char *data;
	size_t n;
	json_t *j;

	if (file_read(&data, &n, path, e))
		return NULL;
	j = parse(data, n, OF_FILE, path, e);
	free(data);
	return j;
}

/* A number of jansson's text, 17 digits long, as short as it can be and still a real to whoever reads it. */
static void add_number(struct text *t, const char *s, size_t n)
{
	size_t before = t->n;

	if (!memchr(s, '.', n) && !memchr(s, 'e', n)) {
		text_add_bytes(t, s, n);
		return;
	}
	text_real(t, strtod(s, NULL));
	if (!strpbrk(t->s + before, ".e"))
		text_add(t, ".0");
}

char *json_text(const json_t *j, size_t flags)
{
	char *raw = json_dumps(j, flags | JSON_SORT_KEYS | JSON_ENCODE_ANY);
	struct text t = { 0 };
	bool number;

	/* jansson gives every real of a text the same number of digits: 0.1 would be 0.10000000000000001 */
	for (const char *s = raw, *end; s && *s; s = end) {
		end = token_end(s, &number);
		if (number)
			add_number(&t, s, (size_t)(end - s));
		else
			text_add_bytes(&t, s, (size_t)(end - s));
	}
	free(raw);
	return t.s;
}

int json_write(const char *path, const json_t *j, struct err *e)
{
	struct file_writer w;
	char *s;

	if (file_begin(&w, path, e))
		return -1;
	s = json_text(j, JSON_INDENT(2));
	if (!s) {
		file_drop(&w);
		return err_set(e, "cannot write %s: a value that JSON cannot hold", path);
	}
	fprintf(w.f, "%s\n", s);
	free(s);
	return file_commit(&w, e);
}

char *json_line(const json_t *j)
{
	return json_text(j, JSON_COMPACT);
}

json_t *json_number(double v)
{
	return isfinite(v) ? json_real(v) : json_null();
}

void json_add_number(struct text *t, double v)
{
	if (isfinite(v))
		text_real(t, v);
	else
		text_add(t, "null");
}

json_t *json_words(const char *s)
{
	json_t *j = json_string(s);

	if (j)
		return j;
	char *copy = mem_str(s);
	for (char *c = copy; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	j = json_string(copy);
	free(copy);
	return j;
}

static int wrong(const char *key, const char *what, const char *type, struct err *e)
{
	return err_set(e, "%s: '%s' is not %s", what, key, type);
}

int json_get_int(int64_t *out, const json_t *o, const char *key, int64_t absent, const char *what,
		 struct err *e)
{
	const json_t *v = json_object_get(o, key);

	if (v && !json_is_integer(v))
		return wrong(key, what, "an integer", e);
	*out = v ? (int64_t)json_integer_value(v) : absent;
	return 0;
}

int json_get_real(double *out, const json_t *o, const char *key, double absent, const char *what,
		  struct err *e)
{
	const json_t *v = json_object_get(o, key);

	if (v && !json_is_number(v))
		return wrong(key, what, "a number", e);
	*out = v ? json_number_value(v) : absent;
	return 0;
}

int json_get_number(double *out, const json_t *o, const char *key, double absent, const char *what,
		    struct err *e)
{
	if (!json_is_null(json_object_get(o, key)))
		return json_get_real(out, o, key, absent, what, e);
	*out = NAN;
	return 0;
}

int json_get_bool(bool *out, const json_t *o, const char *key, bool absent, const char *what, struct err *e)
{
	const json_t *v = json_object_get(o, key);

	if (v && !json_is_boolean(v))
		return wrong(key, what, "true or false", e);
	*out = v ? json_is_true(v) : absent;
	return 0;
}

int json_get_str(const char **out, const json_t *o, const char *key, const char *absent, const char *what,
		 struct err *e)
{
	const json_t *v = json_object_get(o, key);

	if (v && !json_is_string(v))
		return wrong(key, what, "a string", e);
	*out = v ? json_string_value(v) : absent;
	return 0;
}

/* ---- What other programs' files may say ---------------------------------------------------------- */

static bool says_nothing(const json_t *v)
{
	return json_is_null(v) || json_is_false(v) || (json_is_object(v) && !json_object_size(v)) ||
	       (json_is_array(v) && !json_array_size(v)) || (json_is_string(v) && !*json_string_value(v));
}

static const struct json_known *find_known(const struct json_known *list, const char *key)
{
	for (; list && list->key; list++)
		if (!strcmp(list->key, key))
			return list;
	return NULL;
}

/* Is `value` one of "a|b|c"? */
static bool is_one_of(const char *value, const char *list)
{
	size_t n = strlen(value);

	for (; list; list = strchr(list, '|') ? strchr(list, '|') + 1 : NULL)
		if (!strncmp(list, value, n) && (!list[n] || list[n] == '|'))
			return true;
	return false;
}

int json_check_keys(const json_t *o, const struct json_known *known, const struct json_known *more,
		    const char *what, struct err *e)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)o, key, v)
	{
		const struct json_known *k = find_known(known, key);

		if (!k)
			k = find_known(more, key);
		if (says_nothing(v) || (k && !k->values))
			continue;
		char *value = json_line(v);
		bool fine = k && value && is_one_of(value, k->values);
		if (!fine && k)
			err_set(e, "%s: %s is %.60s, which is not supported: there is %s", what, key,
				value ? value : "?", k->values);
		else if (!fine)
			err_set(e,
				"%s: '%s' is set (%.60s), which is not supported: it may change the result",
				what, key, value ? value : "?");
		free(value);
		if (!fine)
			return -1;
	}
	return 0;
}
