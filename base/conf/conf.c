/* conf.c -- tables of fields: filling structs from the tree, storing them back, help and reference pages. */
#include "base/conf/conf_tree.h"
#include "base/log.h"
#include "base/mem.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 512

/* Where a value comes from, for messages: "FILE:LINE: section.key". */
struct value {
	const char *where, *key;
	struct err *e;
};

static int bad(const struct value *v, const char *text, const char *what)
{
	return err_set(v->e, "%s%s%s = '%s': %s", v->where, *v->where ? ": " : "", v->key, text, what);
}

static int out_of_range(const struct value *v, const struct field *f, const char *text)
{
	struct text t = { 0 };

	if (f->min == 0 && f->max == 0)
		return bad(v, text, "too large a number");
	text_add(&t, "must be in [");
	text_real(&t, f->min);
	text_add(&t, ", ");
	text_real(&t, f->max);
	text_add(&t, "]");
	bad(v, text, t.s);
	text_free(&t);
	return -1;
}

static bool outside(const struct field *f, double x)
{
	return (f->min != 0 || f->max != 0) && (x < f->min || x > f->max);
}

static int check_choice(const struct value *v, const struct field *f, const char *text)
{
	struct text t = { 0 };

	for (const char *const *c = f->choices; c && *c; c++)
		if (!strcmp(*c, text))
			return 0;
	if (!f->choices || (f->or_path && strchr(text, '/')))
		return 0;
	const char *near = text_nearest(text, f->choices);
	text_add(&t, "must be one of");
	for (const char *const *c = f->choices; *c; c++)
		text_printf(&t, "%s %s", c == f->choices ? "" : ",", *c);
	if (f->or_path)
		text_add(&t, ", or a path with a slash in it");
	if (near)
		text_printf(&t, "; did you mean '%s'?", near);
	bad(v, text, t.s);
	text_free(&t);
	return -1;
}

static const struct field_word *find_word(const struct field *f, const char *text)
{
	for (const struct field_word *w = f->words; w && w->word; w++)
		if (!strcmp(w->word, text))
			return w;
	return NULL;
}

static int not_a_number(const struct value *v, const struct field *f, const char *text)
{
	struct text t = { 0 };

	text_add(&t, f->type == FIELD_INT ? "not an integer" : "not a number");
	for (const struct field_word *w = f->words; w && w->word; w++)
		text_printf(&t, "%s%s", w == f->words ? ", nor one of " : ", ", w->word);
	bad(v, text, t.s);
	text_free(&t);
	return -1;
}

static int parse_scalar(void *at, const struct field *f, const char *text, const struct value *v)
{
	const struct field_word *word = find_word(f, text);
	char *end;

	if (word) {
		if (f->type == FIELD_REAL)
			*(double *)at = (double)word->value;
		else
			*(int64_t *)at = word->value;
		return 0;
	}

	errno = 0;
	switch (f->type) {
	case FIELD_INT: {
		long long x = strtoll(text, &end, 10);
		if (end == text || *end || strchr(" \t\n+", *text))
			return not_a_number(v, f, text);
		if (errno || outside(f, (double)x))
			return out_of_range(v, f, text);
		*(int64_t *)at = x;
		return 0;
	}
	case FIELD_REAL: {
		double x = strtod(text, &end);
		if (end == text || *end || strpbrk(text, "xXnN \t\n"))
			return not_a_number(v, f, text);
		if ((errno == ERANGE && fabs(x) > 1) || outside(f, x))
			return out_of_range(v, f, text);
		*(double *)at = x;
		return 0;
	}
	case FIELD_BOOL:
		if (strcmp(text, "true") && strcmp(text, "false"))
			return bad(v, text, "must be true or false");
		*(bool *)at = *text == 't';
		return 0;
	case FIELD_TEXT:
		if (check_choice(v, f, text))
			return -1;
		free(*(char **)at);
		*(char **)at = mem_str(text);
		return 0;
	case FIELD_LIST:
		break;
	}
	die("corrupt field table at %s", f->name);
}

