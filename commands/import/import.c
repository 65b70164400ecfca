/* import.c -- reading a dump of another trainer's configuration, and writing ours. */
#include "commands/import/import.h"
#include "base/file.h"
#include "base/log.h"
#include "base/machine/share.h"
#include "base/mem.h"
#include "commands/options.h"
#include "rewards/mixture/mixture.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- What is in the file --------------------------------------------------------------------- */

/* Takes every "_fields." out: ConfigDict.to_yaml() writes a dictionary as an object that has one. */
static void drop_fields(char *key)
{
	const char *word = "_fields.";

	for (char *p; (p = strstr(key, word)) && (p == key || p[-1] == '.');)
		memmove(p, p + strlen(word), strlen(p + strlen(word)) + 1);
}

static void leaf(void *ctx, const char *key, const char *value)
{
	struct import *m = ctx;
	char *k = mem_str(key);

	drop_fields(k);
	const char *last = strrchr(k, '.');
	if (!value || !strcmp(value, "null") || !strcmp(value, "~") || k[0] == '_' ||
	    (last && last[1] == '_') || !strcmp(k, "wandb_version"))
		free(k); /* not set, wandb's own, or ConfigDict's */
	else
		MEM_PUSH(m->v, m->n, m->cap) = (struct import_value) { k, mem_str(value), false };
}

/* wandb's config.yaml has {value: ..., desc: ...} at every key of the first level. */
static void unwrap(struct import *m)
{
	for (int i = 0; i < m->n; i++) {
		const char *dot = strchr(m->v[i].key, '.');

		if (!dot || (!text_starts(dot, ".value") && strcmp(dot, ".desc") != 0) ||
		    (text_starts(dot, ".value") && dot[6] && !strchr(".[", dot[6])))
			return;
	}
	for (int i = 0; i < m->n; i++) {
		char *dot = strchr(m->v[i].key, '.');

		if (text_starts(dot, ".value")) {
			memmove(dot, dot + 6, strlen(dot + 6) + 1);
		} else { /* a description */
			free(m->v[i].key);
			free(m->v[i].value);
			m->v[i--] = m->v[--m->n];
		}
	}
}

static int read_dump(struct import *m, const char *path, struct err *e)
{
	char *data;
	size_t size;

	if (text_ends(path, ".py"))
		return err_set(e,
			       "%s is Python, which is not run here: give what its trainer logged of the "
			       "configuration (docs/migrating.md), or the name of a published setting",
			       path);
	if (file_read(&data, &size, path, e))
		return -1;
	struct conf_node *root = conf_parse(data, size, path, e);
	free(data);
	if (!root)
		return -1;
	conf_each(root, leaf, m);
	conf_node_free(root);
	unwrap(m);
	return 0;
}

const char *import_value(const struct import *m, const char *key)
{
	for (int i = 0; i < m->n; i++)
		if (!strcmp(m->v[i].key, key))
			return m->v[i].value;
	return NULL;
}

double import_number(const struct import *m, const char *key, double absent)
{
	const char *s = import_value(m, key);
	char *end;

	if (!s)
		return absent;
	double x = strtod(s, &end);
	return *s && !*end && isfinite(x) ? x : absent;
}

/* Both trainers' dumps have train.beta; only one of them has each of these. */
static int whose(struct import *m, const char *path, struct err *e)
{
	bool nft = import_value(m, "decay_type") || import_value(m, "beta"),
	     grpo = import_value(m, "train.clip_range") != NULL;

	if (import_value(m, "train.algorithm") || import_value(m, "train.ref_update_step"))
		return err_set(e,
			       "%s is of flow_grpo's DPO or SFT trainer, which are not translated; "
			       "configs/sd35m-dpo-pickscore.yaml is an online DPO",
			       path);
	if (nft == grpo)
		return err_set(
		    e,
		    "%s: neither a configuration of DiffusionNFT, which has decay_type and beta, nor "
		    "one of flow_grpo, which has train.clip_range",
		    path);
	m->of = nft ? IMPORT_NFT : IMPORT_GRPO;
	return 0;
}

