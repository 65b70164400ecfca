/* taps.c -- one list a thread. */
#include "models/taps.h"
#include "base/mem.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static _Thread_local struct taps *list;

void taps_open(struct taps *t)
{
	*t = (struct taps) { 0 };
	list = t;
}

void taps_close(void)
{
	list = NULL;
}

void taps_release(struct taps *t)
{
	for (int i = 0; i < t->n; i++) {
		at_free(t->item[i].t);
		free((char *)(uintptr_t)t->item[i].name);
	}
	free(t->item);
	*t = (struct taps) { 0 };
}

void tap(at_t x, const char *fmt, ...)
{
	char name[256];
	va_list ap;

	if (!list)
		return;
	va_start(ap, fmt);
	vsnprintf(name, sizeof name, fmt, ap);
	va_end(ap);
	MEM_PUSH(list->item, list->n, list->cap) = (struct st_item) { mem_str(name), at_keep(at_detach(x)) };
}
