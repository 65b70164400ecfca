/*
 * eval_result.h -- what an evaluation found: means over the prompts' tags with 95 % intervals, as JSON, as a
 * table, as metrics.
 *
 * Each number is the mean of those images that have it.  One that no image has is NAN, null in JSON: a score
 * that could not be had never counts as 0, and never spoils the others.
 *
 * The verdicts are those of the reward that has sub-scores `strict` and `correct` (the first, if several do):
 *   geneval  GenEval's own overall score (arXiv 2310.11513, its summary_scores.py): the mean over tags of the
 *            share of images that are `correct`, that is, have at least what the prompt asks for
 *   strict   the same of images that have exactly that
 *   soft     the same of that reward's score; without such a reward, of the weighted total
 *
 * Where there are several sets of prompts, each has a result of its own, by its own rewards.  The result of
 * all has these as its tags, `soft` is each one's held-out score, and the overall score is their mean by the
 * sets' weights; it has no other verdicts and no single rewards.
 */
#ifndef EVAL_RESULT_H
#define EVAL_RESULT_H
#include "base/json.h"
#include "rewards/mixture/mixture.h"
#include "trainer/evaluation/interval.h"
#include "trainer/record/metrics.h"

enum eval_kind { EVAL_GENEVAL, EVAL_STRICT, EVAL_SOFT, EVAL_KINDS };
struct eval_number {
	double mean;
	struct interval in; /* by prompts, see interval.h */
	int64_t n;          /* images that the mean is of */
};
struct eval_tag {
	char *name;
	int64_t images; /* with a total */
	int64_t prompts;
	struct eval_number of[EVAL_KINDS];
};
/* A reward by itself: the mean over all images, whatever their tag. */
struct eval_reward {
	char *name;
	bool watched; /* its weight is 0: nothing is trained on it */
	int at;       /* its place in the mixture, while images are counted */
	struct eval_number score;
};
struct eval_result {
	int64_t images, unavailable; /* with and without a total */
	int64_t prompts;             /* distinct texts, by tag */
	bool has[EVAL_KINDS];        /* some reward gives such a verdict; else all of them are NAN */
	struct eval_number of[EVAL_KINDS];
	struct eval_number total; /* the weighted reward, over all images */
	double weight;            /* of a set's result */
	double seconds;
	char why[256];        /* the first reason of a lacking score; not in JSON */
	struct eval_tag *tag; /* in the order they came */
	int n_tags, cap_tags;
	struct eval_reward *reward;
	int n_rewards;
	char *name; /* of a set's result; NULL */
	struct eval_result *set;
	int n_sets;
	/* What was counted, an image a row; not in JSON. */
	struct eval_rows {
		double *value; /* `columns` a row */
		const char **tag, **prompt;
		int64_t *cluster; /* after eval_finish: which prompt it is of, and so which tag */
		int64_t n, cap;
		int columns, judge; /* judge: the reward of the verdicts, -1: none */
	} rows;
};

/* From nothing ({ 0 }): count every image, i of the set s with totals and all of one set of prompts, then
 * finish.  `tag` ("" is "all") and
 * `prompt` stay until then. */
void eval_count(struct eval_result *r, const struct mixture *m, const struct mixture_scores *s, int64_t i,
		const char *tag, const char *prompt);
void eval_finish(struct eval_result *r);
/* From nothing: n results, named and finished, of sets that weigh weight[i] (those that are not trained: 0,
 * and if all do, alike).  Takes them. */
void eval_join(struct eval_result *r, const struct eval_result *set, const double *weight, int n);
void eval_release(struct eval_result *r); /* back to { 0 } */

/* What a is ahead of b, both finished and counted image for image over the same prompts and rewards: each
 * number the mean of the differences of those images where both have it.  -1: they are not. */
int eval_difference(struct eval_result *out, const struct eval_result *a, const struct eval_result *b,
		    struct err *e);

/* The held-out score, which stop_at looks at: strict where there is one, else soft. */
const struct eval_number *eval_held_out(const struct eval_result *r);
const char *eval_held_out_name(const struct eval_result *r); /* "strict" or "reward" */
/* The share of the images that lack it; 0 before any evaluation. */
double eval_lacking(const struct eval_result *r);

/* ---- eval_report.c ---- */

json_t *eval_json(const struct eval_result *r); /* new reference */
/* *r is { 0 } or an earlier result, which is released. */
int eval_from_json(struct eval_result *r, const json_t *j, const char *what, struct err *e);
/* KEY and KEY_95: [low, high], and back: absent is NAN, and so is the interval of files that had half its
 * width there.
 */
void eval_put_number(json_t *j, const char *key, const struct eval_number *v);
int eval_get_number(struct eval_number *v, const json_t *j, const char *key, const char *what, struct err *e);
/* A table per tag on stdout: one result, or before and after; `what` is what the images are called. */
void eval_print(const struct eval_result *before, const struct eval_result *after, const char *what);
/* Lines that say what a is ahead of b by. */
void eval_print_difference(const struct eval_result *difference, const char *a, const char *b);
/* eval/geneval, eval/strict, eval/soft, the held-out one's eval/low and eval/high, eval/reward,
 * eval/reward/NAME, eval/unavailable, and of each tag eval/geneval/TAG, eval/strict/TAG or eval/soft/TAG, and
 * the held-out one's eval/low/TAG and eval/high/TAG.  Of each set all of these, as eval/SET/... */
void eval_add_metrics(const struct eval_result *r, struct metrics *m);

#endif
