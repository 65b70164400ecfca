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
/* The two halves of the rows change places (lora_names.h says where). */
at_t lora_swap_halves(at_t rows_OR);

/* Training: the pairs become leaves.  lora_backward returns d loss / d pairs, (P,) float32; zeros where loss
 * does not depend on a pair. */
void lora_require_grad(struct lora *l);
at_t lora_backward(struct lora *l, at_t loss);

/*
 * Weights with the adapter in them, one per site it touches, W + scale * B A computed in float32 and rounded
 * once.
 * lora_merge: kept tensors without gradient, for rollout, evaluation and v_old; *m zeroed or merged before,
 * whose storage it reuses.
 * lora_merge_grad: tensors of the innermost scope through which gradients reach the pairs: on small models
 * this is cheaper than adding the low-rank products token by token (lora_prefers_merge: tokens is B * S of
 * one forward).
 */
struct lora_merged {
	int n_site;
	at_t *w; /* NULL where the base weight holds */
	bool kept;
	uint64_t hash; /* lora_hash of what was merged; 0 for lora_merge_grad */
};
void lora_merge(struct lora_merged *m, const struct lora *l);
void lora_merge_grad(struct lora_merged *m, const struct lora *l);
void lora_merged_release(struct lora_merged *m);
bool lora_prefers_merge(const struct lora *l, int64_t tokens);

#endif
