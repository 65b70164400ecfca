#include "commands/reward_options.h"
#include "base/mem.h"
#include "base/text.h"
#include "dist/startup.h"
#include <stdlib.h>
#include <string.h>

/* Only this entry of the file's rewards. */
static int choose(struct conf_node *tree, const char *config, const char *name, struct err *e)
{
	int n, at = 0;
	const char **keys = conf_keys(tree, "rewards", &n), **names = mem_zero((size_t)n + 1, sizeof *names);
	const char *near;

	for (int i = 0; i < n; i++)
		names[i] = keys[i];
	while (at < n && strcmp(names[at], name))
		at++;
	near = text_nearest(name, names);
	if (at == n)
		err_set(e, "%s has no rewards.%s%s%s%s", config, name, near ? "; did you mean '" : "",
			near ? near : "", near ? "'?" : "");
	free(keys);
	free(names);
	if (at == n)
		return -1;
	char *section = mem_printf("rewards.%s", name);
	struct conf_node *only = conf_copy(tree, section);
	conf_remove(tree, "rewards");
	conf_put(tree, section, only);
	free(section);
	return 0;
}

static int read_rewards(struct conf_node *tree, const struct reward_options *o, const char *command,
			struct err *e)
{
	if (!o->config) {
		if (!reward_find(o->reward, e))
			return err_in(e, "%s: --reward", command);
		char *section = mem_printf("rewards={%s: {}}", o->reward);
		int ret = conf_set(tree, section, e);
		free(section);
		if (ret)
			return -1;
	}
	for (int i = 0; i < o->set.n; i++) {
		const char *set = o->set.v[i];

		if (!text_starts(set, "rewards.") && !text_starts(set, "rewards="))
			return err_set(e, "%s: --set %s: only keys of `rewards` are read", command, set);
		if (conf_set(tree, set, e))
			return -1;
	}
	return o->config && o->reward ? choose(tree, o->config, o->reward, e) : 0;
}

int reward_options_open(struct mixture **m, const struct reward_options *o, struct dist *d,
			const char *command, struct err *e)
{
	enum at_device dev;

	if (startup_threads(d, o->threads, e) || startup_device(&dev, "auto", d, e))
		return err_in(e, "%s", command);
	struct conf_node *tree = o->config ? conf_read(o->config, e) : conf_empty();
	int ret = tree ? read_rewards(tree, o, command, e) : -1;

	if (!ret) {
		conf_remove(tree, "eval");    /* rewards of evaluations */
		conf_remove(tree, "prompts"); /* whose sets say which rewards score which prompts */
		ret = mixture_open(m, tree, at_threads(), e);
	}
	if (!ret)
		ret = mixture_load(*m, e);
	conf_node_free(tree);
	return ret;
}
