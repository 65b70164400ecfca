/*
 * import.h -- configurations of DiffusionNFT's and flow_grpo's trainers, translated.
 *
 * Theirs are Python functions, which nobody runs here: what is read is the resolved configuration that those
 * programs log or can be made to write, as YAML or JSON (`config.to_json_best_effort()`, `config.to_yaml()`,
 * `str(config)`, wandb's config.yaml).  One table of keys (import_keys.c) makes the translation and
 * docs/migrating.md.
 */
#ifndef IMPORT_H
#define IMPORT_H
#include "base/err.h"
#include "base/text.h"
#include "trainer/experiment.h"
#include <stdint.h>

/* Whose key it is. */
enum import_trainer { IMPORT_NFT = 1, IMPORT_GRPO = 2, IMPORT_BOTH = 3 };

/* One key of the file, flattened: "sample.num_steps", "sample.sde_window_range[0]". */
struct import_value {
	char *key, *value;
	bool known;
};
struct import {
	enum import_trainer of;
	int64_t gpus; /* OPTION_UNSET: not given */
	struct import_value *v;
	int n, cap;
	struct conf_node *out;
	struct text comments; /* lines that begin with "# " */
	struct err *e;
	int failed; /* -1: e says why */
};

struct import_key {
	const char *theirs;
	int of;           /* enum import_trainer */
	const char *ours; /* what it becomes, keys separated by blanks; NULL: nothing */
	/* Translates `value`; NULL: it is copied to each of `ours`, or becomes a comment with `note`. */
	void (*put)(struct import *m, const struct import_key *k, const char *value);
	const char *note; /* how, or why not */
};
struct import_reward {
	const char *theirs, *ours; /* `ours`: its entry but the weight, in YAML's flow style */
	const char *note;
};
/* What is fixed in their code and so in no dump. */
struct import_fixed {
	int of;
	const char *ours, *value, *note;
};
struct import_published {
	const char *file, *theirs, *ours;
};
extern const struct import_key import_keys[];            /* theirs NULL ends it */
extern const struct import_reward import_rewards[];      /* likewise */
extern const struct import_fixed import_fixed[];         /* ours NULL ends it */
extern const struct import_published import_published[]; /* file NULL ends it */

/* For import_keys.c: a value of the file, or NULL; a key of ours, as YAML or as text; a comment; and a
 * comment that is also a warning, for what changes the result. */
const char *import_value(const struct import *m, const char *key);
double import_number(const struct import *m, const char *key, double absent);
void import_set(struct import *m, const char *ours, const char *yaml);
void import_set_text(struct import *m, const char *ours, const char *text);
void import_comment(struct import *m, const char *key, const char *value, const char *why);
void import_warn(struct import *m, const char *key, const char *value, const char *why);
/* What several keys give together: sizes of an epoch, and their steps. */
void import_sizes(struct import *m);
/* Optimizer steps of an epoch of theirs. */
int64_t import_steps(const struct import *m);

/* The translation of `from`, a file or the name of a published setting ("sd3_geneval",
 * "config/nft.py:sd3_geneval"), as YAML that is a valid configuration.  What has no counterpart and what is
 * not known is warned of. */
int import_config(struct text *out, const char *from, int64_t gpus, struct err *e);
void import_docs(struct text *out); /* the tables of docs/migrating.md */

#endif
