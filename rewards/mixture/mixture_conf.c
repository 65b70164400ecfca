/* mixture_conf.c -- the section `rewards`: its entries read, opened and asked about prompts. */
#include "base/mem.h"
#include "rewards/mixture/mixture_queue.h"
#include <stdlib.h>
#include <string.h>

/* What the mixture itself reads of an entry. */
struct entry_conf {
	char *type;
	double weight, deadline, quorum;
};
static const struct field entry_fields[] = {
	FIELD(struct entry_conf, type, .init = "",
	      .doc = "the reward's type; empty: the entry's name is the type. With a `type`, an entry may "
		     "have any "
		     "name, so the same type can be used several times"),
	FIELD(struct entry_conf, weight, .init = "1", .min = -1e6, .max = 1e6,
	      .doc =
		  "weight of this reward in the total; 0: it is only watched: reported, not trained on, and "
		  "an image that it cannot score is kept"),
	FIELD(struct entry_conf, deadline, .init = "0", .min = 0, .max = 1e6, .unit = "s",
	      .doc =
		  "time limit for a batch of images; after it the images count as unavailable and a late "
		  "answer is ignored; 0: no limit. (Rewards with a `deadline` of their own, http and openai, "
		  "also cancel their requests)"),
	FIELD(struct entry_conf, quorum, .init = "0", .min = 0, .max = 1,
	      .doc = "smallest share of a prompt's images that must have this score. Below it, the prompt is "
		     "scored without this reward; at or above it, only the images without the score are "
		     "unavailable. 0: this reward is never left out"),
	FIELD_END
};
_Static_assert(sizeof entry_fields / sizeof *entry_fields == MIXTURE_FIELDS, "MIXTURE_FIELDS");

static bool has_field(const struct field *f, const char *name)
{
	for (; f && f->name; f++)
		if (!strcmp(f->name, name))
			return true;
	return false;
}

void mixture_fields(const struct reward_type *type, struct field *out)
{
	for (const struct field *f = entry_fields; f->name; f++)
		if (!type || !has_field(type->fields, f->name))
			*out++ = *f;
	*out = (struct field)FIELD_END;
}

void mixture_entry_close(struct mixture_entry *k)
{
	if (k->state && k->type->close)
		k->type->close(k->state);
	if (k->conf && k->type->fields)
		conf_release(k->conf, k->type->fields);
	free(k->conf);
	free(k->name);
}

static char *first_part(const char *name)
{
	return mem_printf("%.*s", (int)strcspn(name, "."), name);
}

/* First-level names of a table, earlier ones too, for conf_fill's `others`; free the array and its strings.
 */
static char **first_names(const struct field *f)
{
	int fields = 0, n = 0;

	while (f && f[fields].name)
		fields++;
	char **names = mem_zero(2 * (size_t)fields + 1, sizeof *names);
	for (int i = 0; i < fields; i++) {
		names[n++] = first_part(f[i].name);
		if (f[i].was)
			names[n++] = first_part(f[i].was);
	}
	return names;
}

static int fill(void *conf, const struct field *f, const struct field *others, const struct conf_node *root,
		const char *section, struct err *e)
{
	char **names = first_names(others);
	int ret = conf_fill(conf, f, root, section, (const char *const *)names, e);

	for (char **s = names; *s; s++)
		free(*s);
	free(names);
	return ret;
}

#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

bool mixture_name_is_good(const char *name)
{
	return *name && !name[strspn(name, NAME_LETTERS)];
}

/* Names are parts of metrics' names, of keys and of files: of letters, digits, '-' and '_', and none that is
 * a metric or a key of its own. */
static int check_name(const char *name, const char *where, struct err *e)
{
	static const char *const taken[] = { "mean",  "std",    "strict", "unavailable", "left_out",
					     "image", "prompt", "reward", NULL };

	if (!mixture_name_is_good(name))
		return err_set(e, "%s%srewards: '%s' is not a valid name: use letters, digits, '-' and '_'",
			       where, *where ? ": " : "", name);
	for (int i = 0; taken[i]; i++)
		if (!strcmp(taken[i], name))
			return err_set(e,
				       "%s%srewards: an entry cannot be called '%s': results have a "
				       "column of that name",
				       where, *where ? ": " : "", name);
	return 0;
}

/* The type of entry `name`: its key `type`, or the name. */
static const struct reward_type *entry_type(const struct conf_node *root, const char *name,
					    const char *section, struct err *e)
{
	const struct field only[] = { entry_fields[0], FIELD_END };
	struct entry_conf c = { 0 };
	char *key = mem_printf("%s.type", section);
	const char *where = conf_where(root, section);
	const struct reward_type *type = NULL;
	int n;
	/* whose the other keys are is known when the type is */
	const char **keys = conf_keys(root, section, &n), **others = mem_zero((size_t)n + 1, sizeof *others);

	for (int i = 0; i < n; i++)
		others[i] = keys[i];
	if (!check_name(name, where, e) && !conf_fill(&c, only, root, section, others, e)) {
		type = reward_find(*c.type ? c.type : name, e);
		if (!type && *c.type)
			err_in(e, "%s%s%s", conf_where(root, key), *conf_where(root, key) ? ": " : "", key);
		else if (!type)
			err_in(e, "%s%srewards", where, *where ? ": " : "");
		conf_release(&c, only);
	}
	free(keys);
	free(others);
	free(key);
	return type;
}

