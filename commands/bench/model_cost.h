/*
 * model_cost.h -- the least time that each part of a round can take by its own arithmetic and traffic
 * (models/cost.h) at the machine's measured rates, beside what was measured.
 */
#ifndef MODEL_COST_H
#define MODEL_COST_H
#include "commands/bench/bench.h"

enum {
	COST_ROLLOUT,   /* forwards of the old policy as it samples */
	COST_THETA,     /* forward and backward, with what gradient checkpointing computes twice */
	COST_OLD,       /* the old policy's forwards in the update */
	COST_REFERENCE, /* the base's */
	COST_DECODE,
	COST_PHASES
};
struct model_cost {
	struct phase_cost {
		const char *name;
		struct cost least; /* of a rank's share of a round; nothing where the phase is not run */
		double measured;
	} phase[COST_PHASES], sum;
	double step, step_measured; /* as bench_step */
};

/* How an adapter takes part in a forward, or in its backward (c->backward): beside the sites' own products,
 * those of the pairs, or d loss / d W and what becomes of it. */
enum adapter_cost { ADAPTER_NONE, ADAPTER_PRODUCTS, ADAPTER_MERGED, ADAPTER_MERGED_WITH_GRADIENTS };
void model_cost_adapter(struct cost *c, const struct transformer *t, const struct lora *l,
			const struct cost_shape *s, enum adapter_cost how);

/* Runs the update's forwards for themselves; theta's time is what is left of the update.  After
 * bench_measure, whose times m are, on all ranks. */
void model_cost(struct bench *b, const struct bench_times *m, struct model_cost *out);
void model_cost_print(const struct model_cost *c, const struct bench *b);
json_t *model_cost_json(const struct model_cost *c);

#endif
