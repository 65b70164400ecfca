/*
 * mixture.h -- the rewards of an experiment: R = sum of weight * score, scored while the next batch is
 * sampled.
 *
 * Pictures are handed over batch by batch; worker threads score them in the order they came; mixture_wait
 * joins. Fewer than all scores of a sample -> the sample is unavailable (r = NAN) and counted.
 */
#ifndef MIXTURE_H
#define MIXTURE_H
#include "rewards/reward.h"

struct mixture_entry {
	const struct reward_type *type;
	double weight;
	void *conf, *state;
	char *name; /* its key in the section, by which messages, metrics and results call it */
};
struct mixture;

/* Reads section `rewards` (a mapping: name -> {type, weight, the reward's own keys}; without `type` the name
 * is the type), opens each.  `threads` scoring threads. */
int mixture_open(struct mixture **m, const struct conf_node *root, int threads, struct err *e);
/* The same over n rewards that are open already; takes their name (NULL: the type's), state and conf (the
 * array is copied). */
struct mixture *mixture_new(const struct mixture_entry *entry, int n, int threads);
void mixture_close(struct mixture *m);
void mixture_entry_close(struct mixture_entry *k); /* its name, state and conf */
int mixture_count(const struct mixture *m);
const struct mixture_entry *mixture_at(const struct mixture *m, int k);
/* Where a sub-score of that name is: reward *k, column *sub; false when no reward has one. */
bool mixture_find_sub(const struct mixture *m, const char *name, int *k, int *sub);
int mixture_check(struct mixture *m, const char *prompt, const char *meta, struct err *e);
/* The keys of an entry of this type (NULL: of any) that the mixture itself reads, ended by FIELD_END.  Where
 * a reward has a key of such a name, it is the reward's. */
#define MIXTURE_FIELDS 3
void mixture_fields(const struct reward_type *type, struct field *out);
/* The section's keys alone, with nothing opened: errors as mixture_open's, and into `out`, unless NULL, all
 * values. */
int mixture_resolve(const struct conf_node *root, struct conf_node *out, struct err *e);

/* Scores of n samples: value[k * n + i] of reward k, NAN when unavailable; sub likewise. */
struct mixture_scores {
	int n, rewards;
	double *total;       /* n: weighted sum, NAN when any reward is unavailable */
	double *value;       /* rewards * n */
	double *sub;         /* rewards * n * REWARD_SUBS */
	int64_t unavailable; /* samples without a total */
	char why[256];       /* the first reason */
};
void mixture_scores_init(struct mixture_scores *s, int n, int rewards);
void mixture_scores_free(struct mixture_scores *s);

/* Begins a set of n samples whose scores go to s (which must stay until mixture_wait). */
void mixture_begin(struct mixture *m, struct mixture_scores *s);
/* Hands over items for samples first .. first + n - 1 of the set.  Pixels are copied; prompt and meta are
 * borrowed until mixture_wait.  Returns at once. */
void mixture_submit(struct mixture *m, int first, const struct reward_item *item, int n);
/* Waits for every score; returns the seconds spent waiting. */
double mixture_wait(struct mixture *m);

#endif
