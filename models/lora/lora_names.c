/* lora_names.c -- module names of a model's original release, from those of diffusers. */
#include "models/lora/lora_names.h"
#include "base/mem.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* "blocks.#.attn" against "blocks.12.attn": true, and 12 for its number (-1: the pattern has none). */
static bool matches(const char *pattern, const char *name, long *number)
{
	const char *hole = strchr(pattern, '#');
	size_t before = hole ? (size_t)(hole - pattern) : 0;
	char *end;

	*number = -1;
	if (!hole)
		return !strcmp(pattern, name);
	if (strncmp(pattern, name, before) != 0 || !isdigit((unsigned char)name[before]))
		return false;
	*number = strtol(name + before, &end, 10);
	return !strcmp(hole + 1, end);
}

char *lora_original_name(const struct nn_net *net, int site, bool *swap)
{
	const struct nn_site *t = &net->site[site];
	long number;

	*swap = false;
	for (const struct nn_rename *r = net->names; r && r->here; r++) {
		if (!matches(r->here, t->name[0], &number))
			continue;
		*swap = r->halves == NN_SWAPPED ||
			(r->halves == NN_SWAPPED_IF_TWO && t->row[t->parts] == 2 * t->in);
		const char *hole = strchr(r->there, '#');
		return hole ? mem_printf("%.*s%ld%s", (int)(hole - r->there), r->there, number, hole + 1)
			    : mem_str(r->there);
	}
	return NULL;
}

char *lora_underscored(const char *module)
{
	char *s = mem_str(module);

	for (char *p = s; *p; p++)
		if (*p == '.')
			*p = '_';
	return s;
}
