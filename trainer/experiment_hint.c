/* experiment_hint.c -- where a key that stands in the wrong section belongs. */
#include "trainer/experiment.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

static const char *last_part(const char *key)
{
	const char *dot = strrchr(key, '.');

	return dot ? dot + 1 : key;
}

int experiment_hint(struct err *e)
{
	static const char words[] = "unknown key '";
	const char *key = strstr(e->msg, words);
	struct text found = { 0 };

	if (!key || strstr(e->msg, "did you mean"))
		return -1;
	key += strlen(words);
	char *name = mem_printf("%.*s", (int)strcspn(key, "'"), key);
	for (const struct experiment_section *s = experiment_sections; s->name; s++)
		for (const struct field *f = s->fields; f->name; f++)
			if (!strcmp(last_part(f->name), last_part(name)))
				text_printf(&found, "%s%s.%s", found.n ? ", " : "", s->name, f->name);
	if (found.n)
		err_set(e, "%s; there is %s", e->msg, found.s);
	text_free(&found);
	free(name);
	return -1;
}
