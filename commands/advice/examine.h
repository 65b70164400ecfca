/*
 * examine.h -- what is as it should be and what is not, a line each on standard output: what doctor and check
 * have in common.
 *
 *   ok    prompts        data/train.jsonl: 1152 prompts of 6 tags
 *   warn  prompts        ...
 *   FAIL  memory         weights take 9.3 GB, and 7.1 GB are left: ...
 */
#ifndef EXAMINE_H
#define EXAMINE_H
#include "data/prompts.h"
#include "rewards/mixture/mixture.h"
#include "trainer/experiment.h"

enum verdict { EXAMINED_OK, EXAMINED_WARN, EXAMINED_FAIL };
struct examination {
	int warnings, failures;
	double began; /* of the step that runs; 0: lines tell no seconds */
};
/* A line, with the seconds since the one before where x->began is set.  Returns -1 for a failure. */
int examined(struct examination *x, enum verdict v, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Each tells its lines and goes on as far as it can; -1: something failed. */
int examine_files(struct examination *x, const struct experiment *c); /* of the model, and their hashes */
int examine_room(struct examination *x, const struct experiment *c);  /* memory, disk, write permission */
int examine_stage(struct examination *x, const struct experiment *c,
		  const char *stage); /* prompts, rewards */
/* A stage's rewards, opened and loaded, with `m` closed by the caller; NULL after a failure. */
struct mixture *examine_rewards(struct examination *x, const struct experiment *c,
				const struct prompts *train, const struct prompts *test);

#endif
