/*
 * evaluate.h -- the held-out score: every prompt exactly once (times images_per_prompt), each with a fixed
 * noise, the same score for any number of ranks.
 */
#ifndef EVALUATE_H
#define EVALUATE_H
#include "data/prompts.h"
#include "dist/dist.h"
#include "rewards/mixture/mixture.h"
#include "sampler/sample.h"
#include "base/image.h"
#include "base/json.h"

#define EVAL_TAGS 32

struct eval_result {
	int64_t images, unavailable;
	double strict, strict_error; /* GenEval's overall score: the mean of the tags' shares of images that
					are exactly right; its standard error */
	double soft;                 /* the same of the training reward */
	double total;                /* mean weighted reward */
	int n_tags;
	struct eval_tag {
		char name[32];
		int64_t images;
		double strict, soft;
	} tag[EVAL_TAGS];
	bool has_strict; /* some reward has a "strict" sub-score; else strict is NAN */
	double seconds;
};

/* From nothing ({ 0 }): count every image, i of the set s with totals, then finish. */
void eval_count(struct eval_result *r, const struct mixture *m, const struct mixture_scores *s, int64_t i,
		const char *tag);
void eval_finish(struct eval_result *r);

struct evaluator {
	struct dist *dist;
	const struct pipeline *pipeline;
	const struct sampler *sampler;
	struct mixture *mixture;
	const struct prompts *prompts;
	int64_t images_per_prompt, batch, height, width;
	uint64_t seed;
	bool quiet;
};
/* Collective; every rank gets the result. */
int evaluate(const struct evaluator *v, const struct pass *pass, struct eval_result *r, struct err *e);

json_t *eval_json(const struct eval_result *r); /* new reference */
int eval_from_json(struct eval_result *r, const json_t *j, const char *what, struct err *e);
/* A table per tag on stdout: one column, or before and after;
 * `images` is what they are called. */
void eval_print(const struct eval_result *before, const struct eval_result *after, const char *what);

/* The first image of up to n prompts, tags taking turns, as one grid; every rank calls, rank 0 gets it
 * (others an empty image). */
int eval_grid(struct image *grid, const struct evaluator *v, const struct pass *pass, int n, int cols,
	      int zoom, struct err *e);

/* Collective: every prompt of a file can be encoded, and is in the cache where the model has one. */
int prepare_prompts(struct dist *d, const struct pipeline *p, const struct prompts *in, struct err *e);
/* Conditioning of prompts index[0..n) of a file, row by row; of the innermost scope. */
int encode_prompts(const struct pipeline *p, const struct prompts *in, const int64_t *index, int n,
		   struct cond *out, struct err *e);

#endif
