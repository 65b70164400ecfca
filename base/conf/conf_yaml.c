/* conf_yaml.c -- YAML text <-> the tree: libyaml's events in, block style out; extends and --set. */
#include "base/conf/conf_tree.h"
#include "base/machine/share.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define EXTENDS_MAX 16

/* ---- Parsing --------------------------------------------------------------------------------- */

struct reader {
	yaml_parser_t parser;
	const char *name; /* of the file, or the whole place */
	bool line;
	struct err *e;
};

static int next(struct reader *r, yaml_event_t *ev)
{
	if (yaml_parser_parse(&r->parser, ev))
		return 0;
	const char *problem = r->parser.problem ? r->parser.problem : "unreadable";
	if (!r->line)
		return err_set(r->e, "%s: not valid YAML: %s", r->name, problem);
	return err_set(r->e, "%s:%zu: not valid YAML: %s", r->name, r->parser.problem_mark.line + 1, problem);
}

static char *place(const struct reader *r, const yaml_event_t *ev)
{
	return r->line ? mem_printf("%s:%zu", r->name, ev->start_mark.line + 1) : mem_str(r->name);
}

/* libyaml lets "\0" through, and a C string would end there unnoticed. */
static bool has_nul(const yaml_event_t *ev)
{
	return strlen((const char *)ev->data.scalar.value) != ev->data.scalar.length;
}

/* A key with a dot would pass for a dotted path and yet never be found by one. */
static char *read_key(const struct reader *r, const yaml_event_t *ev, const char *where)
{
	const char *key = (const char *)ev->data.scalar.value;

	if (ev->type != YAML_SCALAR_EVENT || has_nul(ev)) {
		err_set(r->e, "%s: a key must be a plain word", where);
		return NULL;
	}
	if (strchr(key, '.')) {
		err_set(r->e, "%s: key '%s' has a dot; write '%.*s:' and the rest indented below it", where,
			key, (int)strcspn(key, "."), key);
		return NULL;
	}
	return mem_str(key);
}

static struct conf_node *read_node(struct reader *r, yaml_event_t *ev, const char *key, int depth);

static int read_map(struct reader *r, struct conf_node *map, int depth)
{
	yaml_event_t ev;

	for (;;) {
		if (next(r, &ev))
			return -1;
		if (ev.type == YAML_MAPPING_END_EVENT) {
			yaml_event_delete(&ev);
			return 0;
		}
		char *where = place(r, &ev), *key = read_key(r, &ev, where);
		int ret = key ? 0 : -1;
		yaml_event_delete(&ev);
		if (!ret && node_child(map, key, strlen(key)))
			ret = err_set(r->e, "%s: key '%s' is given twice", where, key);
		if (!ret)
			ret = next(r, &ev);
		struct conf_node *child = ret ? NULL : read_node(r, &ev, key, depth);
		if (child) { /* a key's own line says more than its value's */
			free(child->where);
			child->where = mem_str(where);
			node_add(map, child);
		}
		free(where);
		free(key);
		if (!child)
			return -1;
	}
}

static int read_list(struct reader *r, struct conf_node *list, int depth)
{
	yaml_event_t ev;

	for (;;) {
		if (next(r, &ev))
			return -1;
		if (ev.type == YAML_SEQUENCE_END_EVENT) {
			yaml_event_delete(&ev);
			return 0;
		}
		struct conf_node *child = read_node(r, &ev, NULL, depth);
		if (!child)
			return -1;
		if (child->unset) {
			int ret =
			    err_set(r->e, "%s: null in a list: quote it if the word is meant", child->where);
			conf_node_free(child);
			return ret;
		}
		node_add(list, child);
	}
}

/* YAML's own words for nothing; an empty value stays an empty text. */
static bool is_null(const char *s)
{
	return !strcmp(s, "null") || !strcmp(s, "Null") || !strcmp(s, "NULL") || !strcmp(s, "~");
}

