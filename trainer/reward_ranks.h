/*
 * reward_ranks.h -- the last ranks of a job score for the others: heavy judges on GPUs of their own.
 *
 * The others train on as if they were alone; where they would open rewards, they have the reward ranks do it
 * (rewards/mixture/remote.h).  Batches and groups go to the reward ranks in turn, and the scores are those
 * that rewards in the trainers' own processes would give.
 */
#ifndef REWARD_RANKS_H
#define REWARD_RANKS_H
#include "dist/dist.h"
#include "rewards/mixture/remote.h"

/* Collective: makes the last n ranks reward ranks (0: none), d->serves on those; refuses where none would be
 * left, and without mpirun.  `what` asked for them: a key or an option. */
int reward_ranks_split(struct dist *d, int64_t n, const char *what, struct err *e);
/* On a reward rank, after startup_threads: scores until the others are done.  `device` is the run's. */
void reward_ranks_serve(struct dist *d, const struct remote_sets *sets, const char *device);

/* On the others, with or without reward ranks: opens the rewards of root, which is set `set` of theirs. */
int reward_ranks_open(struct mixture **m, struct dist *d, const struct conf_node *root, int set,
		      struct err *e);
/* Collective, after all have opened: what rank 0 was told of the rewards becomes known to all. */
void reward_ranks_agree(struct dist *d, struct mixture *m);
/* When nothing is left to score: the reward ranks end. */
void reward_ranks_dismiss(struct dist *d);
/* "rank 2", "ranks 2 to 3", for the log. */
const char *reward_ranks_name(const struct dist *d, char *buffer, size_t size);

#endif
