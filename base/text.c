#include "base/text.h"
#include "base/err.h"
#include "base/mem.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void reserve(struct text *t, size_t more)
{
	if (t->cap - t->n > more)
		return;
	while (t->cap - t->n <= more)
		t->cap = t->cap ? 2 * t->cap : 64;
	t->s = mem_grow(t->s, t->cap, 1);
}

void text_add_bytes(struct text *t, const void *p, size_t n)
{
	reserve(t, n);
	if (n)
		memcpy(t->s + t->n, p, n);
	t->n += n;
	t->s[t->n] = '\0';
}

void text_add(struct text *t, const char *s)
{
	text_add_bytes(t, s, strlen(s));
}

void text_printf(struct text *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		die("cannot format '%s'", fmt);
	reserve(t, (size_t)n);
	va_start(ap, fmt);
	vsnprintf(t->s + t->n, (size_t)n + 1, fmt, ap);
	va_end(ap);
	t->n += (size_t)n;
}

void text_real(struct text *t, double x)
{
	char s[40];

	for (int digits = 15; digits <= 17; digits++) {
		snprintf(s, sizeof s, "%.*g", digits, x);
		if (isnan(x) || strtod(s, NULL) == x)
			break;
	}
	text_add(t, s);
}

void text_base64(struct text *t, const void *p, size_t n)
{
	static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *b = p;

	text_add(t, "");
	for (size_t i = 0; i < n; i += 3) {
		unsigned v = (unsigned)b[i] << 16 | (i + 1 < n ? (unsigned)b[i + 1] << 8 : 0) |
			     (i + 2 < n ? b[i + 2] : 0);
		char out[4] = { digit[v >> 18], digit[v >> 12 & 63], i + 1 < n ? digit[v >> 6 & 63] : '=',
				i + 2 < n ? digit[v & 63] : '=' };

		text_add_bytes(t, out, 4);
	}
}

/* The six bits of a digit, or -1. */
static int sextet(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool text_unbase64(struct text *t, const char *s, size_t n)
{
	size_t pad = n && s[n - 1] == '=' ? 1 + (n > 1 && s[n - 2] == '=') : 0, before = t->n;
	unsigned bits = 0;

	if (n % 4)
		return false;
	reserve(t, n / 4 * 3);
	for (size_t i = 0; i < n - pad; i++) {
		int x = sextet(s[i]);

		bits = bits << 6 | (unsigned)x;
		if (x < 0)
			goto bad;
		if (i % 4)
			t->s[t->n++] = (char)(bits >> (6 - i % 4 * 2) & 255);
	}
	if (pad && bits & (pad == 1 ? 3u : 15u)) /* the bits behind the last byte */
		goto bad;
	t->s[t->n] = '\0';
	return true;
bad:
	t->n = before;
	t->s[t->n] = '\0';
	return false;
}

void text_free(struct text *t)
{
	free(t->s);
	*t = (struct text) { 0 };
}

bool text_starts(const char *s, const char *prefix)
{
	return !strncmp(s, prefix, strlen(prefix));
}

bool text_ends(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n >= m && !strcmp(s + n - m, suffix);
}

int text_index(const char *name, const char *const *names)
{
	int i = 0;

	while (names[i] && strcmp(names[i], name))
		i++;
	return names[i] ? i : -1;
}

static size_t min3(size_t a, size_t b, size_t c)
{
	size_t m = a < b ? a : b;

	return m < c ? m : c;
}

/* Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours cost one each. */
static size_t distance(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	size_t *rows = mem_alloc(3 * (m + 1) * sizeof *rows);
	size_t *before = rows, *last = rows + m + 1, *now = last + m + 1;

	for (size_t j = 0; j <= m; j++)
		last[j] = j;
	for (size_t i = 1; i <= n; i++) {
		now[0] = i;
		for (size_t j = 1; j <= m; j++) {
			now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				now[j] = min3(now[j], before[j - 2] + 1, now[j]);
		}
		size_t *spare = before;
		before = last, last = now, now = spare;
	}
	size_t d = last[m];
	free(rows);
	return d;
}

const char *text_nearest(const char *key, const char *const *names)
{
	size_t n = strlen(key), limit = n / 3 > 2 ? n / 3 : 2;
	const char *best = NULL;

	for (; *names; names++) {
		size_t m = strlen(*names);
		if ((m > n ? m - n : n - m) > limit)
			continue;
		size_t d = distance(key, *names);
		if (d > limit || (d && d >= n))
			continue;
		best = *names;
		if (!d)
			break;
		limit = d - 1;
	}
	return best;
}

const char *text_size(char out[32], double bytes)
{
	if (bytes < 1e9)
		snprintf(out, 32, "%.2f MB", bytes * 1e-6);
	else
		snprintf(out, 32, "%.1f GB", bytes * 1e-9);
	return out;
}

const char *text_other_file(const void *data, size_t n)
{
	static const struct {
		const char *begin, *what;
	} kinds[] = {
		{ "version https://git-lfs", "a git-lfs pointer: `git lfs pull` fetches the file itself" },
		{ "<!DOCTYPE html", "an HTML page: the download was answered with a page" },
		{ "<html", "an HTML page: the download was answered with a page" },
	};
	const char *s = data;

	while (n && (*s == ' ' || *s == '\n' || *s == '\r' || *s == '\t')) {
		s++;
		n--;
	}
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (n >= strlen(kinds[i].begin) && !strncasecmp(s, kinds[i].begin, strlen(kinds[i].begin)))
			return kinds[i].what;
	return NULL;
}

void text_tame(char *s)
{
	for (unsigned char *c = (unsigned char *)s; *c; c++) {
		if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
			c[0] = c[1] = ' '; /* U+0080 to U+009F */
		else if (*c < 0x20 || *c == 0x7f)
			*c = ' ';
	}
}
