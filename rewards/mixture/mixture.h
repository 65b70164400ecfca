/*
 * mixture.h -- the rewards of an experiment: R = sum of weight * score, scored while the next batch is
 * sampled.
 *
 * Images are handed over batch by batch; worker threads score them in the order they came; mixture_wait
 * joins.  Several sets of samples may be under way at a time.  A reward that waits for others (REWARD_WAITS)
 * has a thread of its own beside those.
 *
 * A reward may have a deadline: what one call has not scored by then is unavailable.  The call cannot be
 * ended, so its thread is left to itself, another takes its place, and whatever it answers later is dropped.
 * What it reads (images, prompts, its own state) stays until it returns.
 */
#ifndef MIXTURE_H
#define MIXTURE_H
#include "rewards/reward.h"

struct mixture_entry {
	const struct reward_type *type;
	double weight; /* 0: watched, see mixture_total; prompts that it cannot score are left to it */
	void *conf, *state;
	char *name;      /* its key in the section, by which messages, metrics and results call it */
	double deadline; /* seconds a call may take; 0: for ever */
	double quorum;   /* see mixture_total */
	bool group;      /* it gets whole groups (REWARD_GROUP, or because it asked) */
	bool loaded;     /* reward.h's load() is done, or there is none */
	bool held_out;   /* of eval.rewards: scores only sets that say so */
};
struct mixture;
struct mixture_scores;

/* Reads the sections `rewards` and, for evaluations, `eval.rewards` (mappings: name -> {type, weight, the
 * reward's own keys}; without `type` the name is the type), opens each: prompts can then be checked, and
 * images scored after mixture_load.  `threads` scoring threads, for all rewards that do not have their own.
 */
int mixture_open(struct mixture **m, const struct conf_node *root, int threads, struct err *e);
/* The rewards of `from` whose type and keys one of m's has, too, go over to m as they are, loaded; m's own go
 * to `from` for that, which is closed next.  Nothing may be under way; a reward with calls that were given up
 * stays.  `from` NULL: nothing to take. */
void mixture_take_over(struct mixture *m, struct mixture *from);
int mixture_load(struct mixture *m, struct err *e); /* what is not loaded yet */
/* How many sets of prompts (`prompts.sets`, each with its own weights of rewards) its section knows; 0: none,
 * and every image is scored by all. */
int mixture_sets(const struct mixture *m);
/* What entry k counts in the total of an image of this set; NAN: it does not score it.  Without sets, and for
 * rewards that are held out, the entry's own weight. */
double mixture_weight(const struct mixture *m, int k, int set);
/* The same over n rewards that are open already; takes their name (NULL: the type's), state and conf (the
 * array is copied). */
struct mixture *mixture_new(const struct mixture_entry *entry, int n, int threads);
/* Somebody else who scores what is handed over (remote.h): the mixture then opens nothing and has no threads.
 * Sets count what is under way in open_tasks. */
struct mixture_backend {
	void (*submit)(void *ctx, struct mixture_scores *s, const int *sample, const struct reward_item *item,
		       int n, bool group);
	bool (*done)(void *ctx, struct mixture_scores *s); /* takes what has been scored; never waits */
	int (*check)(void *ctx, const struct reward_item *item, int n, int *bad, struct err *e);
	int (*load)(void *ctx, struct err *e);
	void (*close)(void *ctx);
};
/* The rewards of a section, read and not opened, in front of `backend`, whose ctx the mixture closes; on an
 * error it is the caller's still. */
int mixture_open_over(struct mixture **m, const struct conf_node *root, const struct mixture_backend *backend,
		      void *ctx, struct err *e);
struct mixture *mixture_new_over(const struct mixture_entry *entry, int n,
				 const struct mixture_backend *backend, void *ctx);
void mixture_set_group(struct mixture *m, int k, bool group); /* what the one who opened entry k knows */
/* How the threads call rewards from now on, in all mixtures: f(ctx), or -1 and *e where it failed so that it
 * could not return.  For a process that must not end for it; NULL: plainly. */
void mixture_call_by(int (*call)(void (*f)(void *ctx), void *ctx, struct err *e));
/* Ends all but the calls that were given up; those keep what they need. */
void mixture_close(struct mixture *m);
/* Calls that were given up and still run in mixtures that are closed: the process then has to end without
 * its exit handlers, which would take libraries away from under them. */
int mixture_left_behind(void);
void mixture_entry_close(struct mixture_entry *k); /* its name, state and conf */
int mixture_count(const struct mixture *m);
const struct mixture_entry *mixture_at(const struct mixture *m, int k);
/* The name of its j-th sub-score, NULL behind the last: the type's, or for a judge outside of the program
 * those of its key `sub_scores`. */
const char *mixture_sub(const struct mixture_entry *k, int j);
/* The column of reward k's sub-score of that name; -1: it has none. */
int mixture_sub_at(const struct mixture *m, int k, const char *name);
/* How an entry's calls went in this process: those that were over, seconds of all and of the longest, since
 * this was last asked; and so far, calls that were given up and starts of its process after the first. Zeros
 * where somebody else scores. */
