/*
 * prompts.h -- prompt files and which prompts an epoch uses.
 *
 * Lines end as in Python's text mode: at \n, \r\n or \r, and nowhere else (U+2028 is a part of a prompt).
 * .txt: one prompt a line, without white space around it (blank lines skipped).  .jsonl: one object a line
 * with `prompt` and anything else as metadata (GenEval's metadata.jsonl unchanged).  A prompt is named by its
 * index in the file, so two equal texts stay two prompts.
 */
#ifndef PROMPTS_H
#define PROMPTS_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct prompt {
	char *text;
	char *meta; /* the line's JSON object as compact text; "{}" for .txt */
	char *tag;  /* meta's "tag", or "" */
};
/* Some of the prompts: a file of its own, whose images are scored by rewards of its own. */
struct prompt_set {
	char *name, *path;
	double weight; /* its share of the prompts that are trained, among those of all sets */
	bool by_tag;   /* as prompts_draw's */
	int64_t begin, n;
};
#define PROMPT_SETS 64 /* at most */
struct prompts {
	int64_t n;
	struct prompt *v;
	char *path;             /* of several: all of them, for messages */
	struct prompt_set *set; /* one behind the other; NULL: a file that stands alone */
	int sets;
};
int prompts_read(struct prompts *p, const char *path,
		 struct err *e); /* an empty file is an error, as is a line without `prompt` */
/* The prompts of file `add`, which is emptied, go behind those of p ({ 0 } at first), as a set; none ({ 0 })
 * make a set without prompts. */
void prompts_add_set(struct prompts *p, const char *name, double weight, bool by_tag, struct prompts *add);
/* The set of prompt i; 0 where there are none. */
int prompts_set_of(const struct prompts *p, int64_t i);
/* "FILE: prompt 3 ('...')" for messages, counted from 1 in the prompt's own file; free() */
char *prompts_where(const struct prompts *p, int64_t i);
void prompts_copy(struct prompts *p, const struct prompts *from);
void prompts_free(struct prompts *p);
/* How many of the distinct texts of `held` stand in `trained` too; *first is the first of them in held, or
 * NULL. */
int64_t prompts_seen(const struct prompts *held, const struct prompts *trained, const char **first);
/* A warning of rank 0, once, when there are any: their scores say nothing about prompts that are new. */
void prompts_warn_seen(const struct prompts *held, const struct prompts *trained);

/*
 * The prompts of one epoch: `groups` indices into p, drawn without replacement from a fresh permutation keyed
 * by (seed, epoch); more groups than prompts go on with a second permutation, and so on.  With `by_tag`, the
 * tags take turns (in order of first appearance, rotated by epoch) and each tag draws from its own
 * permutation, so that rare tags are trained as often as common ones.
 */
void prompts_draw(const struct prompts *p, uint64_t seed, int64_t epoch, int64_t groups, bool by_tag,
		  int64_t *out);

/*
 * The same where there are sets: each of the groups goes to the set that is furthest behind its share of all
 * (the largest remainder; of equal ones the first), and within a set by its own permutation.  dealt[k]:
 * groups that set k got in the epochs before.  So shares are exact over time, whatever an epoch's size, the
 * sets take turns, and a set of weight 0 gets nothing.  Without sets: prompts_draw by `by_tag`.
 */
void prompts_draw_sets(const struct prompts *p, uint64_t seed, int64_t epoch, int64_t groups, bool by_tag,
		       const int64_t *dealt, int64_t *out);

/* The contiguous share [*begin, *end) of n global samples that rank `rank` of `ranks` works on; sizes differ
 * by at most one. */
void prompts_share(int64_t n, int rank, int ranks, int64_t *begin, int64_t *end);

/*
 * n units, samples or groups, dealt to the `parts` gradient steps of an epoch: part[i] in [0, parts) of
 * unit i.  Of every `parts` consecutive units each goes to another part, so that parts differ by at most
 * one, and so do all shares of all parts, whichever prompts_share of whichever number of ranks: no rank waits
 * for another's longer step.  Which goes where is drawn, keyed by (seed, epoch): once for all blocks, or,
 * `anew`, for each block, where neighbours are not alike (groups whose tags take turns); shares then differ
 * by at most three.
 */
void prompts_deal(int64_t n, int64_t parts, bool anew, uint64_t seed, int64_t epoch, int64_t *part);

#endif
