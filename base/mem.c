#include "base/mem.h"
#include "base/err.h"
#include "base/io.h"
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool fails(void)
{
	return io_faults && io_fault(IO_ALLOC, NULL);
}

void *mem_try(size_t n)
{
	return fails() ? NULL : malloc(n ? n : 1);
}

void *mem_alloc(size_t n)
{
	void *p = mem_try(n);

	if (!p)
		die("out of memory (%zu bytes wanted)", n);
	return p;
}

void *mem_zero(size_t n, size_t size)
{
	void *p = fails() ? NULL : n && size ? calloc(n, size) : calloc(1, 1);

	if (!p)
		die("out of memory (%zu x %zu bytes wanted)", n, size);
	return p;
}

void *mem_grow(void *p, size_t n, size_t size)
{
	if (size && n > SIZE_MAX / size)
		die("out of memory (%zu x %zu bytes wanted)", n, size);
	p = fails() ? NULL : realloc(p, n && size ? n * size : 1);
	if (!p)
		die("out of memory (%zu x %zu bytes wanted)", n, size);
	return p;
}

char *mem_str(const char *s)
{
	if (!s)
		return NULL;
	size_t n = strlen(s) + 1;
	return memcpy(mem_alloc(n), s, n);
}

char *mem_printf(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		die("cannot format '%s'", fmt);
	char *s = mem_alloc((size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(s, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return s;
}
