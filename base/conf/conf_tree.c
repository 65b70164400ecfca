/* conf_tree.c -- the tree behind struct conf_node: made, found, merged. */
#include "base/conf/conf_tree.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

struct conf_node *node_new(enum node_kind kind, const char *key, const char *where)
{
	struct conf_node *n = mem_zero(1, sizeof *n);
	n->kind = kind;
	n->key = mem_str(key);
	n->where = mem_str(where);
	return n;
}

void conf_node_free(struct conf_node *n)
{
	if (!n)
		return;
	for (int i = 0; i < n->n; i++)
		conf_node_free(n->child[i]);
	free(n->child);
	free(n->key);
	free(n->value);
	free(n->where);
	free(n);
}

static struct conf_node *copy(const struct conf_node *n)
{
	struct conf_node *out = node_new(n->kind, n->key, n->where);

	out->value = mem_str(n->value);
	out->quoted = n->quoted;
	out->unset = n->unset;
	out->layer = n->layer;
	for (int i = 0; i < n->n; i++)
		node_add(out, copy(n->child[i]));
	return out;
}

struct conf_node *conf_copy(const struct conf_node *root, const char *section)
{
	const struct conf_node *n = node_at(root, section);

	return n ? copy(n) : NULL;
}

struct conf_node *node_child(const struct conf_node *map, const char *key, size_t len)
{
	for (int i = 0; i < map->n; i++)
		if (map->child[i]->key && strlen(map->child[i]->key) == len &&
		    !strncmp(map->child[i]->key, key, len))
			return map->child[i];
	return NULL;
}

struct conf_node *node_at(const struct conf_node *root, const char *path)
{
	const struct conf_node *n = root;

	while (n && *path) {
		size_t len = strcspn(path, ".");
		n = n->kind == NODE_MAP ? node_child(n, path, len) : NULL;
		path += len + (path[len] == '.');
	}
	return (struct conf_node *)(uintptr_t)n;
}

void node_raise(struct conf_node *n, int by)
{
	n->layer += by;
	for (int i = 0; i < n->n; i++)
		node_raise(n->child[i], by);
}

void node_add(struct conf_node *parent, struct conf_node *child)
{
	MEM_PUSH(parent->child, parent->n, parent->cap) = child;
}

static void node_remove(struct conf_node *map, int i)
{
	conf_node_free(map->child[i]);
	memmove(map->child + i, map->child + i + 1, (size_t)(map->n - i - 1) * sizeof *map->child);
	map->n--;
}

void node_drop_unset(struct conf_node *n)
{
	for (int i = n->n - 1; i >= 0; i--) {
		if (n->child[i]->unset)
			node_remove(n, i);
		else
			node_drop_unset(n->child[i]);
	}
}

void node_merge(struct conf_node *map, struct conf_node *child)
{
	for (int i = 0; i < map->n; i++) {
		struct conf_node *old = map->child[i];
		if (strcmp(old->key, child->key))
			continue;
		if (child->unset) {
			node_remove(map, i);
			conf_node_free(child);
			return;
		}
		if (old->kind != NODE_MAP || child->kind != NODE_MAP) {
			map->child[i] = child;
			conf_node_free(old);
			return;
		}
		for (int k = 0; k < child->n; k++)
			node_merge(old, child->child[k]);
		child->n = 0;
		free(old->where);
		old->where = mem_str(child->where);
		conf_node_free(child);
		return;
	}
	if (child->unset)
		conf_node_free(child);
	else
		node_add(map, child);
}
