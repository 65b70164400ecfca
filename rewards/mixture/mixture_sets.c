/* mixture_sets.c -- `prompts.sets`: which rewards score the images of which prompts, and what they count. */
#include "base/mem.h"
#include "rewards/mixture/mixture_queue.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

int mixture_sets(const struct mixture *m)
{
	return m->sets;
}

double mixture_weight(const struct mixture *m, int k, int set)
{
	return m->sets ? m->weight[(size_t)set * (size_t)m->entries + (size_t)k] : m->entry[k].weight;
}

void mixture_set_weights(struct mixture *m, int sets, const double *weight)
{
	size_t cells = (size_t)sets * (size_t)m->entries;

	free(m->weight);
	m->sets = sets;
	m->weight = sets ? memcpy(mem_alloc(cells * sizeof *weight), weight, cells * sizeof *weight) : NULL;
}

struct factor {
	double value;
};

/* The number at SECTION.name, one of `names`. */
static int read_factor(double *out, const struct conf_node *root, const char *section,
		       const char *const *names, const char *name, struct err *e)
{
	const struct field one[] = { { .name = name,
				       .type = FIELD_REAL,
				       .offset = offsetof(struct factor, value),
				       .min = -1e6,
				       .max = 1e6 },
				     FIELD_END };
	struct factor f;

	if (conf_fill(&f, one, root, section, names, e))
		return -1;
	*out = f.value;
	return 0;
}

/* The entry of `rewards` with that name, -1: there is none. */
static int find(const struct mixture_entry *entry, int n, const char *name)
{
	for (int k = 0; k < n; k++)
		if (!entry[k].held_out && !strcmp(entry[k].name, name))
			return k;
	return -1;
}

static int unknown(const struct mixture_entry *entry, int n, const struct conf_node *root,
		   const char *section, const char *name, struct err *e)
{
	const char **names = mem_zero((size_t)n + 1, sizeof *names);
	char *key = mem_printf("%s.%s", section, name);
	int known = 0;

	for (int k = 0; k < n; k++)
		if (!entry[k].held_out)
			names[known++] = entry[k].name;
	const char *near = text_nearest(name, names);
	err_set(e, "%s: %s: `rewards` has no entry '%s'%s%s%s", conf_where(root, key), section, name,
		near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
	free(names);
	free(key);
	return -1;
}

/* The weights of one set, NAN for what it does not name. */
static int read_set(double *weight, const struct conf_node *root, const char *name,
		    const struct mixture_entry *entry, int n, struct err *e)
{
	char *section = mem_printf("prompts.sets.%s.rewards", name);
	bool some = false;
	int named, ret = 0;
	const char **keys = conf_keys(root, section, &named);
	const char **names = mem_zero((size_t)named + 1, sizeof *names); /* ended by NULL */

	for (int i = 0; i < named; i++)
		names[i] = keys[i];
	for (int k = 0; k < n; k++)
		weight[k] = entry[k].held_out ? 0 : NAN;
	for (int i = 0; i < named && !ret; i++) {
		int k = find(entry, n, names[i]);
		double factor;

		ret = k < 0 ? unknown(entry, n, root, section, names[i], e)
			    : read_factor(&factor, root, section, names, names[i], e);
		if (ret)
			break;
		weight[k] = factor * entry[k].weight;
		some |= weight[k] != 0;
	}
	if (!ret && !some) {
		char *set = mem_printf("prompts.sets.%s", name);

		ret =
		    err_set(e,
			    named ? "%s: %s: the weight of every reward is 0: at least one must count"
				  : "%s: %s: no reward scores these prompts: name at least one of `rewards`, "
				    "with its weight",
			    conf_where(root, named ? section : set), section);
		free(set);
	}
	free(keys);
	free(names);
	free(section);
	return ret;
}

static int check_used(const double *weight, int sets, const struct conf_node *root,
		      const struct mixture_entry *entry, int n, struct err *e)
{
	for (int k = 0; k < n; k++) {
		bool used = false;

		for (int s = 0; s < sets; s++)
			used |= !isnan(weight[s * n + k]);
		if (used)
			continue;
		char *key = mem_printf("rewards.%s", entry[k].name);
		err_set(e,
			"%s: %s: no set of `prompts.sets` names this reward: name it in one (0: it is only "
			"watched), or remove it",
			conf_where(root, key), key);
		free(key);
		return -1;
	}
	return 0;
}

int mixture_sets_read(double **weight, int *sets, const struct conf_node *root,
		      const struct mixture_entry *entry, int n, struct err *e)
{
	const char **names = conf_keys(root, "prompts.sets", sets);
	int ret = 0;

	*weight = *sets ? mem_zero((size_t)*sets * (size_t)n, sizeof **weight) : NULL;
	for (int s = 0; s < *sets && !ret; s++)
		ret = read_set(*weight + (size_t)s * (size_t)n, root, names[s], entry, n, e);
	if (!ret && *sets)
		ret = check_used(*weight, *sets, root, entry, n, e);
	free(names);
	if (!ret)
		return 0;
	free(*weight);
	*weight = NULL;
	return -1;
}