/* ---- What becomes of it ---------------------------------------------------------------------- */

void import_set(struct import *m, const char *ours, const char *yaml)
{
	char *set = mem_printf("%s=%s", ours, yaml);

	if (!m->failed && conf_set(m->out, set, m->e))
		m->failed = -1;
	free(set);
}

void import_set_text(struct import *m, const char *ours, const char *text)
{
	struct text t = { 0 };

	text_add(&t, "'");
	for (const char *p = text; *p; p++)
		text_add_bytes(&t, *p == '\'' ? "''" : p, *p == '\'' ? 2 : 1);
	text_add(&t, "'");
	import_set(m, ours, t.s);
	text_free(&t);
}

void import_comment(struct import *m, const char *key, const char *value, const char *why)
{
	char *line = mem_printf("%s: %s (%s)", key, value, why);

	for (char *p = line; *p; p++) /* a line break in a value would end the comment */
		if ((unsigned char)*p < ' ')
			*p = ' ';
	text_printf(&m->comments, "# %s\n", line);
	free(line);
}

void import_warn(struct import *m, const char *key, const char *value, const char *why)
{
	log_warn("%s: %s: %s", key, value, why);
	import_comment(m, key, value, why);
}

/* Plain words and numbers are taken as they are, everything else is quoted. */
static void copy(struct import *m, const struct import_key *k, const char *value)
{
	bool plain = *value && strspn(value, "0123456789.+-eE_abcdfghijklmnopqrstuvwxyz") == strlen(value);
	char *ours = mem_str(k->ours), *at;

	for (char *key = strtok_r(ours, " ", &at); key; key = strtok_r(NULL, " ", &at)) {
		if (plain)
			import_set(m, key, value);
		else
			import_set_text(m, key, value);
	}
	free(ours);
}

static void translate(struct import *m)
{
	for (const struct import_fixed *f = import_fixed; f->ours; f++)
		if (f->of & m->of)
			import_set(m, f->ours, f->value);
	for (const struct import_key *k = import_keys; k->theirs; k++)
		for (int i = 0; (k->of & m->of) && i < m->n; i++) {
			struct import_value *v = &m->v[i];
			size_t len = strlen(k->theirs);

			/* "reward_fn.*" is every key below, a list is its elements */
			if (text_ends(k->theirs, "*")
				? strncmp(v->key, k->theirs, len - 1) != 0
				: strncmp(v->key, k->theirs, len) != 0 || (v->key[len] && v->key[len] != '['))
				continue;
			v->known = true;
			if (k->put)
				k->put(m, k, v->value);
			else if (k->ours)
				copy(m, k, v->value);
			else
				import_comment(m, v->key, v->value, k->note);
		}
	for (int i = 0; i < m->n; i++)
		if (!m->v[i].known)
			import_warn(m, m->v[i].key, m->v[i].value, "not known here, and not translated");
	if (!m->failed)
		import_sizes(m);
}

/* ---- Published settings by name --------------------------------------------------------------- */

static int published(struct text *out, const char *name, struct err *e)
{
	const char *colon = strrchr(name, ':'), *function = colon ? colon + 1 : name;
	struct text names = { 0 };
	int ret = 0;

	for (const struct import_published *p = import_published; p->file; p++) {
		if (!strcmp(p->theirs, function)) {
			char *path = mem_printf("configs/%s.yaml", p->ours), *here = share_find(path);
			char *absolute = realpath(here ? here : path, NULL);

			text_printf(out, "# What %s:%s publishes.\nextends: %s\n", p->file, p->theirs,
				    absolute ? absolute : path);
			free(path);
			free(here);
			free(absolute);
			text_free(&names);
			return 0;
		}
		text_printf(&names, "%s%s", names.n ? ", " : "", p->theirs);
	}
	ret = err_set(e, "'%s' is neither a file nor the name of a published setting: %s", name, names.s);
	text_free(&names);
	return ret;
}

