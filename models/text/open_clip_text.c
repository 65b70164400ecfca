#include "models/text/open_clip_text.h"
#include "base/mem.h"
#include "models/text/html_entities.h"
#include "models/text/unicode.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define REPLACEMENT 0xFFFD
#define MOST_NAME   32 /* characters of what may be an entity */
#define MOST_PASSES 32 /* &amp;amp;amp; ... of a request must not cost its square */

/* Windows-1252 from 0x80 on; 0: as it is. */
static const int32_t windows[32] = { 0x20AC, 0,      0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021,
				     0x2C6,  0x2030, 0x160,  0x2039, 0x152,  0,      0x17D,  0,
				     0,      0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
				     0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0,      0x17E,  0x178 };

static const struct {
	int32_t from;
	const char *to;
} ligatures[] = { { 0x132, "IJ" },         { 0x133, "ij" },  { 0x149, "\xCA\xBCn" }, { 0x1F1, "DZ" },
		  { 0x1F2, "Dz" },         { 0x1F3, "dz" },  { 0x1C4, "D\xC5\xBD" }, { 0x1C5, "D\xC5\xBE" },
		  { 0x1C6, "d\xC5\xBE" },  { 0x1C7, "LJ" },  { 0x1C8, "Lj" },        { 0x1C9, "lj" },
		  { 0x1CA, "NJ" },         { 0x1CB, "Nj" },  { 0x1CC, "nj" },        { 0xFB00, "ff" },
		  { 0xFB01, "fi" },        { 0xFB02, "fl" }, { 0xFB03, "ffi" },      { 0xFB04, "ffl" },
		  { 0xFB05, "\xC5\xBFt" }, { 0xFB06, "st" } };

/* ---- entities ------------------------------------------------------------------------------------- */

/* What html.unescape makes of a number. */
static void put_number(struct text *out, int64_t v)
{
	if (v == 0 || (v >= 0xD800 && v <= 0xDFFF) || v > 0x10FFFF)
		unicode_put(out, REPLACEMENT);
	else if (v >= 0x80 && v <= 0x9F)
		unicode_put(out, windows[v - 0x80] ? windows[v - 0x80] : (int32_t)v);
	else if (!((v < 0x20 && !strchr("\t\n\f\r", (int)v)) || v == 0x7F || (v >= 0xFDD0 && v <= 0xFDEF) ||
		   (v & 0xFFFE) == 0xFFFE))
		unicode_put(out, (int32_t)v);
}

/* "&#NUMBER" or "&#xNUMBER", perhaps with ';'; its bytes, 0 when it is none. */
static size_t unescape_number(struct text *out, const char *s, size_t n)
{
	bool hex = n > 2 && (s[2] == 'x' || s[2] == 'X');
	size_t first = hex ? 3 : 2, i = first;
	int64_t v = 0;

	for (; i < n && (hex ? isxdigit((unsigned char)s[i]) : isdigit((unsigned char)s[i])); i++) {
		int digit =
		    isdigit((unsigned char)s[i]) ? s[i] - '0' : tolower((unsigned char)s[i]) - 'a' + 10;

		v = v > 0x10FFFF ? v : v * (hex ? 16 : 10) + digit;
	}
	if (i == first)
		return 0;
	put_number(out, v);
	return i + (i < n && s[i] == ';');
}

/* "&NAME;", or a name that may stand without ';' at the beginning of what follows '&'. */
static size_t unescape_name(struct text *out, const char *s, size_t n)
{
	size_t end = 1;
	int32_t c;

	for (int i = 0; i < MOST_NAME && end < n && !strchr("\t\n\f <&#;", s[end]); i++)
		end += unicode_next(s + end, n - end, &c);
	if (end < n && s[end] == ';' && end > 1 && html_entity(s + 1, end - 1)) {
		text_add(out, html_entity(s + 1, end - 1));
		return end + 1;
	}
	for (size_t size = end - 1; size > 1; size--)
		if (html_entity_legacy(s + 1, size)) {
			text_add(out, html_entity(s + 1, size));
			return size + 1;
		}
	return 0;
}

