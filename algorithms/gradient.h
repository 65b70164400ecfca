/*
 * gradient.h -- the gradient of one micro-batch, as a function of tensors: what a GPU can replay from a
 * CUDA graph.
 *
 * Shapes: B pairs of a sample and a noise level, K of them with a reference, C channels, H height, W width of
 * the latents, P adapter parameters.
 */
#ifndef GRADIENT_H
#define GRADIENT_H
#include "algorithms/algorithm.h"
#include "sampler/sample.h"

/* Whose gradient of which loss.  What it points to stays where it is while graphs are replayed. */
struct gradient_task {
	struct lora *theta;
	const struct sampler *sampler; /* how its forwards are run */
	const struct algorithm_type *algorithm;
	const void *conf;          /* the algorithm's */
	unsigned needs;            /* what it demands */
	int64_t checkpoint_blocks; /* computed twice */
};
struct gradient_batch {
	struct terms terms; /* without v and v_ref; without v_old where that is theta's own velocity */
	struct cond cond;
	at_t timestep_B; /* what the transformer is told */
	at_t v_ref_KCHW; /* the frozen base's; NULL: no pair has a reference */
	at_t row_K;      /* int64, the pairs that do; NULL: all of them */
	/* What the sums of policy losses and of squared distances from the reference are multiplied by. */
	double weight_policy, weight_kl;
};
struct gradient {
	at_t grad_P;    /* float32 */
	at_t told_NB;   /* float64: the pairs' policy losses, and below them the algorithm's notes */
	at_t deviation; /* the sum of mean squared differences of v and v_old, float64; 0 without */
	at_t kl;        /* the same for v and v_ref, by their weights */
};

/* CUDA graphs of this function for the shapes that have come, on a GPU and where a batch has no row_K; they
 * read the adapter and the base's weights where they are now. */
struct gradient_replays;
struct gradient_replays *gradient_replays_new(void);
void gradient_replays_free(struct gradient_replays *r); /* NULL is fine */
int64_t
gradient_replayed(const struct gradient_replays *r); /* micro-batches that were replays; r may be NULL */

/* The algorithm's `group` of this batch (B), without gradients, on the CPU; in the caller's scope. */
at_t gradient_group(const struct gradient_task *task, const struct gradient_batch *b);
/* In the caller's scope.  Replays where r is not NULL. */
struct gradient gradient_of(const struct gradient_task *task, struct gradient_replays *r,
			    const struct gradient_batch *b);

#endif
