/*
 * inputs.h -- the files besides the model that a run's numbers depend on: its prompts, and whatever its
 * rewards name (weights, scripts, class lists).  Their hashes are in every checkpoint, so that a run which
 * goes on with others says so.
 */
#ifndef INPUTS_H
#define INPUTS_H
#include "base/json.h"
#include "trainer/experiment.h"

/* {"prompts.train" (or prompts.sets.NAME.train): "0123456789abcdef", "rewards.exec.command[1]": ...}, of
 * every value there that is a file, or a folder (of which what looks like a model's files counts), and
 * "rewards": of their settings.  A stage's keys begin with its name.  What cannot be read is left out.  New
 * reference. */
json_t *inputs_hash(const struct experiment *x);
/* Adds a hash under a name. */
void inputs_add(json_t *inputs, const char *name, uint64_t hash);
/* Warns of each file that `now` has otherwise than `then` (NULL: nothing is known). */
void inputs_say(const json_t *then, const json_t *now);

#endif
