/* unicode.c -- on top of utf8proc. */
#include "models/text/unicode.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define DOTTED_I 0x130 /* the one letter whose lower case is two code points */

int unicode_check(const char *s, size_t n, struct err *e)
{
	utf8proc_int32_t c;

	for (size_t i = 0; i < n;) {
		utf8proc_ssize_t k =
		    utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &c);
		if (k <= 0)
			return err_set(e, "byte %zu of the prompt is not UTF-8", i + 1);
		i += (size_t)k;
	}
	return 0;
}

bool unicode_is_space(int32_t c)
{
	return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
	       (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
	       c == 0x3000;
}

size_t unicode_next(const char *s, size_t n, int32_t *c)
{
	utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, c);

	return k > 0 ? (size_t)k : 1;
}

void unicode_put(struct text *t, int32_t c)
{
	utf8proc_uint8_t buf[4];

	text_add_bytes(t, buf, (size_t)utf8proc_encode_char(c, buf));
}

void unicode_put_lower(struct text *t, int32_t c)
{
	if (c == DOTTED_I)
		text_add(t, "i\xCC\x87");
	else
		unicode_put(t, utf8proc_tolower(c));
}

/* The text is checked: memory alone can be short. */
static char *map(const char *s, size_t n, utf8proc_option_t how, size_t *size)
{
	utf8proc_uint8_t *out = NULL;
	utf8proc_ssize_t k =
	    utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &out, UTF8PROC_STABLE | how);

	if (k < 0)
		die("utf8proc: %s", utf8proc_errmsg(k));
	*size = (size_t)k;
	return (char *)out;
}

char *unicode_nfd(const char *s, size_t n, size_t *size)
{
	return map(s, n, UTF8PROC_DECOMPOSE, size);
}

void unicode_clip(struct text *out, const char *s, size_t n)
{
	size_t size;
	char *nfc = map(s, n, UTF8PROC_COMPOSE, &size);
	bool blank = false;
	int32_t c;

	for (size_t i = 0; i < size;) {
		i += unicode_next(nfc + i, size - i, &c);
		if (unicode_is_space(c)) {
			if (!blank)
				text_add(out, " ");
			blank = true;
			continue;
		}
		blank = false;
		unicode_put_lower(out, c);
	}
	free(nfc);
}
