/* reward_plugin.c -- a judge in a shared library (plugin.h), loaded from where the configuration says. */
#include "base/mem.h"
#include "base/text.h"
#include "rewards/judges/plugin.h"
#include "rewards/reward.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct plugin_conf {
	char *path, *options;
	bool group;
};

static const struct field fields[] = {
	FIELD(struct plugin_conf, path, .init = NULL,
	      .doc = "the shared library; write a slash in it (./name.so): it is not searched for"),
	FIELD(struct plugin_conf, options, .init = "", .doc = "text passed to the library unchanged"),
	FIELD(struct plugin_conf, group, .init = "false",
	      .doc = "give the library all images of a prompt at once, even if it does not ask for that"),
	FIELD_END
};

struct plugin {
	const struct plugin_conf *conf;
	void *library, *state;
	const struct contraflow_reward *reward;
};

static void close_plugin(void *state)
{
	struct plugin *p = state;

	if (!p)
		return;
	if (p->state && p->reward->close)
		p->reward->close(p->state);
	if (p->library)
		dlclose(p->library);
	free(p);
}

static int find(struct plugin *p, const struct plugin_conf *c, struct err *e)
{
	const struct contraflow_reward *(*entry)(void);
	void *symbol;

	if (!strchr(c->path, '/'))
		return err_set(e, "path '%s' has no slash: write ./%s", c->path, c->path);
	if (!(p->library = dlopen(c->path, RTLD_NOW | RTLD_LOCAL)))
		return err_set(e, "cannot load %s: %s", c->path, dlerror());
	if (!(symbol = dlsym(p->library, "contraflow_reward")))
		return err_set(e, "%s exports no contraflow_reward(): see rewards/judges/plugin.h", c->path);
	memcpy(&entry, &symbol, sizeof entry); /* ISO C has no other way from a data to a function pointer */
	p->reward = entry();
	if (!p->reward || p->reward->abi < 1 || p->reward->abi > CONTRAFLOW_PLUGIN_ABI)
		return err_set(e, "%s is built for version %d of the interface, this is %d", c->path,
			       p->reward ? p->reward->abi : 0, CONTRAFLOW_PLUGIN_ABI);
	if (p->reward->abi >= 2 && p->reward->flags & ~CONTRAFLOW_GROUP)
		return err_set(e, "%s has flags %#x that this program does not know", c->path,
			       p->reward->flags);
	if (!p->reward->score)
		return err_set(e, "%s has no score()", c->path);
	return 0;
}

/* The library's own open: what it loads is its affair. */
static int load_plugin(void *state, struct err *e)
{
	struct plugin *p = state;
	char why[256] = "no reason was given";

	if (p->reward->open && p->reward->open(&p->state, p->conf->options, why, sizeof why))
		return err_set(e, "%s: %.200s", p->conf->path, why);
	return 0;
}

static int open_plugin(void **state, const void *conf, struct err *e)
{
	struct plugin *p = mem_zero(1, sizeof *p);

	p->conf = conf;
	if (find(p, conf, e)) {
		close_plugin(p);
		return -1;
	}
	*state = p;
	return 0;
}

static int score(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	struct plugin *p = state;
	struct contraflow_item *in = mem_zero((size_t)n, sizeof *in);
	struct contraflow_score *got = mem_zero((size_t)n, sizeof *got);
	int ret;

	for (int i = 0; i < n; i++)
		in[i] = (struct contraflow_item) { item[i].rgb, item[i].w, item[i].h, item[i].prompt,
						   item[i].meta };
	ret = p->reward->score(p->state, in, n, got);
	for (int i = 0; i < n && !ret; i++) {
		got[i].why[sizeof got[i].why - 1] = '\0';
		if (got[i].ok)
			reward_put(&out[i], 1, &got[i].value, "the library's");
		else
			reward_fail(&out[i], 1, got[i].why);
	}
	free(in);
	free(got);
	return ret ? err_set(e, "%s could score none of %d images",
			     p->reward->name ? p->reward->name : "the library", n)
		   : 0;
}

static bool wants_group(const void *state)
{
	const struct contraflow_reward *r = ((const struct plugin *)state)->reward;

	return r->abi >= 2 && r->flags & CONTRAFLOW_GROUP;
}

const struct reward_type reward_plugin = {
	.abi = REWARD_ABI,
	.name = "plugin",
	.doc = "A reward of your own in a shared library",
	.fields = fields,
	.conf_size = sizeof(struct plugin_conf),
	.open = open_plugin,
	.load = load_plugin,
	.score = score,
	.close = close_plugin,
	.group = wants_group,
};