/* Python's html.unescape. */
static void unescape(struct text *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		size_t k = 0;

		if (s[i] == '&' && i + 1 < n)
			k = s[i + 1] == '#' ? unescape_number(out, s + i, n - i)
					    : unescape_name(out, s + i, n - i);
		if (!k)
			text_add_bytes(out, s + i, k = 1);
		i += k;
	}
}

/* In capitals as Python's str.upper has it, of what entities of small letters stand for. */
static void put_upper(struct text *out, const char *s)
{
	static const struct {
		int32_t from;
		const char *to;
	} longer[] = { { 0xDF, "SS" },    { 0xFB00, "FF" },  { 0xFB01, "FI" },      { 0xFB02, "FL" },
		       { 0xFB03, "FFI" }, { 0xFB04, "FFL" }, { 0x149, "\xCA\xBCN" } };
	int32_t c;

	for (size_t i = 0, n = strlen(s), at; i < n;) {
		i += unicode_next(s + i, n - i, &c);
		for (at = 0; at < sizeof longer / sizeof *longer && longer[at].from != c;)
			at++;
		if (at < sizeof longer / sizeof *longer)
			text_add(out, longer[at].to);
		else
			unicode_put(out, utf8proc_toupper(c));
	}
}

/* An entity in capitals, which HTML does not have: &EACUTE;. */
static bool put_capital_entity(struct text *out, const char *name, size_t size)
{
	char lower[MOST_NAME];
	const char *value = NULL;

	for (size_t i = 2; i <= size; i++)
		if (html_entity_legacy(name, i))
			return false;
	for (size_t i = 0; i < size && size < sizeof lower; i++) {
		if (islower((unsigned char)name[i]))
			return false;
		lower[i] = (char)tolower((unsigned char)name[i]);
	}
	if (size < sizeof lower)
		value = html_entity(lower, size);
	if (value)
		put_upper(out, value);
	return value;
}

/* ftfy's unescape_html: entities that end in ';', and no halves of others. */
static void unescape_whole(struct text *out, const char *s, size_t n)
{
	for (size_t i = 0, k; i < n; i += k) {
		bool number = s[i] == '&' && i + 1 < n && s[i + 1] == '#';
		size_t first = i + 1 + number, end = first;
		struct text t = { 0 };
		bool known = false;

		while (end < n && end - first < 24 && isalnum((unsigned char)s[end]))
			end++;
		k = 1;
		if (s[i] == '&' && end > first && end < n && s[end] == ';') {
			const char *value = number ? NULL : html_entity(s + first, end - first);

			if (number)
				unescape(&t, s + i, end + 1 - i);
			else if (value)
				text_add(&t, value);
			known = number ? !t.n || !memchr(t.s, ';', t.n)
				       : value || put_capital_entity(&t, s + first, end - first);
		}
		if (known)
			k = end + 1 - i;
		text_add_bytes(out, known ? t.s : s + i, known ? t.n : 1);
		text_free(&t);
	}
}

/* ---- characters ----------------------------------------------------------------------------------- */

static bool is_control(int32_t c)
{
	return c < 9 || c == 0xB || (c >= 0xE && c < 0x20) || c == 0x7F || (c >= 0x206A && c < 0x2070) ||
	       c == 0xFEFF || (c >= 0xFFF9 && c < 0xFFFD);
}

/* Quotes straight. */
static void put_plain(struct text *out, int32_t c)
{
	if (c == 0x2BC || (c >= 0x2018 && c <= 0x201B))
		text_add(out, "'");
	else if (c >= 0x201C && c <= 0x201F)
		text_add(out, "\"");
	else
		unicode_put(out, c);
}

/* One width for all that have two. */
static void put_width(struct text *out, int32_t c)
{
	struct text one = { 0 };
	utf8proc_uint8_t *wide = NULL;

	if (c == 0x3000) {
		text_add(out, " ");
		return;
	}
	if (c < 0xFF01 || c >= 0xFFF0) {
		put_plain(out, c);
		return;
	}
	unicode_put(&one, c);
	utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)one.s, (utf8proc_ssize_t)one.n, &wide,
					  UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
	for (utf8proc_ssize_t i = 0; i < n;) {
		i += (utf8proc_ssize_t)unicode_next((const char *)wide + i, (size_t)(n - i), &c);
		put_plain(out, c);
	}
	free(wide);
	text_free(&one);
}