/* The node that begins with ev, which is consumed. */
static struct conf_node *read_node(struct reader *r, yaml_event_t *ev, const char *key, int depth)
{
	char *where = place(r, ev);
	struct conf_node *n = NULL;
	int ret = 0;

	if (depth > 16) {
		ret = err_set(r->e, "%s: nested too deeply", where);
	} else if (ev->type == YAML_SCALAR_EVENT && has_nul(ev)) {
		ret = err_set(r->e, "%s: a value with a NUL character", where);
	} else if (ev->type == YAML_SCALAR_EVENT) {
		n = node_new(NODE_SCALAR, key, where);
		n->value = mem_str((const char *)ev->data.scalar.value);
		n->quoted = ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
		n->unset = !n->quoted && is_null(n->value);
	} else if (ev->type == YAML_MAPPING_START_EVENT) {
		n = node_new(NODE_MAP, key, where);
		ret = read_map(r, n, depth + 1);
	} else if (ev->type == YAML_SEQUENCE_START_EVENT) {
		n = node_new(NODE_LIST, key, where);
		ret = read_list(r, n, depth + 1);
	} else {
		ret = err_set(r->e, "%s: anchors and aliases are not supported here; write the value out",
			      where);
	}
	yaml_event_delete(ev);
	free(where);
	if (ret) {
		conf_node_free(n);
		return NULL;
	}
	return n;
}

struct conf_node *node_parse(const char *text, size_t n, const char *where, bool line, struct err *e)
{
	struct reader r = { .name = where, .line = line, .e = e };
	struct conf_node *root = NULL;
	yaml_event_t ev;
	int ret = 0;

	if (!yaml_parser_initialize(&r.parser))
		die("libyaml cannot start");
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
	while (!ret) {
		ret = next(&r, &ev);
		if (ret)
			break;
		if (ev.type == YAML_STREAM_START_EVENT || ev.type == YAML_DOCUMENT_START_EVENT ||
		    ev.type == YAML_DOCUMENT_END_EVENT) {
			yaml_event_delete(&ev);
		} else if (ev.type == YAML_STREAM_END_EVENT) {
			yaml_event_delete(&ev);
			break;
		} else if (root) {
			yaml_event_delete(&ev);
			ret = err_set(e, "%s: more than one YAML document", where);
		} else {
			root = read_node(&r, &ev, NULL, 0);
			ret = root ? 0 : -1;
		}
	}
	yaml_parser_delete(&r.parser);
	if (ret) {
		conf_node_free(root);
		return NULL;
	}
	return root ? root : node_new(NODE_MAP, NULL, where);
}

/* ---- Files and assignments ------------------------------------------------------------------- */

static struct conf_node *read_file(const char *path, int depth, struct err *e);

/* The children of `over` over those of base; frees over. */
static void merge_all(struct conf_node *base, struct conf_node *over)
{
	for (int i = 0; i < over->n; i++)
		node_merge(base, over->child[i]);
	over->n = 0;
	conf_node_free(over);
}

/* What `extends` of the file `path` names: one file, or several, each over those before it. */
static struct conf_node *read_bases(const struct conf_node *ext, const char *path, int depth, struct err *e)
{
	const struct conf_node *const one[] = { ext };
	const struct conf_node *const *name = ext->kind == NODE_LIST ? (const void *)ext->child : one;
	int n = ext->kind == NODE_LIST ? ext->n : 1;
	struct conf_node *base = NULL;
	char *dir = file_dir(path);

	bool files = ext->kind != NODE_MAP && n > 0;
	for (int i = 0; i < n && files; i++)
		files = name[i]->kind == NODE_SCALAR;
	if (!files)
		err_set(e, "%s: 'extends' names a file, or several in a list", ext->where);
	for (int i = 0; i < n && files; i++) {
		char *other = file_join(dir, name[i]->value);
		struct conf_node *next = read_file(other, depth + 1, e);

		free(other);
		if (!next) {
			if (depth < EXTENDS_MAX && strstr(e->msg, "circle") == NULL)
				err_in(e, "%s: extends", name[i]->where);
			conf_node_free(base);
			base = NULL;
			break;
		}
		if (base)
			merge_all(base, next);
		else
			base = next;
	}
	free(dir);
	return base;
}