/* The list of the key `sub_scores`, NULL where the type has no such key. */
static const struct conf_list *sub_scores(const struct mixture_entry *k)
{
	for (const struct field *f = k->type->fields; f && f->name && k->conf; f++)
		if (f->type == FIELD_LIST && !strcmp(f->name, "sub_scores"))
			return (const struct conf_list *)((const char *)k->conf + f->offset);
	return NULL;
}

/* They are keys of results, beside others. */
static int check_subs(const struct mixture_entry *k, const char *where, const char *section, struct err *e)
{
	static const char *const taken[] = { "score", "images", "why", "error", "rewards", "weight", NULL };
	const struct conf_list *l = sub_scores(k);

	for (int i = 0; l && i < l->n; i++) {
		const char *name = l->v[i];
		bool bad = !mixture_name_is_good(name);

		for (int j = 0; taken[j]; j++)
			bad |= !strcmp(taken[j], name);
		for (int j = 0; j < i; j++)
			bad |= !strcmp(l->v[j], name);
		if (bad)
			return err_set(
			    e,
			    "%s%s%s.sub_scores: '%s' is not a name that a sub-score can have: use "
			    "letters, digits, '-' and '_', each name once, and not `score` or `why`",
			    where, *where ? ": " : "", section, name);
	}
	return 0;
}

/* A held-out reward counts in no total, and says so if it has the key at all. */
static int hold_out(struct mixture_entry *k, const struct conf_node *root, const char *section, struct err *e)
{
	char *key = mem_printf("%s.weight", section);
	bool given = *conf_where(root, key);
	int ret = 0;

	if (given && k->weight != 0)
		ret = err_set(e, "%s: %s: rewards of eval.rewards are never trained on: they have no weight",
			      conf_where(root, key), key);
	k->weight = 0;
	k->held_out = true;
	free(key);
	return ret;
}

