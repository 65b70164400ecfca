/* conf_tree.h -- the parsed tree behind struct conf_node; private to base/conf*.c. */
#ifndef CONF_TREE_H
#define CONF_TREE_H
#include "base/conf/conf.h"

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };

struct conf_node {
	enum node_kind kind;
	char *key;   /* in a mapping; NULL elsewhere */
	char *value; /* NODE_SCALAR */
	bool quoted; /* the scalar was written in quotes: a text, whatever it looks like */
	bool unset;  /* a plain null or ~: the key is not set, and takes what other files say of it away */
	char *where; /* "FILE:LINE", or "--set ..." */
	int layer;   /* what was read later, and so overrides, has a larger one; a root has the largest */
	struct conf_node **child;
	int n, cap;
};

struct conf_node *node_new(enum node_kind kind, const char *key, const char *where);
struct conf_node *node_child(const struct conf_node *map, const char *key, size_t key_len);
/* The node a dotted path names, or NULL; "" is the root. */
struct conf_node *node_at(const struct conf_node *root, const char *path);
void node_raise(struct conf_node *n, int by); /* to later layers, with all below */
void node_add(struct conf_node *parent, struct conf_node *child);
/* Puts child under its key in the mapping, replacing scalars and lists and merging mappings; what is unset
 * takes the key out.  Owns child afterwards. */
void node_merge(struct conf_node *map, struct conf_node *child);
/* Takes out, at any depth, the keys that are set to null: once nothing is merged over them any more. */
void node_drop_unset(struct conf_node *n);
/* One YAML document from text; `where` is the file's name, or the whole place when `line` is false. */
struct conf_node *node_parse(const char *text, size_t n, const char *where, bool line, struct err *e);

#endif