static struct conf_node *read_file(const char *path, int depth, struct err *e)
{
	struct conf_node *root, *ext;
	char *text;
	size_t n;

	if (depth > EXTENDS_MAX) {
		err_set(e, "%s: 'extends' goes in a circle", path);
		return NULL;
	}
	if (file_read(&text, &n, path, e))
		return NULL;
	root = node_parse(text, n, path, true, e);
	free(text);
	if (!root)
		return NULL;
	node_raise(root, EXTENDS_MAX - depth);
	if (root->kind != NODE_MAP) {
		err_set(e, "%s: a configuration is a mapping of keys to values", root->where);
		conf_node_free(root);
		return NULL;
	}
	if (!(ext = node_child(root, "extends", 7)))
		return root;
	struct conf_node *base = read_bases(ext, path, depth, e);
	for (int i = 0; base && i < root->n; i++) {
		if (root->child[i] == ext)
			conf_node_free(ext);
		else
			node_merge(base, root->child[i]);
	}
	if (base) {
		base->layer = root->layer;
		root->n = 0;
	}
	conf_node_free(root);
	return base;
}

struct conf_node *conf_read(const char *path, struct err *e)
{
	char *shared = share_find(path);
	struct conf_node *root = read_file(shared ? shared : path, 0, e);

	free(shared);
	if (root)
		node_drop_unset(root);
	return root;
}

struct conf_node *conf_parse(const char *text, size_t n, const char *path, struct err *e)
{
	struct conf_node *root = node_parse(text, n, path, true, e);

	if (root && root->kind != NODE_MAP)
		err_set(e, "%s: a configuration is a mapping of keys to values", root->where);
	else if (root && node_child(root, "extends", 7))
		err_set(e, "%s: 'extends' in a configuration that stands alone", root->where);
	else
		return root;
	conf_node_free(root);
	return NULL;
}

struct conf_node *conf_empty(void)
{
	return node_new(NODE_MAP, NULL, "");
}

int conf_set(struct conf_node *root, const char *assignment, struct err *e)
{
	const char *eq = strchr(assignment, '=');

	if (!eq || eq == assignment)
		return err_set(e, "--set %s: write KEY=VALUE", assignment);
	char *key = mem_printf("%.*s", (int)(eq - assignment), assignment),
	     *where = mem_printf("--set %s", assignment);
	struct conf_node *value, *at = root;
	int ret = 0;
	if (eq[1]) {
		value = node_parse(eq + 1, strlen(eq + 1), where, false, e);
		ret = value ? 0 : -1;
	} else {
		value = node_new(NODE_SCALAR, NULL, where);
		value->value = mem_str("");
		value->quoted = true;
	}
	if (value)
		node_raise(value, ++root->layer);
	for (char *p = key; value && !ret;) {
		char *dot = strchr(p, '.');
		if (dot)
			*dot = '\0';
		if (!*p) {
			ret = err_set(e, "%s: an empty part in the key", where);
		} else if (!dot) {
			value->key = mem_str(p);
			node_merge(at, value);
			value = NULL;
		} else {
			struct conf_node *inner = node_child(at, p, strlen(p));
			if (!inner) {
				inner = node_new(NODE_MAP, p, where);
				node_add(at, inner);
			}
			if (inner->kind != NODE_MAP)
				ret = err_set(e, "%s: '%s' is a value, not a section", where, p);
			at = inner;
			p = dot + 1;
		}
	}
	if (value)
		ret = -1;
	conf_node_free(value);
	node_drop_unset(root);
	free(key);
	free(where);
	return ret;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* Anything that plain YAML could read as something else is quoted. */
static void emit_scalar(struct text *out, const struct conf_node *n)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";
	const char *s = n->value;

	if (*s && !n->quoted && strspn(s, plain) == strlen(s) && strcmp(s, "-") != 0 && !is_null(s)) {
		text_add(out, s);
		return;
	}
	text_add(out, "\"");
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			text_printf(out, "\\%c", *s);
		else if ((unsigned char)*s < 0x20 || *s == 0x7f)
			text_printf(out, "\\x%02x", (unsigned)(unsigned char)*s);
		else
			text_add_bytes(out, s, 1);
	}
	text_add(out, "\"");
}