struct mixture_pace {
	int64_t calls, given_up, restarts;
	double seconds, longest;
};
void mixture_pace(struct mixture *m, int k, struct mixture_pace *p);
bool mixture_has_quorum(const struct mixture *m); /* some reward may be left out of a group */
bool mixture_has_groups(const struct mixture *m); /* some reward gets whole groups */
/* For tests and others who open rewards themselves: weight[set * count + k] as mixture_weight gives them;
 * copied. */
void mixture_set_weights(struct mixture *m, int sets, const double *weight);
/* Can all rewards score this prompt?  Of several, *bad is the first that cannot be scored. */
int mixture_check(struct mixture *m, const char *prompt, const char *meta, struct err *e);
int mixture_check_all(struct mixture *m, const struct reward_item *item, int n, int *bad,
		      struct err *e); /* pixels are not looked at */
/* The keys of an entry of this type (NULL: of any) that the mixture itself reads, ended by FIELD_END.  Where
 * a reward has a key of such a name, it is the reward's. */
#define MIXTURE_FIELDS 5
void mixture_fields(const struct reward_type *type, struct field *out);
bool mixture_name_is_good(const char *name); /* letters, digits, '-' and '_': part of keys and of files */
/* The section's keys alone, with nothing opened: errors as mixture_open's, and into `out`, unless NULL, all
 * values. */
int mixture_resolve(const struct conf_node *root, struct conf_node *out, struct err *e);

/* Scores of n samples: value[k * n + i] of reward k, NAN when unavailable; sub likewise. */
struct mixture_scores {
	int n, rewards;
	double *value;              /* rewards * n */
	double *sub;                /* rewards * n * REWARD_SUBS */
	char why[256];              /* the first reason of an unavailable score */
	char (*reason)[REWARD_WHY]; /* why value[i] is unavailable, or what its reward says of it; NULL unless
				       mixture_scores_keep_reasons */
	int *set;                   /* n: the set of prompts that each sample is of; submitting fills it in */
	bool check;    /* set before mixture_submit: nobody has asked the rewards about these prompts yet */
	bool held_out; /* likewise: the held-out rewards score it, too */
	/* From mixture_total. */
	double *total;       /* n */
	int64_t unavailable; /* samples without a total */
	int64_t groups;
	bool *left_out; /* rewards * groups: the reward does not count in the group */
	int64_t n_left_out;
	/* The queue's own. */
	int open_tasks; /* queued or running */
	int64_t why_at; /* sample * rewards + reward of the reason kept: the first, whoever came first */
};
/* The reward that gives the verdicts `strict` and `correct` of a set's images: the first that scores them and
 * has a sub-score of such a name; -1: none. */
int mixture_judge(const struct mixture *m, int set);
/* Sub-score `name` of sample i by reward k; NAN: there is none. */
double mixture_sub_of(const struct mixture *m, const struct mixture_scores *s, int k, int64_t i,
		      const char *name);
void mixture_scores_init(struct mixture_scores *s, int n, int rewards);
void mixture_scores_keep_reasons(struct mixture_scores *s);
void mixture_scores_free(struct mixture_scores *s);

/* Begins a set of n samples whose scores go to s, which must stay until mixture_wait. */
void mixture_begin(struct mixture *m, struct mixture_scores *s);
/* Hands over items for samples first .. first + n - 1 of the set, to all rewards but those that get groups;
 * everything is copied.  Returns at once. */
void mixture_submit(struct mixture *m, struct mixture_scores *s, int first, const struct reward_item *item,
		    int n);
/* The same to those: a prompt's whole group, samples sample[0 .. n) of the set. */
void mixture_submit_group(struct mixture *m, struct mixture_scores *s, const int *sample,
			  const struct reward_item *item, int n);
/* Finds the groups among samples 0 .. n - 1: those of one prompt with one metadata. */
void mixture_submit_groups(struct mixture *m, struct mixture_scores *s, const struct reward_item *item,
			   int n);
/* Has all that was handed over been scored or given up? */
bool mixture_done(struct mixture *m, struct mixture_scores *s);
/* Waits for that; returns the seconds spent waiting. */
double mixture_wait(struct mixture *m, struct mixture_scores *s);
/* The same, unless `ends` comes to say that nobody wants the scores any more: what runs then has a moment
 * left, and what has no score after it has none (reward ranks are waited for all the same). */
double mixture_wait_unless(struct mixture *m, struct mixture_scores *s, bool (*ends)(void));
/* The same until clock_now() is `end`: what is queued then is unavailable, and what runs is given up. */
void mixture_wait_until(struct mixture *m, struct mixture_scores *s, double end);

/*
 * Totals from the values, each sample's by the weights of its set: the weighted sum, NAN (unavailable) for a
 * sample that lacks a score.  A reward of weight 0 is watched: it is no part of any total, and costs no
 * sample.
 *
 * group[i] in [0, groups): the samples that are compared with each other; NULL: none are.  A group compares
 * totals, so all of its samples must be sums of the same rewards: where fewer than `quorum` of a group have a
 * reward's score, the reward is left out of the whole group, and where at least so many have it, the others
 * are unavailable.  In place of a reward left out stands its mean over the groups where it counts: a constant
 * in the group, so that no comparison hangs on it, at the usual height, so that the spread over all groups
 * of its set stays what it was.  A group that every reward is left out of is unavailable.
 */
void mixture_total(const struct mixture *m, struct mixture_scores *s, const int64_t *group, int64_t groups);

#endif
