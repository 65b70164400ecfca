/* lora_names.c -- module names of a model's original release, from those of diffusers. */
#include "models/lora/lora_names.h"
#include "base/mem.h"
#include "base/text.h"
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

static bool named(const struct nn_net *net, int site, const char *name)
{
	bool swap, same;
	char *own = site >= 0 && site < net->n_site ? lora_original_name(net, site, &swap) : NULL;

	same = own && name && !strcmp(own, name);
	free(own);
	return same;
}

struct lora_run lora_run_of(const struct nn_net *net, int site)
{
	struct lora_run r = { .first = site, .sites = 1 };

	r.name = lora_original_name(net, site, &r.swap);
	while (named(net, r.first - 1, r.name)) {
		r.first--;
		r.sites++;
	}
	while (named(net, r.first + r.sites, r.name))
		r.sites++;
	for (int i = r.first; i < r.first + r.sites; i++)
		r.rows += net->site[i].row[net->site[i].parts];
	return r;
}

bool lora_is_original(const struct nn_net *net, const char *tensor)
{
	static const char prefix[] = "model.diffusion_model.", suffix[] = "_weight";
	const char *own = text_starts(tensor, prefix) ? tensor + strlen(prefix) : tensor;
	char *name = lora_underscored(own);
	bool found = false;
	long number;

	if (text_ends(name, suffix))
		name[strlen(name) - strlen(suffix)] = '\0';
	for (const struct nn_rename *r = net->names; r && r->here && !found; r++)
		found = matches(r->there, name, &number);
	free(name);
	return found;
}

char *lora_underscored(const char *module)
{
	char *s = mem_str(module);

	for (char *p = s; *p; p++)
		if (*p == '.')
			*p = '_';
	return s;
}

at_t lora_swap_halves(at_t rows_OR)
{
	int64_t half = at_size(rows_OR, 0) / 2;

	return at_cat2(at_narrow(rows_OR, 0, half, half), at_narrow(rows_OR, 0, 0, half), 0);
}