static void emit(struct text *out, const struct conf_node *n, int indent)
{
	for (int i = 0; i < n->n; i++) {
		const struct conf_node *c = n->child[i];
		text_printf(out, "%*s%s:", indent, "", c->key);
		if (c->kind == NODE_MAP && c->n) {
			text_add(out, "\n");
			emit(out, c, indent + 2);
		} else if (c->kind == NODE_MAP) {
			text_add(out, " {}\n");
		} else if (c->kind == NODE_LIST) {
			text_add(out, " [");
			for (int k = 0; k < c->n; k++) {
				text_add(out, k ? ", " : "");
				emit_scalar(out, c->child[k]);
			}
			text_add(out, "]\n");
		} else {
			text_add(out, " ");
			emit_scalar(out, c);
			text_add(out, "\n");
		}
	}
}

void conf_emit(struct text *out, const struct conf_node *root)
{
	text_add(out, "");
	emit(out, root, 0);
}

/* ---- Looking at all of it -------------------------------------------------------------------- */

static void each(const struct conf_node *n, const char *key, void (*leaf)(void *, const char *, const char *),
		 void *ctx)
{
	if (n->kind == NODE_SCALAR)
		leaf(ctx, key, n->value);
	for (int i = 0; i < n->n; i++) {
		char *inner = n->kind == NODE_LIST
				  ? mem_printf("%s[%d]", key, i)
				  : mem_printf("%s%s%s", key, *key ? "." : "", n->child[i]->key);
		each(n->child[i], inner, leaf, ctx);
		free(inner);
	}
}

void conf_each(const struct conf_node *root, void (*leaf)(void *ctx, const char *key, const char *value),
	       void *ctx)
{
	each(root, "", leaf, ctx);
}

struct leaves {
	struct leaf {
		char *key, *value;
	} * v;
	int n, cap;
};

static void push(void *ctx, const char *key, const char *value)
{
	struct leaves *l = ctx;

	MEM_PUSH(l->v, l->n, l->cap) = (struct leaf) { mem_str(key), mem_str(value) };
}

static const char *find_leaf(const struct leaves *l, const char *key)
{
	for (int i = 0; i < l->n; i++)
		if (!strcmp(l->v[i].key, key))
			return l->v[i].value;
	return NULL;
}

static void leaves_free(struct leaves *l)
{
	for (int i = 0; i < l->n; i++) {
		free(l->v[i].key);
		free(l->v[i].value);
	}
	free(l->v);
}

int conf_compare(const struct conf_node *a, const struct conf_node *b,
		 void (*differ)(void *ctx, const char *key, const char *in_a, const char *in_b), void *ctx)
{
	struct leaves x = { 0 }, y = { 0 };
	int n = 0;

	conf_each(a, push, &x);
	conf_each(b, push, &y);
	for (int i = 0; i < y.n; i++) {
		const char *old = find_leaf(&x, y.v[i].key);
		if (!old || strcmp(old, y.v[i].value)) {
			differ(ctx, y.v[i].key, old, y.v[i].value);
			n++;
		}
	}
	for (int i = 0; i < x.n; i++)
		if (!find_leaf(&y, x.v[i].key)) {
			differ(ctx, x.v[i].key, x.v[i].value, NULL);
			n++;
		}
	leaves_free(&x);
	leaves_free(&y);
	return n;
}