static void list_free(struct conf_list *l)
{
	for (int i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	*l = (struct conf_list) { 0 };
}

static int list_push(struct conf_list *l, const struct field *f, const char *text, size_t n,
		     const struct value *v)
{
	char *s = mem_printf("%.*s", (int)n, text);

	if (check_choice(v, f, s)) {
		free(s);
		return -1;
	}
	l->v = mem_grow(l->v, (size_t)l->n + 1, sizeof *l->v);
	l->v[l->n++] = s;
	return 0;
}

/* "a, b,c" */
static int list_from_text(struct conf_list *l, const struct field *f, const char *text, const struct value *v)
{
	list_free(l);
	while (*text) {
		text += strspn(text, " ,");
		size_t n = strcspn(text, " ,");
		if (n && list_push(l, f, text, n, v))
			return -1;
		text += n;
	}
	return 0;
}

static int fill_list(struct conf_list *l, const struct field *f, const struct conf_node *n,
		     const struct value *v)
{
	if (n->kind == NODE_SCALAR && n->quoted && *n->value) { /* quotes keep commas together */
		list_free(l);
		if (list_push(l, f, n->value, strlen(n->value), v))
			return -1;
	} else if (n->kind == NODE_SCALAR) {
		if (list_from_text(l, f, n->value, v))
			return -1;
	} else {
		list_free(l);
		for (int i = 0; i < n->n; i++) {
			if (n->child[i]->kind != NODE_SCALAR)
				return err_set(v->e, "%s: %s is a list of plain values", v->where, v->key);
			if (list_push(l, f, n->child[i]->value, strlen(n->child[i]->value), v))
				return -1;
		}
	}
	if (outside(f, l->n))
		return err_set(v->e, "%s: %s has %d entries; must have %g to %g", v->where, v->key, l->n,
			       f->min, f->max);
	return 0;
}

static int fill_field(void *at, const struct field *f, const struct conf_node *n, const struct value *v)
{
	if (n->kind == NODE_MAP)
		return err_set(v->e, "%s: %s takes a value, but is a section here", v->where, v->key);
	if (f->type == FIELD_LIST)
		return fill_list(at, f, n, v);
	if (n->kind == NODE_LIST)
		return err_set(v->e, "%s: %s takes one value, not a list", v->where, v->key);
	return parse_scalar(at, f, n->value, v);
}

/* ---- Unknown keys ---------------------------------------------------------------------------- */

static bool is_below(const char *name, const char *path)
{
	size_t n = strlen(path);
	return name && !strncmp(name, path, n) && name[n] == '.';
}

static bool names_section(const struct field *f, const char *path)
{
	for (; f->name; f++)
		if (is_below(f->name, path) || is_below(f->was, path))
			return true;
	return false;
}

static bool names_field(const struct field *f, const char *path)
{
	for (; f->name; f++)
		if (!strcmp(f->name, path) || (f->was && !strcmp(f->was, path)))
			return true;
	return false;
}

static const char *last_part(const char *path)
{
	const char *dot = strrchr(path, '.');
	return dot ? dot + 1 : path;
}

/* The name that path most likely means: its last part in another section, a near name, a near last part. */
static const char *meant(const char *path, const char *const *names)
{
	const char *parts[NAMES_MAX], *near;
	int k = 0;

	for (; names[k]; k++) {
		parts[k] = last_part(names[k]);
		if (!strcmp(parts[k], last_part(path)))
			return names[k];
	}
	parts[k] = NULL;
	if ((near = text_nearest(path, names)))
		return near;
	near = text_nearest(last_part(path), parts);
	for (k = 0; near && parts[k] != near; k++)
		;
	return near ? names[k] : NULL;
}

static int unknown_key(const struct field *f, const struct conf_node *n, const char *path,
		       const char *section, const char *const *others, struct err *e)
{
	const char *names[NAMES_MAX], *near;
	const char *dot = *section ? "." : "";
	int k = 0;

	for (const struct field *x = f; x->name && k < NAMES_MAX - 1; x++)
		names[k++] = x->name;
	for (int i = 0; others && others[i] && k < NAMES_MAX - 1; i++)
		names[k++] = others[i];
	names[k] = NULL;
	near = meant(path, names);
	if (near)
		return err_set(e, "%s: unknown key '%s%s%s'; did you mean '%s%s%s'?", n->where, section, dot,
			       path, section, dot, near);
	return err_set(e, "%s: unknown key '%s%s%s'", n->where, section, dot, path);
}

static int check_keys(const struct field *f, const struct conf_node *map, const char *prefix,
		      const char *section, const char *const *others, struct err *e)
{
	for (int i = 0; i < map->n; i++) {
		const struct conf_node *c = map->child[i];
		bool other = false;
		for (int k = 0; !*prefix && others && others[k]; k++)
			other = other || !strcmp(others[k], c->key);
		if (other)
			continue;
		char *path = mem_printf("%s%s%s", prefix, *prefix ? "." : "", c->key);
		int ret = 0;
		if (names_section(f, path) && c->kind == NODE_MAP)
			ret = check_keys(f, c, path, section, others, e);
		else if (names_section(f, path))
			ret = err_set(e, "%s: '%s%s%s' is a section of keys, not a value", c->where, section,
				      *section ? "." : "", path);
		else if (!names_field(f, path))
			ret = unknown_key(f, c, path, section, others, e);
		free(path);
		if (ret)
			return -1;
	}
	return 0;
}

/* ---- Structs --------------------------------------------------------------------------------- */

/* What the mapping says of a field, under its present name or its earlier one, whichever was read last (*n,
 * NULL: nothing), and under which of the two (*name). */
static int find_value(const struct conf_node **n, const char **name, const struct field *f,
		      const struct conf_node *map, const char *section, struct err *e)
{
	const struct conf_node *now = node_at(map, f->name), *was = f->was ? node_at(map, f->was) : NULL;
	bool old = was && !(now && now->layer > was->layer);
	const char *dot = *section ? "." : "";

	*n = old ? was : now;
	*name = old ? f->was : f->name;
	if (was && now && now->layer == was->layer)
		return err_set(e,
			       "%s: %s%s%s is now called %s%s%s, which is given as well (%s): remove the "
			       "old name",
			       was->where, section, dot, f->was, section, dot, f->name, now->where);
	if (was)
		log_warn_once("%s: %s%s%s is now called %s%s%s", was->where, section, dot, f->was, section,
			      dot, f->name);
	return 0;
}

int conf_fill(void *conf, const struct field *f, const struct conf_node *root, const char *section,
	      const char *const *others, struct err *e)
{
	const struct conf_node *map = node_at(root, section);

	if (map && map->kind != NODE_MAP)
		return err_set(e, "%s: '%s' is a section of keys, not a value", map->where, section);
	if (map && check_keys(f, map, "", section, others, e))
		return -1;
	for (const struct field *x = f; x->name; x++) {
		const struct conf_node *n = NULL;
		const char *name = x->name;
		if (map && find_value(&n, &name, x, map, section, e)) {
			conf_release(conf, f);
			return -1;
		}
		char *key = mem_printf("%s%s%s", section, *section ? "." : "", name);
		struct value v = { .where = n ? n->where : "", .key = key, .e = e };
		void *at = (char *)conf + x->offset;
		int ret = 0;
		if (x->type == FIELD_TEXT && x->init)
			*(char **)at = mem_str(x->init);
		if (n)
			ret = fill_field(at, x, n, &v);
		else if (!x->init)
			ret = err_set(e, "%s%s'%s' is required: %s", map ? map->where : root->where,
				      *(map ? map->where : root->where) ? ": " : "", key, x->doc);
		else if (x->type == FIELD_LIST)
			ret = list_from_text(at, x, x->init, &v);
		else if (x->type != FIELD_TEXT)
			ret = parse_scalar(at, x, x->init, &v);
		free(key);
		if (ret) {
			conf_release(conf, f);
			return -1;
		}
	}
	return 0;
}

void conf_release(void *conf, const struct field *f)
{
	for (; f->name; f++) {
		void *at = (char *)conf + f->offset;
		if (f->type == FIELD_TEXT) {
			free(*(char **)at);
			*(char **)at = NULL;
		} else if (f->type == FIELD_LIST) {
			list_free(at);
		}
	}
}

const char **conf_keys(const struct conf_node *root, const char *section, int *n)
{
	const struct conf_node *map = node_at(root, section);
	const char **keys;

	*n = map && map->kind == NODE_MAP ? map->n : 0;
	keys = mem_zero((size_t)*n + 1, sizeof *keys);
	for (int i = 0; i < *n; i++)
		keys[i] = map->child[i]->key;
	return keys;
}

bool conf_is_section(const struct conf_node *root, const char *key)
{
	const struct conf_node *n = node_at(root, key);

	return n && n->kind == NODE_MAP;
}

const char *conf_where(const struct conf_node *root, const char *key)
{
	const struct conf_node *n = node_at(root, key);
	return n ? n->where : "";
}

/* The mapping at a dotted path, made where it is missing. */
static struct conf_node *make_section(struct conf_node *root, const char *path)
{
	while (*path) {
		size_t len = strcspn(path, ".");
		struct conf_node *inner = node_child(root, path, len);
		if (!inner) {
			char *key = mem_printf("%.*s", (int)len, path);
			inner = node_new(NODE_MAP, key, "");
			node_add(root, inner);
			free(key);
		}
		root = inner;
		path += len + (path[len] == '.');
	}
	return root;
}

void conf_remove(struct conf_node *root, const char *key)
{
	int kept = 0;

	for (int i = 0; i < root->n; i++)
		if (!strcmp(root->child[i]->key, key))
			conf_node_free(root->child[i]);
		else
			root->child[kept++] = root->child[i];
	root->n = kept;
}

void conf_overlay(struct conf_node *root, struct conf_node *over)
{
	node_raise(over, root->layer);
	root->layer *= 2;
	for (int i = 0; i < over->n; i++)
		node_merge(root, over->child[i]);
	over->n = 0;
	conf_node_free(over);
}

void conf_put(struct conf_node *root, const char *section, struct conf_node *node)
{
	const char *dot = strrchr(section, '.');
	char *parent = mem_printf("%.*s", dot ? (int)(dot - section) : 0, section);

	free(node->key);
	node->key = mem_str(last_part(section));
	node_merge(make_section(root, parent), node);
	free(parent);
}

static struct conf_node *scalar(const char *key, const char *text, bool quoted)
{
	struct conf_node *n = node_new(NODE_SCALAR, key, "");
	n->value = mem_str(text);
	n->quoted = quoted;
	return n;
}

/* A text that plain YAML would read as a number, a truth value or nothing. */
static bool needs_quotes(const char *s)
{
	static const char *const words[] = {
		"true", "false", "yes", "no", "on", "off", "null", "~", "", NULL
	};
	char *end;

	for (int i = 0; words[i]; i++)
		if (!strcmp(s, words[i]))
			return true;
	strtod(s, &end);
	return end != s && !*end;
}

static void value_text(struct text *t, const void *at, const struct field *f)
{
	for (const struct field_word *w = f->words; w && w->word; w++)
		if (f->type == FIELD_REAL ? (double)w->value == *(const double *)at
					  : w->value == *(const int64_t *)at) {
			text_add(t, w->word);
			return;
		}
	switch (f->type) {
	case FIELD_INT:
		text_printf(t, "%lld", (long long)*(const int64_t *)at);
		break;
	case FIELD_REAL:
		text_real(t, *(const double *)at);
		break;
	case FIELD_BOOL:
		text_add(t, *(const bool *)at ? "true" : "false");
		break;
	default:
		text_add(t, *(char *const *)at ? *(char *const *)at : "");
	}
}

void conf_store(struct conf_node *root, const void *conf, const struct field *f, const char *section)
{
	struct conf_node *top = make_section(root, section);

	for (; f->name; f++) {
		const void *at = (const char *)conf + f->offset;
		const char *dot = strrchr(f->name, '.'), *key = dot ? dot + 1 : f->name;
		char *dir = mem_printf("%.*s", dot ? (int)(dot - f->name) : 0, f->name);
		struct conf_node *in = make_section(top, dir);
		free(dir);
		if (f->type == FIELD_LIST) {
			const struct conf_list *l = at;
			struct conf_node *list = node_new(NODE_LIST, key, "");
			for (int i = 0; i < l->n; i++)
				node_add(list, scalar(NULL, l->v[i], needs_quotes(l->v[i])));
			node_merge(in, list);
			continue;
		}
		struct text t = { 0 };
		value_text(&t, at, f);
		node_merge(in, scalar(key, t.s, f->type == FIELD_TEXT && needs_quotes(t.s)));
		text_free(&t);
	}
}

/* ---- Help and reference ---------------------------------------------------------------------- */

/* What a value may be, with its unit. */
static void range_text(struct text *t, const struct field *f)
{
	if (f->choices) {
		for (const char *const *c = f->choices; *c; c++)
			text_printf(t, "%s%s", c == f->choices ? "" : ", ", *c);
		if (f->or_path)
			text_add(t, ", or a path");
	} else if (f->type == FIELD_BOOL) {
		text_add(t, "true, false");
	} else if (f->min != 0 || f->max != 0) {
		for (const struct field_word *w = f->words; w && w->word; w++)
			text_printf(t, "%s, ", w->word);
		text_real(t, f->min);
		text_add(t, " .. ");
		text_real(t, f->max);
	}
	if (f->unit)
		text_printf(t, "%s%s", t->n ? " " : "", f->unit);
}

void conf_help(struct text *out, const struct field *f, const char *section)
{
	for (; f->name; f++) {
		struct text range = { 0 };
		text_add(&range, "");
		range_text(&range, f);
		text_printf(out, "  %s%s%s\n      %s", section, *section ? "." : "", f->name, f->doc);
		text_printf(out, " (%s%s%s%s%s)\n", f->init ? "default " : "required",
			    f->init && *f->init ? f->init : "", f->init && !*f->init ? "empty" : "",
			    f->was ? "; formerly " : "", f->was ? f->was : "");
		if (range.n)
			text_printf(out, "      %s\n", range.s);
		text_free(&range);
	}
}

void conf_docs(struct text *out, const char *title, const struct field *f, const char *section)
{
	text_printf(out, "## %s\n\n| key | default | range | meaning |\n| --- | --- | --- | --- |\n", title);
	for (; f->name; f++) {
		text_printf(out, "| `%s%s%s` | ", section, *section ? "." : "", f->name);
		if (!f->init)
			text_add(out, "required");
		else if (*f->init)
			text_printf(out, "`%s`", f->init);
		text_add(out, " | ");
		struct text range = { 0 };
		range_text(&range, f);
		text_printf(out, "%s | %s", range.n ? range.s : "", f->doc);
		text_free(&range);
		if (f->was)
			text_printf(out, " (formerly `%s`)", f->was);
		text_add(out, " |\n");
	}
	text_add(out, "\n");
}
