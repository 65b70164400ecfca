/* unicode.c -- on top of utf8proc. */
#include "models/text/unicode.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define DOTTED_I    0x130 /* the one letter whose lower case is two code points */
#define SIGMA       0x3A3 /* the one whose lower case depends on where it is */
#define FINAL_SIGMA 0x3C2

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

/* What stands between the letters of a word as far as case goes: marks, formats, modifiers, and what Unicode
 * has within words (MidLetter, MidNumLet, Single_Quote of UAX 29). */
static bool ignores_case(int32_t c)
{
	static const int32_t within[] = { '\'',   '.',    ':',    0xB7,   0x387,  0x55F,
					  0x5F4,  0x2018, 0x2019, 0x2024, 0x2027, 0xFE13,
					  0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A };

	for (size_t i = 0; i < sizeof within / sizeof *within; i++)
		if (c == within[i])
			return true;
	switch (utf8proc_category(c)) {
	case UTF8PROC_CATEGORY_MN:
	case UTF8PROC_CATEGORY_ME:
	case UTF8PROC_CATEGORY_CF:
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_SK:
		return true;
	default:
		return false;
	}
}

static bool has_case(int32_t c)
{
	utf8proc_category_t k = utf8proc_category(c);

	return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
	       c == 0xAA || c == 0xBA || (c >= 0x2160 && c <= 0x217F) || (c >= 0x24B6 && c <= 0x24E9);
}

/* Is a sigma, behind which `s` goes on, the last letter of its word?  `before`: it has others. */
static bool ends_word(const char *s, size_t n, bool before)
{
	int32_t c;

	for (size_t i = 0; before && i < n;) {
		i += unicode_next(s + i, n - i, &c);
		if (!ignores_case(c))
			return !has_case(c);
	}
	return before;
}

void unicode_lower(struct text *out, const char *s, size_t n)
{
	bool before = false; /* the last character that does not ignore case has one */
	int32_t c;

	for (size_t i = 0; i < n;) {
		i += unicode_next(s + i, n - i, &c);
		if (c == SIGMA && ends_word(s + i, n - i, before))
			unicode_put(out, FINAL_SIGMA);
		else
			unicode_put_lower(out, c);
		if (!ignores_case(c))
			before = has_case(c);
	}
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

char *unicode_nfc(const char *s, size_t n, size_t *size)
{
	return map(n ? s : "", n, UTF8PROC_COMPOSE, size);
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
