/*
 * plan.h -- what a configuration will take on GPUs that need not be here: seconds a step and memory a rank,
 * from the model's configuration files alone, or a preset.
 *
 * An op takes at least as long as its products or its bytes (models/cost.h); what was measured of SD3.5
 * Medium on an H200 (docs/performance.md) says how much longer each part takes than that.  Rates of other
 * GPUs are their data sheets', of which that H200 reached 77 % in products and 88 % in bytes.  Text encoders,
 * rewards and the all-reduce are left out.
 */
#ifndef PLAN_H
#define PLAN_H
#include "base/json.h"
#include "commands/bench/presets.h"
#include "models/vae/vae.h"
#include "trainer/experiment.h"
#include "models/transformer.h"

struct plan_gpu {
	const char *name;
	double gemm, copy; /* FLOP/s and bytes/s that large ones reach */
	double memory;     /* bytes that a process may have */
};
extern const struct plan_gpu plan_gpus[]; /* name NULL ends it */

enum plan_part { PLAN_ROLLOUT, PLAN_OLD, PLAN_REFERENCE, PLAN_THETA, PLAN_DECODE, PLAN_EVAL, PLAN_PARTS };
extern const char *const plan_parts[PLAN_PARTS];
/* How many times its least time each part takes. */
struct plan_loss {
	double of[PLAN_PARTS];
};
extern const struct plan_loss plan_measured;

struct plan {
	int64_t images, drawn, levels, pairs; /* of a step */
	double count[PLAN_PARTS];             /* forwards, pairs or images of a step */
	double seconds[PLAN_PARTS];           /* of one GPU */
	double sum;
	/* Memory of a rank, bytes: what is always there, of one pair in the update, and what fits. */
	double fixed, pair;
	int64_t micro, blocks; /* the micro-batch, and how many blocks compute their forward twice */
	double memory;
	bool fits;
};
/* `preset`: the model's sizes, or NULL: those of c's folder.  `test`: prompts of an evaluation; ranks > 0. */
int plan_make(struct plan *p, const struct experiment *c, const struct plan_gpu *gpu,
	      const struct plan_loss *loss, const struct preset *preset, int64_t ranks, int64_t test,
	      struct err *e);

#endif
