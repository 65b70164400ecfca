/*
 * lora.h -- low-rank adapters: y = W x + b + (alpha / rank) B (A x).
 *
 * Theta, old and ema are three struct lora of one shape.  Each keeps all its pairs in one flat float32
 * buffer, so that the optimizer, the all-reduce, EMA and checkpoints handle one vector; the pairs are views
 * of it.
 */
#ifndef LORA_H
#define LORA_H
#include "base/conf/conf.h"
#include "models/nn.h"

struct lora_conf {
	int64_t rank;
	double alpha;
	/* "gaussian" (A normal with std 1/rank) or "kaiming" (PEFT's default for A); B is zero in both */
	char *init;
	char *start; /* "" or an adapter, whose modules, ranks and alphas then hold */
	/* module-name suffixes, as PEFT matches them: equal, or ends with "." + target */
	struct conf_list targets;
};
extern const struct field lora_fields[]; /* rank, alpha, init, start, targets */

/* Its rank and alpha may be the pair's own: adapters made elsewhere have patterns of them. */
struct lora_size {
	int64_t rank; /* 0: no pair */
	double alpha;
};
struct lora_pair {
	int site, part;
	struct lora_size size;
	at_t a_RI, b_OR; /* views of flat, float32 */
};
struct lora {
	const struct nn_net *net; /* borrowed */
	int n;
	struct lora_pair *pair; /* ordered by module name */
	int *at;                /* at[site * NN_PARTS + part] = pair or -1 */
	at_t flat;              /* (P,) kept */
	int64_t numel;
};

/* A fresh adapter on the modules that match; none matching is an error that lists candidates.  Every value is
 * a function of the seed and the pair's place, on every device. */
int lora_init(struct lora *l, const struct nn_net *net, const struct lora_conf *c, uint64_t seed,
	      enum at_device dev, struct err *e);
/* The structure alone, all values zero: size[site * NN_PARTS + part] is that of the module's pair. */
void lora_lay_out(struct lora *l, const struct nn_net *net, const struct lora_size *size, enum at_device dev);
/* The same shape and values, storage of its own. */
void lora_copy_init(struct lora *l, const struct lora *from);
void lora_release(struct lora *l);
void lora_set(struct lora *dst, const struct lora *src); /* values */
bool lora_touches(const struct lora *l, int site);       /* has a pair in any part of it */
double lora_scale(const struct lora_pair *p);            /* alpha / rank */
const char *lora_module(const struct lora *l, int pair); /* "transformer_blocks.0.attn.to_q" */
double lora_norm(const struct lora *l);                  /* Euclidean norm of scale * B A over all modules */
double lora_squares(at_t a_RI, at_t b_OR, double scale); /* sum of squares of scale * B A */
uint64_t lora_hash(const struct lora *l); /* of the values: names the weights merged from them */

/*
 * A site's pairs as one: A stacked by rows and B block by block, (R, I) and (O, R), R the sum of the ranks. A
 * part without a pair has zero rows in B.  Returns the scale of B A: the pairs' own where they agree, else 1
 * with the scales in B.  The site has at least one pair.
 */
double lora_stack(const struct lora *l, int site, at_t *a_RI, at_t *b_OR);
/* The same of sites that follow one another and read the same, LORA_RUN at most. */
#define LORA_RUN 2
double lora_stack_run(const struct lora *l, int first, int sites, at_t *a_RI, at_t *b_OR);
/* The same, the scale in B, rounded to a type: as forwards in 16 bits take them. */
void lora_stack_as(const struct lora *l, int site, enum at_dtype dt, at_t *a_RI, at_t *b_OR);

/* Training: the pairs become leaves.  lora_backward returns d loss / d pairs, (P,) float32; zeros where loss
 * does not depend on a pair. */
void lora_require_grad(struct lora *l);
at_t lora_backward(struct lora *l, at_t loss);

/*
 * A policy's weights, ready to run, for each site that the adapter touches.  The pairs are in them: W + scale
 * B A, computed in float32 and rounded once.  Or, in 16 bits, they are beside them (at_linear_low_rank),
 * because W + scale B A rounded has lost half of a change of a thousandth of W, and nearly all of one of a
 * tenth of that (docs/performance.md).
 *
 * lora_merge: in the weights.  Kept tensors without gradient; *m zeroed or filled before, whose storage it
 * reuses, so that CUDA graphs may read from there.
 * lora_beside: the pairs, stacked and rounded to the weights' type; the same bits as a pass with `lora`. With
 * `copies` the weights lie there once more, beside B, so that no product has to put the two together.
 * lora_ready: one of both, as rollout, evaluation and v_old run.
 * lora_merge_grad: tensors of the innermost scope through which gradients reach the pairs: on small models
 * this is cheaper than adding the low-rank products token by token (lora_prefers_merge: tokens is B * S of
 * one forward).
 */
struct lora_merged {
	int n_site;
	at_t *w;              /* one allocation of three lists; NULL where the base weight holds */
	at_t *wide_OK, *a_RI; /* scale * B, W before it or not, and A; NULL where no pair lies beside */
	bool kept;
	uint64_t hash; /* lora_hash of what was merged; 0 for lora_merge_grad */
};
/* auto: beside weights of 16 bits; lean: beside, without copies */
enum lora_form { LORA_AUTO, LORA_IN_WEIGHTS, LORA_BESIDE, LORA_LEAN };
extern const char *const lora_form_names[]; /* auto, always, never, lean: are they merged? */
void lora_ready(struct lora_merged *m, const struct lora *l, enum lora_form form);
void lora_merge(struct lora_merged *m, const struct lora *l);
void lora_beside(struct lora_merged *m, const struct lora *l, bool copies);
bool lora_runs_beside(const struct lora_merged *m); /* somewhere */
void lora_merge_grad(struct lora_merged *m, const struct lora *l);
void lora_merged_release(struct lora_merged *m);
bool lora_prefers_merge(const struct lora *l, int64_t tokens);
bool lora_rounds(const struct lora *l); /* are the weights in 16 bits? */
/* The share of the adapter's change that merging into weights of type dt keeps: <round(W + d) - W, d> over
 * <d, d>, W the net's. */
double lora_survival(const struct lora *l, enum at_dtype dt);

#endif