/* The sections in the order in which configs/ has them, whatever order the table has. */
static void emit(struct text *out, const struct conf_node *tree)
{
	static const char *const order[] = { "model",   "run",       "lora",  "prompts",    "rewards",
					     "rollout", "advantage", "train", "optimizer",  "policy",
					     "nft",     "flow_grpo", "eval",  "checkpoint", NULL };

	for (int i = 0; order[i]; i++) {
		struct conf_node *section = conf_copy(tree, order[i]), *alone = conf_empty();

		if (section) {
			conf_put(alone, order[i], section);
			conf_emit(out, alone);
		}
		conf_node_free(alone);
	}
}

/* That it is a configuration is for the readers of configurations to say. */
static int validate(const struct text *t, const char *from, struct err *e)
{
	struct experiment x;

	if (experiment_read_text(&x, t->s, t->n, "as translated", NULL, 0, e))
		return err_in(e, "%s", from);
	int ret = mixture_resolve(x.tree, NULL, e);
	if (ret)
		err_in(e, "%s, as translated", from);
	experiment_release(&x);
	return ret;
}

int import_config(struct text *out, const char *from, int64_t gpus, struct err *e)
{
	struct import m = { .gpus = gpus, .e = e };
	struct text yaml = { 0 };
	int ret = -1;

	if (!file_exists(from))
		return published(out, from, e);
	m.out = conf_empty();
	if (!read_dump(&m, from, e) && !whose(&m, from, e)) {
		translate(&m);
		ret = m.failed;
	}
	if (!ret) {
		emit(&yaml, m.out);
		ret = validate(&yaml, from, e);
	}
	if (!ret) {
		text_printf(out, "# Translated from a configuration of %s by `contraflow config import`.\n",
			    m.of == IMPORT_NFT ? "DiffusionNFT" : "flow_grpo");
		if (m.comments.n)
			text_printf(out, "# Of its keys these have no counterpart, or not quite:\n%s",
				    m.comments.s);
		text_add(out, yaml.s);
	}
	for (int i = 0; i < m.n; i++) {
		free(m.v[i].key);
		free(m.v[i].value);
	}
	free(m.v);
	text_free(&m.comments);
	text_free(&yaml);
	conf_node_free(m.out);
	return ret;
}

/* ---- The tables of docs/migrating.md ---------------------------------------------------------- */

static void code_of(struct text *out, const char *keys)
{
	char *copied = mem_str(keys), *at;
	bool first = true;

	for (char *key = strtok_r(copied, " ", &at); key; key = strtok_r(NULL, " ", &at), first = false)
		text_printf(out, "%s`%s`", first ? "" : ", ", key);
	free(copied);
}

void import_docs(struct text *out)
{
	static const char *const whom[] = { "", "DiffusionNFT", "flow_grpo", "both" };

	text_add(out, "### Keys\n\n| theirs | of | here | how, or why not |\n| --- | --- | --- | --- |\n");
	for (const struct import_key *k = import_keys; k->theirs; k++) {
		text_printf(out, "| `%s` | %s | ", k->theirs, whom[k->of]);
		if (k->ours)
			code_of(out, k->ours);
		text_printf(out, " | %s |\n", k->note ? k->note : "");
	}
	text_add(out,
		 "\n### Rewards of `reward_fn`\n\n| theirs | here, beside `weight` | |\n| --- | --- | --- "
		 "|\n");
	for (const struct import_reward *r = import_rewards; r->theirs; r++)
		text_printf(out, "| `%s` | `%s` | %s |\n", r->theirs, r->ours, r->note ? r->note : "");
	text_add(out, "\n### What is fixed in their code\n\n| of | here | |\n| --- | --- | --- |\n");
	for (const struct import_fixed *f = import_fixed; f->ours; f++)
		text_printf(out, "| %s | `%s: %s` | %s |\n", whom[f->of], f->ours, f->value,
			    f->note ? f->note : "");
	text_add(out, "\n### Published settings by name\n\n| theirs | here |\n| --- | --- |\n");
	for (const struct import_published *p = import_published; p->file; p++)
		text_printf(out, "| `%s:%s` | [`%s`](../configs/%s.yaml) |\n", p->file, p->theirs, p->ours,
			    p->ours);
}
