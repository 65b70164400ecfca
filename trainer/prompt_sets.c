#include "trainer/prompt_sets.h"
#include "base/machine/share.h"
#include "base/mem.h"
#include "rewards/mixture/mixture.h"
#include <stdlib.h>
#include <string.h>

const struct field prompt_set_fields[] = {
	FIELD(struct prompt_set_conf, train, .init = NULL, .doc = "training prompts, .txt or .jsonl"),
	FIELD(struct prompt_set_conf, test, .init = "",
	      .doc = "held-out prompts of this set; empty: it is not evaluated"),
	FIELD(struct prompt_set_conf, weight, .init = "1", .min = 0, .max = 1e6,
	      .doc = "its share of an epoch's prompts is this, divided by the sum over all sets; 0: it is "
		     "evaluated and not trained"),
	FIELD(struct prompt_set_conf, by_tag, .init = "false",
	      .doc = "sample the metadata's tags of this set in turn"),
	FIELD_END
};

/* Names are parts of metrics' names (eval/NAME/strict, reward/NAME/mean), and none is one already. */
static int check_name(const char *name, const char *where, struct err *e)
{
	static const char *const taken[] = { "geneval",     "strict", "soft", "low",   "high",     "reward",
					     "unavailable", "mean",   "std",  "drawn", "left_out", NULL };

	if (!mixture_name_is_good(name))
		return err_set(e,
			       "%s: prompts.sets: '%s' is not a valid name: use letters, digits, '-' and "
			       "'_'",
			       where, name);
	for (int i = 0; taken[i]; i++)
		if (!strcmp(taken[i], name))
			return err_set(e, "%s: prompts.sets: a set cannot be called '%s': metrics are", where,
				       name);
	return 0;
}

/* Keys beside `sets` that only a single file has. */
static int check_alone(const struct experiment *x, struct err *e)
{
	const struct prompts_conf *c = &x->prompts;
	const char *key = *c->train ? "train" : *c->test ? "test" : c->by_tag ? "by_tag" : NULL;

	if (!x->n_sets)
		return *c->train ? 0
				 : err_set(e, "'prompts.train' is required: training prompts, .txt or .jsonl "
					      "(or several files, as prompts.sets)");
	if (!key)
		return 0;
	char *name = mem_printf("prompts.%s", key);
	const char *where = conf_where(x->tree, name);
	err_set(e, "%s%s%s: with prompts.sets each set has its own: move it there, or write `%s: null`",
		where, *where ? ": " : "", name, key);
	free(name);
	return -1;
}

static int read_sets(struct experiment *x, const char *const *names, int n, struct err *e)
{
	static const char *const others[] = { "rewards", NULL };
	double sum = 0;

	for (int i = 0; i < n; i++) {
		char *section = mem_printf("prompts.sets.%s", names[i]);
		const char *where = conf_where(x->tree, section);
		struct prompt_set_conf *s = &x->set[i];
		int ret = check_name(names[i], where, e);

		if (!ret && !conf_is_section(x->tree, section))
			ret = err_set(e, "%s: %s is not a set: write its name with keys below it", where,
				      section);
		if (!ret)
			ret = conf_fill(s, prompt_set_fields, x->tree, section, others, e);
		free(section);
		if (ret)
			return -1;
		x->n_sets++;
		s->name = names[i];
		share_replace(&s->train);
		share_replace(&s->test);
		sum += s->weight;
	}
	if (n && !(sum > 0))
		return err_set(e,
			       "%s: prompts.sets: the weight of every set is 0: at least one must be trained",
			       conf_where(x->tree, "prompts.sets"));
	return 0;
}

int prompt_sets_fill(struct experiment *x, struct err *e)
{
	const char *where = conf_where(x->tree, "prompts.sets");
	int n;
	const char **names = conf_keys(x->tree, "prompts.sets", &n);
	int ret = 0;

	if (*where && !conf_is_section(x->tree, "prompts.sets"))
		ret = err_set(e,
			      "%s: prompts.sets: write sets by name: `sets: {NAME: {train: FILE, rewards: "
			      "{...}}, ...}`",
			      where);
	else if (n > PROMPT_SETS)
		ret = err_set(e, "%s: prompts.sets: %d are more than %d", where, n, PROMPT_SETS);
	share_replace(&x->prompts.train);
	share_replace(&x->prompts.test);
	x->set = mem_zero((size_t)n + 1, sizeof *x->set);
	if (!ret)
		ret = read_sets(x, names, n, e) || check_alone(x, e) ? -1 : 0;
	free(names);
	return ret;
}

void prompt_sets_release(struct experiment *x)
{
	for (int i = 0; i < x->n_sets; i++)
		conf_release(&x->set[i], prompt_set_fields);
	free(x->set);
}

void prompt_sets_store(const struct experiment *x, struct conf_node *out, const char *section)
{
	for (int i = 0; i < x->n_sets; i++) {
		char *set = mem_printf("%s.sets.%s", section, x->set[i].name),
		     *to = mem_printf("%s.rewards", set),
		     *from = mem_printf("prompts.sets.%s.rewards", x->set[i].name);
		struct conf_node *rewards = conf_copy(x->tree, from);

		conf_store(out, &x->set[i], prompt_set_fields, set);
		if (rewards)
			conf_put(out, to, rewards);
		free(set);
		free(to);
		free(from);
	}
}

void prompt_sets_replace(struct conf_node *out, const struct conf_node *tree, const char *over)
{
	char *sets = mem_printf("%s.prompts.sets", over), *train = mem_printf("%s.prompts.train", over);
	bool some = conf_is_section(tree, sets);
	struct conf_node *prompts = conf_copy(out, "prompts");

	if (prompts && (some || *conf_where(tree, train))) {
		conf_remove(prompts, "sets");
		conf_remove(prompts, "train");
		if (some) {
			conf_remove(prompts, "test");
			conf_remove(prompts, "by_tag");
		}
		conf_remove(out, "prompts");
		conf_put(out, "prompts", prompts);
	} else {
		conf_node_free(prompts);
	}
	free(sets);
	free(train);
}

/* ---- The files ------------------------------------------------------------------------------------- */

bool prompts_have_test(const struct experiment *x)
{
	bool some = *x->prompts.test;

	for (int i = 0; i < x->n_sets; i++)
		some |= *x->set[i].test != '\0';
	return some;
}

static int read_all(struct prompts *p, const struct experiment *x, bool test, struct err *e)
{
	*p = (struct prompts) { 0 };
	if (!x->n_sets) {
		const char *path = test ? x->prompts.test : x->prompts.train;

		return *path ? prompts_read(p, path, e) : 0;
	}
	for (int i = 0; i < x->n_sets; i++) {
		const struct prompt_set_conf *s = &x->set[i];
		const char *path = test ? s->test : s->train;
		struct prompts one = { 0 };

		if (*path && prompts_read(&one, path, e)) {
			prompts_free(p);
			return err_in(e, "prompts.sets.%s", s->name);
		}
		prompts_add_set(p, s->name, s->weight, s->by_tag, &one);
	}
	return 0;
}

int prompts_read_train(struct prompts *p, const struct experiment *x, struct err *e)
{
	return read_all(p, x, false, e);
}

int prompts_read_test(struct prompts *p, const struct experiment *x, struct err *e)
{
	return read_all(p, x, true, e);
}
