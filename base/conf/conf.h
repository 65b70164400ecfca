/*
 * conf.h -- configuration as data.
 *
 * A module describes its struct once, as an array of fields.  From that array come the defaults, the YAML
 * parser, the --set overrides, range checks, --help, the reference page in docs/ and the resolved copy in
 * each run directory. An unknown key is an error that names the nearest one: a typo must never train with a
 * default.
 *
 * A file is a YAML mapping; `extends: other.yaml` (relative to the file) is read first and overridden key by
 * key.  A plain `null` (or ~) means that the key is not set, here or in what is extended: the default, or of
 * `rewards` one fewer; in quotes it is a word.  Errors are one line: "configs/x.yaml:12: train.lr = 'fast':
 * not a number".
 *
 * A key that was renamed is still read under its earlier name (`was`), wherever a key may stand: a file, one
 * that it extends, a stage, --set. Each such place is warned of once. Whichever name came last counts; both
 * in one file are an error.  Only the present name is written.
 */
#ifndef CONF_H
#define CONF_H
#include "base/err.h"
#include "base/text.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field_type { FIELD_INT, FIELD_REAL, FIELD_BOOL, FIELD_TEXT, FIELD_LIST };

struct conf_list { /* a YAML sequence of scalars; `--set k=[a,b]` or `--set k=a,b` */
	char **v;
	int n;
};

/* A value that has a name: "auto" where a number stands otherwise. */
struct field_word {
	const char *word; /* NULL ends a list */
	int64_t value;    /* bounds do not hold for it */
};

struct field {
	const char *name; /* "train.lr": also the C path of the member */
	const char *was;  /* its name in earlier versions, or NULL: accepted, with a warning */
	enum field_type type;
	size_t offset;
	const char *init;           /* default, as text, parsed like the user's value; NULL: required */
	double min, max;            /* inclusive; both 0: unbounded.  FIELD_LIST: bounds on the count */
	const char *const *choices; /* FIELD_TEXT and FIELD_LIST: NULL-terminated, or NULL for free text */
	bool or_path; /* FIELD_TEXT with choices: what has a slash in it is a path, and taken as well */
	const struct field_word
	    *words;       /* FIELD_INT, FIELD_REAL: what it may say in place of a number, or NULL */
	const char *unit; /* "steps", "s", "MiB", or NULL */
	const char *doc;  /* one sentence, ends without a full stop */
};

/* Name, type and offset come from the member itself, so they cannot disagree with it. */
#define FIELD(S, member, ...)                                                                                  \
	{                                                                                                      \
		.name = #member, .offset = offsetof(S, member),                                              \
		.type = _Generic(((S *)0)->member,                                                           \
				 int64_t: FIELD_INT,                                                         \
				 double: FIELD_REAL,                                                         \
				 bool: FIELD_BOOL,                                                           \
				 char *: FIELD_TEXT,                                                         \
				 struct conf_list: FIELD_LIST),                                              \
		__VA_ARGS__ \
	}
#define FIELD_END                                                                                            \
	{                                                                                                    \
		.name = NULL                                                                                 \
	}

/* A parsed file: a tree of mappings and scalars, each knowing its file and line. */
struct conf_node;
struct conf_node *conf_read(const char *path, struct err *e); /* follows extends; NULL on error */
/* The same from text that has no `extends`, as conf_emit writes it; `path` names it in messages. */
struct conf_node *conf_parse(const char *text, size_t n, const char *path, struct err *e);
struct conf_node *conf_empty(void);
int conf_set(struct conf_node *root, const char *assignment,
	     struct err *e); /* "a.b=c"; makes missing mappings */
void conf_node_free(struct conf_node *root);
/* A copy of what is at `section` ("": of all), or NULL when nothing is. */
struct conf_node *conf_copy(const struct conf_node *root, const char *section);
void conf_remove(struct conf_node *root, const char *key); /* a key of the first level; absent is fine */
/* The keys of the mapping `over`, a copy from the same tree, over those of root, as a file's over those of
 * the one it extends; frees over. */
void conf_overlay(struct conf_node *root, struct conf_node *over);
/* Puts `node` at `section`, whose last part is its key; root owns it. */
void conf_put(struct conf_node *root, const char *section, struct conf_node *node);

/* Fills *conf (zeroed by the caller) from the mapping at `section` ("" for the root; an absent section is all
 * defaults). Keys of the mapping that no field names are errors, except the first-level names in `others`
 * (NULL-terminated, may be NULL), which other tables own.  TEXT and LIST members are allocated: conf_release.
 */
int conf_fill(void *conf, const struct field *f, const struct conf_node *root, const char *section,
	      const char *const *others, struct err *e);
void conf_release(void *conf, const struct field *f);

/* Names of the keys directly under `section`, in file order (count in *n; the strings are the tree's; free
 * the array). */
const char **conf_keys(const struct conf_node *root, const char *section, int *n);
/* Every value by its dotted key, in order; those of a list one by one ("lora.targets[2]"). */
void conf_each(const struct conf_node *root, void (*leaf)(void *ctx, const char *key, const char *value),
	       void *ctx);
/* Keys that have another value in b than in a, or are in one of them alone (NULL); returns their number. */
int conf_compare(const struct conf_node *a, const struct conf_node *b,
		 void (*differ)(void *ctx, const char *key, const char *in_a, const char *in_b), void *ctx);
bool conf_is_section(const struct conf_node *root, const char *key); /* a mapping, not a value or a list */
/* "FILE:LINE" of a key or section for messages made elsewhere; "" when it is not in a file. The tree's. */
const char *conf_where(const struct conf_node *root, const char *key);

/* The resolved configuration: each table stores its struct into a fresh tree, then the tree is written as
 * YAML that conf_read reads back to the same values. */
void conf_store(struct conf_node *root, const void *conf, const struct field *f, const char *section);
void conf_emit(struct text *out, const struct conf_node *root);
void conf_help(struct text *out, const struct field *f, const char *section); /* for a terminal */
void conf_docs(struct text *out, const char *title, const struct field *f,
	       const char *section); /* a Markdown table */

#endif
