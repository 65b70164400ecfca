/*
 * startup.h -- how a process of any command begins: its place among the ranks, its GPU, its threads.
 *
 * In this order, because CUDA sees what it sees when it is first called, and everything after that may call
 * it: startup_open before anything is read, startup_threads when the number that the user asks for is known,
 * startup_device before the first tensor.
 */
#ifndef STARTUP_H
#define STARTUP_H
#include "dist/dist.h"

/* What main() gets of a command that failed and whose message somebody has printed. */
#define STARTUP_FAILED 2

enum startup_ranks { STARTUP_ALONE, STARTUP_RANKS }; /* whether the command shares its work among ranks */

/* The ranks, the log's rank, this rank's GPU, and as many threads as it may use or OMP_NUM_THREADS says. */
int startup_open(struct dist *d, enum startup_ranks ranks, struct err *e);
/* Intra-op threads: so many; 0: as many as this rank may use of its machine.  Says where a launcher that
 * binds its ranks holds this one to less. */
void startup_threads(const struct dist *d, int64_t threads);
/* Collective.  As at_device_parse, where all ranks have the same kind and no two ranks that work together
 * share a GPU; it is then everything's "auto".  Says where a GPU is there and not used. */
int startup_device(enum at_device *dev, const char *name, struct dist *d, struct err *e);
/* Leaves the ranks.  The error of ret -1, which all of them have, is printed by one: before any of them is
 * gone, or the launcher might end the one that has yet to speak.  Returns what the command returns. */
int startup_close(struct dist *d, int ret, const struct err *e);

#endif
