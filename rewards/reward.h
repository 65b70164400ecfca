/*
 * reward.h -- what a reward is.  Adding one: a file here, a line in rewards/registry.c.
 *
 * A reward gets images with their prompts and metadata and gives each a score and optional named
 * sub-scores, or says why it cannot: an unavailable score is never a number.  Plain C without libtorch types;
 * rewards/judges/plugin.h is the smaller interface of shared libraries.
 */
#ifndef REWARD_H
#define REWARD_H
#include "base/conf/conf.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

#define REWARD_ABI  2
#define REWARD_SUBS 4
#define REWARD_WHY  160
/* A score beyond this is a mistake, and its squares and sums would soon be no numbers: it is unavailable. */
#define REWARD_MOST 1e30

struct reward_item {
	const uint8_t *rgb; /* h x w x 3, rows from the top */
	int w, h;
	const char *prompt;
	const char *meta; /* JSON object as text */
	int set;          /* of `prompts.sets`, which prompt this is: the mixture asks that set's rewards */
};
struct reward_score {
	double value;
	bool ok;                 /* false: unavailable, `why` says why */
	char why[REWARD_WHY];    /* with a score: what there is to say of it, or "" */
	double sub[REWARD_SUBS]; /* in the order of sub_names; NAN when an image has none */
};

/* Whether a score is a number that can be learned from; if not, into `why` "WHOSE score ...". */
bool reward_sane(double value, const char *whose, char why[REWARD_WHY]);
/* How a reward fills what its caller gets: n scores without sub-scores (those that a reward has it sets
 * afterwards); one that is not sane is unavailable. */
void reward_put(struct reward_score *out, int n, const double *value, const char *whose);
/* All n are unavailable. */
void reward_fail(struct reward_score *out, int n, const char *why);

enum reward_flags {
	REWARD_THREAD_SAFE = 1, /* score() may run in several threads at once */
	/* score() waits for somebody else, a server or a child: it has a thread of its own, so that what is
	 * scored here does not queue up behind it.  One call at a time, thread-safe or not. */
	REWARD_WAITS = 2,
	/* score() gets all images of one prompt's group, in the order of their samples, and nothing else:
	 * what ranks them or compares them with each other.  A reward whose fields have a boolean `group`
	 * gets groups where that is true, whatever the flag says. */
	REWARD_GROUP = 4,
};

struct reward_type {
	int abi; /* REWARD_ABI */
	const char *name, *doc;
	const char *sub_names[REWARD_SUBS];
	unsigned flags;
	const struct field *fields; /* its own keys, parsed into conf_size bytes; NULL: none */
	size_t conf_size;
	/* Each returns 0, or -1 with e set.  *state is NULL until open succeeds; conf lives as long as the
	 * state.  `open` finds every mistake that can be found without much time or memory, and what it makes
	 * is enough for `check`: the rewards of a stage that is far off are opened, asked and closed. */
	int (*open)(void **state, const void *conf, struct err *e);
	/* What only scoring needs: weights, a GPU, a process.  Once, before the first score(); NULL: nothing.
	 */
	int (*load)(void *state, struct err *e);
	/* Can this prompt be scored at all?  Asked once for each prompt at start; NULL: always. */
	int (*check)(void *state, const char *prompt, const char *meta, struct err *e);
	int (*score)(void *state, const struct reward_item *item, int n, struct reward_score *out,
		     struct err *e);
	void (*close)(void *state); /* loaded or not; NULL is fine */
	/* Does this one, which is open, want whole groups, though neither flag nor field says so?  NULL: no.
	 */
	bool (*group)(const void *state);
	/* How often its process had to be started again; asked in any thread.  NULL: it has none. */
	int64_t (*restarts)(const void *state);
};

extern const struct reward_type *const reward_types[]; /* NULL-terminated */
const struct reward_type *reward_find(const char *name,
				      struct err *e); /* unknown: error with the nearest and the list */

#endif