static void put_parts(struct text *out, const char *s)
{
	size_t n = strlen(s);
	int32_t c;

	for (size_t i = 0; i < n;) {
		i += unicode_next(s + i, n - i, &c);
		put_width(out, c);
	}
}

static void put_character(struct text *out, int32_t c)
{
	size_t i = 0;

	if (c >= 0x80 && c <= 0x9F && windows[c - 0x80])
		c = windows[c - 0x80];
	while (i < sizeof ligatures / sizeof *ligatures && ligatures[i].from != c)
		i++;
	if (i < sizeof ligatures / sizeof *ligatures)
		put_parts(out, ligatures[i].to);
	else
		put_width(out, c);
}

/* Without ESC [ NUMBERS LETTER and without control characters. */
static void put_without_controls(struct text *out, const char *s, size_t n)
{
	int32_t c;

	for (size_t i = 0, k; i < n; i += k) {
		if (s[i] == '\033' && i + 1 < n && s[i + 1] == '[') {
			size_t end = i + 2;

			while (end < n && (isdigit((unsigned char)s[end]) || s[end] == ';'))
				end++;
			if (end < n && isalpha((unsigned char)s[end])) {
				k = end + 1 - i;
				continue;
			}
		}
		k = unicode_next(s + i, n - i, &c);
		if (!is_control(c))
			text_add_bytes(out, s + i, k);
	}
}

/* ---- the whole ------------------------------------------------------------------------------------ */

/* One pass of ftfy's fixers over a line. */
static void fix_once(struct text *out, const struct text *line, bool entities)
{
	struct text whole = { 0 }, plain = { 0 }, clean = { 0 };
	int32_t c;
	size_t size;

	if (entities)
		unescape_whole(&whole, line->s, line->n);
	else
		text_add_bytes(&whole, line->s, line->n);
	for (size_t i = 0; i < whole.n;) {
		i += unicode_next(whole.s + i, whole.n - i, &c);
		put_character(&plain, c);
	}
	put_without_controls(&clean, plain.s, plain.n);
	char *nfc = unicode_nfc(clean.s, clean.n, &size);
	text_add_bytes(out, nfc, size);
	free(nfc);
	text_free(&whole);
	text_free(&plain);
	text_free(&clean);
}

/* A line until nothing changes any more. */
static void fix_line(struct text *out, const char *s, size_t n, bool entities)
{
	struct text now = { 0 }, next = { 0 };
	bool same = false;

	text_add_bytes(&now, s, n);
	for (int pass = 0; pass < MOST_PASSES && !same; pass++) {
		next = (struct text) { 0 };
		fix_once(&next, &now, entities);
		same = next.n == now.n && (!now.n || !memcmp(now.s, next.s, now.n));
		text_free(&now);
		now = next;
	}
	text_add_bytes(out, now.s, now.n);
	text_free(&now);
}

void open_clip_clean(struct text *out, const char *s, size_t n)
{
	struct text fixed = { 0 }, once = { 0 }, twice = { 0 }, dense = { 0 };
	bool entities = true, blank = false;
	int32_t c;

	for (size_t i = 0, k; i < n; i += k) {
		const char *end = memchr(s + i, '\n', n - i);

		k = end ? (size_t)(end + 1 - (s + i)) : n - i;
		entities = entities && !memchr(s + i, '<', k); /* what has tags is HTML, from there on */
		fix_line(&fixed, s + i, k, entities);
	}
	unescape(&once, fixed.s, fixed.n);
	unescape(&twice, once.s, once.n);
	for (size_t i = 0; i < twice.n;) {
		i += unicode_next(twice.s + i, twice.n - i, &c);
		if (unicode_is_space(c)) {
			blank = dense.n;
			continue;
		}
		if (blank)
			text_add(&dense, " ");
		blank = false;
		unicode_put(&dense, c);
	}
	unicode_lower(out, dense.s, dense.n);
	text_free(&fixed);
	text_free(&once);
	text_free(&twice);
	text_free(&dense);
}