/* Its type and keys. */
static int entry_read(struct mixture_entry *k, const struct conf_node *root, const char *group,
		      const char *name, struct err *e)
{
	char *section = mem_printf("%s.%s", group, name);
	struct field common[MIXTURE_FIELDS];
	struct entry_conf c = { 0 };
	int ret = -1;

	*k = (struct mixture_entry) { .type = entry_type(root, name, section, e) };
	if (!k->type)
		goto out;
	k->name = mem_str(name);
	if (k->type->abi != REWARD_ABI) {
		err_set(e, "reward %s is built for version %d of the interface, this is %d", k->type->name,
			k->type->abi, REWARD_ABI);
		goto out;
	}
	mixture_fields(k->type, common);
	if (fill(&c, common, k->type->fields, root, section, e))
		goto out;
	k->weight = c.weight;
	k->deadline = c.deadline;
	k->quorum = c.quorum;
	conf_release(&c, common);
	if (k->type->fields) {
		k->conf = mem_zero(1, k->type->conf_size);
		if (fill(k->conf, k->type->fields, common, root, section, e))
			goto out;
	}
	ret = check_subs(k, conf_where(root, section), section, e) ||
		      (strcmp(group, "rewards") != 0 && hold_out(k, root, section, e))
		  ? -1
		  : 0;
out:
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

/* Some reward counts, and no two have one name. */
static int check_entries(const struct mixture_entry *entry, int n, const struct conf_node *root,
			 struct err *e)
{
	bool some = false;

	for (int k = 0; k < n; k++) {
		some |= entry[k].weight != 0;
		for (int i = 0; i < k; i++)
			if (!strcmp(entry[i].name, entry[k].name))
				return err_set(
				    e,
				    "%s: eval.rewards: '%s' is an entry of `rewards`, too: give it "
				    "another name (and its `type`)",
				    conf_where(root, "eval.rewards"), entry[k].name);
	}
	const char *where = conf_where(root, "rewards");
	return some ? 0
		    : err_set(e, "%s%srewards: the weight of every entry is 0: at least one must count",
			      where, *where ? ": " : "");
}

/* All entries of `rewards` and `eval.rewards`, read and not opened; NULL on error. */
static struct mixture_entry *entries_read(const struct conf_node *root, int *n, struct err *e)
{
	int own, held_out;
	const char **names = conf_keys(root, "rewards", &own),
		   **others = conf_keys(root, "eval.rewards", &held_out);
	struct mixture_entry *entry = mem_zero((size_t)(own + held_out) + 1, sizeof *entry);
	int ret = 0;

	*n = own + held_out;
	if (!own) {
		const char *where = conf_where(root, "rewards");
		ret = err_set(
		    e,
		    "%s%srewards: there is none: add at least one, such as `rewards: {geneval: {weight: 1}}`",
		    where, *where ? ": " : "");
	}
	for (int k = 0; k < own && !ret; k++)
		ret = entry_read(&entry[k], root, "rewards", names[k], e);
	for (int k = 0; k < held_out && !ret; k++)
		ret = entry_read(&entry[own + k], root, "eval.rewards", others[k], e);
	if (!ret)
		ret = check_entries(entry, *n, root, e);
	free(names);
	free(others);
	if (!ret)
		return entry;
	entries_free(entry, *n);
	return NULL;
}

/* By its key `group`, or of its own accord. */
static bool asks_for_groups(const struct mixture_entry *k)
{
	bool asked = k->type->group && k->type->group(k->state);

	for (const struct field *f = k->type->fields; f && f->name; f++)
		if (f->type == FIELD_BOOL && !strcmp(f->name, "group"))
			asked |= *(const bool *)((const char *)k->conf + f->offset);
	return asked;
}

int mixture_open(struct mixture **m, const struct conf_node *root, int threads, struct err *e)
{
	int n, ret = 0;
	struct mixture_entry *entry = entries_read(root, &n, e);

	double *weight = NULL;
	int sets = 0;

	*m = NULL;
	if (!entry)
		return -1;
	ret = mixture_sets_read(&weight, &sets, root, entry, n, e);
	for (int k = 0; k < n && !ret; k++)
		if (entry[k].type->open && entry[k].type->open(&entry[k].state, entry[k].conf, e))
			ret = err_in(e, "reward %s", entry[k].name);
	for (int k = 0; k < n && !ret; k++)
		entry[k].group = asks_for_groups(&entry[k]);
	if (ret) {
		free(weight);
		entries_free(entry, n);
		return -1;
	}
	*m = mixture_new(entry, n, threads);
	mixture_set_weights(*m, sets, weight);
	free(weight);
	free(entry);
	return 0;
}

int mixture_open_over(struct mixture **m, const struct conf_node *root, const struct mixture_backend *backend,
		      void *ctx, struct err *e)
{
	int n, sets = 0;
	struct mixture_entry *entry = entries_read(root, &n, e);
	double *weight = NULL;

	*m = NULL;
	if (!entry)
		return -1;
	if (mixture_sets_read(&weight, &sets, root, entry, n, e)) {
		entries_free(entry, n);
		return -1;
	}
	*m = mixture_new_over(entry, n, backend, ctx);
	mixture_set_weights(*m, sets, weight);
	free(weight);
	free(entry);
	return 0;
}

/* A reward's own keys, as text; free(). */
static char *keys_text(const struct mixture_entry *k)
{
	struct conf_node *tree = conf_empty();
	struct text t = { 0 };

	conf_store(tree, k->conf, k->type->fields, "reward");
	conf_emit(&t, tree);
	conf_node_free(tree);
	return t.s;
}

bool mixture_entries_alike(const struct mixture_entry *a, const struct mixture_entry *b)
{
	if (a->type != b->type || !a->conf != !b->conf)
		return false;
	if (!a->conf)
		return true;
	char *x = keys_text(a), *y = keys_text(b);
	bool alike = !strcmp(x, y);
	free(x);
	free(y);
	return alike;
}

static struct entry_conf entry_values(const struct mixture_entry *k)
{
	return (struct entry_conf) { .type = (char *)(uintptr_t)k->type->name,
				     .weight = k->weight,
				     .deadline = k->deadline,
				     .quorum = k->quorum };
}

int mixture_resolve(const struct conf_node *root, struct conf_node *out, struct err *e)
{
	int n, sets;
	struct mixture_entry *entry = entries_read(root, &n, e);
	double *weight;

	if (!entry)
		return -1;
	int ret = mixture_sets_read(&weight, &sets, root, entry, n, e);
	free(weight);
	for (int k = 0; k < n && out && !ret; k++) {
		struct entry_conf c = entry_values(&entry[k]);
		char *section = mem_printf("%srewards.%s", entry[k].held_out ? "eval." : "", entry[k].name);
		struct field common[MIXTURE_FIELDS];

		mixture_fields(entry[k].type, common);
		conf_store(out, &c, common, section);
		if (entry[k].type->fields)
			conf_store(out, entry[k].conf, entry[k].type->fields, section);
		free(section);
	}
	entries_free(entry, n);
	return ret;
}

const char *mixture_sub(const struct mixture_entry *k, int j)
{
	const struct conf_list *asked = sub_scores(k);

	if (asked)
		return j < asked->n ? asked->v[j] : NULL;
	return j < REWARD_SUBS ? k->type->sub_names[j] : NULL;
}

int mixture_sub_at(const struct mixture *m, int k, const char *name)
{
	for (int sub = 0; mixture_sub(mixture_at(m, k), sub); sub++)
		if (!strcmp(mixture_sub(mixture_at(m, k), sub), name))
			return sub;
	return -1;
}

bool mixture_has_quorum(const struct mixture *m)
{
	for (int k = 0; k < mixture_count(m); k++)
		if (mixture_at(m, k)->quorum > 0)
			return true;
	return false;
}

bool mixture_has_groups(const struct mixture *m)
{
	for (int k = 0; k < mixture_count(m); k++)
		if (mixture_at(m, k)->group)
			return true;
	return false;
}
