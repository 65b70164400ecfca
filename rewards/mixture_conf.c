/* mixture_conf.c -- the section `rewards`: its entries read, opened and asked about prompts. */
#include "base/mem.h"
#include "rewards/mixture.h"
#include <stdlib.h>
#include <string.h>

struct weight_conf {
	double weight;
};
static const struct field weight_fields[] = { FIELD(struct weight_conf, weight, .init = "1",
						    .doc = "Factor of this reward's score in the total"),
					      FIELD_END };

void mixture_entry_close(struct mixture_entry *k)
{
	if (k->state && k->type->close)
		k->type->close(k->state);
	if (k->conf && k->type->fields)
		conf_release(k->conf, k->type->fields);
	free(k->conf);
}

/* First-level names of a table, for conf_fill's `others`; free the array and its strings. */
static char **first_names(const struct field *f)
{
	int n = 0;

	while (f && f[n].name)
		n++;
	char **names = mem_zero((size_t)n + 1, sizeof *names);
	for (int i = 0; i < n; i++)
		names[i] = mem_printf("%.*s", (int)strcspn(f[i].name, "."), f[i].name);
	return names;
}

/* Its type and keys. */
static int entry_read(struct mixture_entry *k, const struct conf_node *root, const char *name, struct err *e)
{
	static const char *const weight_name[] = { "weight", NULL };
	char *section = mem_printf("rewards.%s", name), **names = NULL;
	struct weight_conf w = { 0 };
	int ret = -1;

	*k = (struct mixture_entry) { .type = reward_find(name, e) };
	if (!k->type) {
		const char *where = conf_where(root, section);
		err_in(e, "%s%srewards", where, *where ? ": " : "");
		goto out;
	}
	if (k->type->abi != REWARD_ABI) {
		err_set(e, "reward %s is built for version %d of the interface, this is %d", name,
			k->type->abi, REWARD_ABI);
		goto out;
	}
	names = first_names(k->type->fields);
	if (conf_fill(&w, weight_fields, root, section, (const char *const *)names, e))
		goto out;
	k->weight = w.weight;
	if (k->type->fields) {
		k->conf = mem_zero(1, k->type->conf_size);
		if (conf_fill(k->conf, k->type->fields, root, section, weight_name, e))
			goto out;
	}
	ret = 0;
out:
	for (char **s = names; s && *s; s++)
		free(*s);
	free(names);
	free(section);
	return ret;
}

static void entries_free(struct mixture_entry *entry, int n)
{
	for (int k = 0; k < n; k++)
		if (entry[k].type)
			mixture_entry_close(&entry[k]);
	free(entry);
}

/* All entries of the section, read and not opened; NULL on error. */
static struct mixture_entry *entries_read(const struct conf_node *root, int *n, struct err *e)
{
	const char **names = conf_keys(root, "rewards", n);
	struct mixture_entry *entry = mem_zero((size_t)*n, sizeof *entry);
	int ret = 0;

	if (!*n) {
		const char *where = conf_where(root, "rewards");
		ret = err_set(
		    e,
		    "%s%srewards: none is given: add at least one, such as `rewards: {geneval: {weight: 1}}`",
		    where, *where ? ": " : "");
	}
	for (int k = 0; k < *n && !ret; k++)
		ret = entry_read(&entry[k], root, names[k], e);
	free(names);
	if (!ret)
		return entry;
	entries_free(entry, *n);
	return NULL;
}

int mixture_open(struct mixture **m, const struct conf_node *root, int threads, struct err *e)
{
	int n, ret = 0;
	struct mixture_entry *entry = entries_read(root, &n, e);

	*m = NULL;
	if (!entry)
		return -1;
	for (int k = 0; k < n && !ret; k++)
		if (entry[k].type->open && entry[k].type->open(&entry[k].state, entry[k].conf, e))
			ret = err_in(e, "reward %s", entry[k].type->name);
	if (ret) {
		entries_free(entry, n);
		return -1;
	}
	*m = mixture_new(entry, n, threads);
	free(entry);
	return 0;
}

int mixture_resolve(const struct conf_node *root, struct conf_node *out, struct err *e)
{
	int n;
	struct mixture_entry *entry = entries_read(root, &n, e);

	if (!entry)
		return -1;
	for (int k = 0; k < n && out; k++) {
		struct weight_conf w = { entry[k].weight };
		char *section = mem_printf("rewards.%s", entry[k].type->name);

		conf_store(out, &w, weight_fields, section);
		if (entry[k].type->fields)
			conf_store(out, entry[k].conf, entry[k].type->fields, section);
		free(section);
	}
	entries_free(entry, n);
	return 0;
}

bool mixture_find_sub(const struct mixture *m, const char *name, int *k, int *sub)
{
	for (*k = 0; *k < mixture_count(m); ++*k)
		for (*sub = 0; *sub < REWARD_SUBS; ++*sub) {
			const char *is = mixture_at(m, *k)->type->sub_names[*sub];
			if (is && !strcmp(is, name))
				return true;
		}
	return false;
}

int mixture_check(struct mixture *m, const char *prompt, const char *meta, struct err *e)
{
	for (int k = 0; k < mixture_count(m); k++) {
		const struct mixture_entry *entry = mixture_at(m, k);
		if (entry->type->check && entry->type->check(entry->state, prompt, meta, e))
			return err_in(e, "reward %s cannot score '%.100s'", entry->type->name, prompt);
	}
	return 0;
}
