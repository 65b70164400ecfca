/*
 * startup.h -- how a process of any command begins: its place among the ranks, its GPU, its threads.
 *
 * In this order, because CUDA sees what it sees when it is first called, and everything after that may call
 * it: startup_open before anything is read, startup_threads when the number that the user asks for is known,
 * startup_device before the first tensor.  A command that has a device or opens rewards calls all three; a
 * rank that serves (dist_split), the first two.
 *
 * CPU threads follow one rule for all commands: the number that the user asks for (run.threads, --threads); 0
 * or none: what OMP_NUM_THREADS says; and where that is not set, as many as this rank may use of its machine.
 */
#ifndef STARTUP_H
#define STARTUP_H
#include "dist/dist.h"

/* What main() gets of a command that failed and whose message somebody has printed. */
#define STARTUP_FAILED 2
/* The same, of one that was asked to stop and has kept what can be kept: it exits with stop_code(). */
#define STARTUP_STOPPED 3

enum startup_ranks { STARTUP_ALONE, STARTUP_RANKS }; /* whether the command shares its work among ranks */

/* The ranks, the log's rank, this rank's GPU, and the threads of a command whose user asks for none.  Where
 * the ranks do not find each other one of them says so: returns 0, or what the command returns. */
int startup_open(struct dist *d, enum startup_ranks ranks, struct err *e);
/* Intra-op threads, as above; a number out of range is the user's error.  Says where a launcher that binds
 * its ranks holds this one to less. */
int startup_threads(const struct dist *d, int64_t threads, struct err *e);
/* Collective.  As at_device_parse, where all ranks have the same kind and no two ranks that work together
 * share a GPU; it is then everything's "auto".  Says where a GPU is there and not used. */
int startup_device(enum at_device *dev, const char *name, struct dist *d, struct err *e);
/* An error where this process sees several GPUs, though it is one of several ranks of a machine, each of
 * which should have its own: it would use the same one as the others.  For a rank that serves; startup_device
 * calls it for all others.  Not a collective. */
int startup_one_gpu(const struct dist *d, struct err *e);
/* Leaves the ranks.  The error of ret -1, which all of them have, is printed by one: before any of them is
 * gone, or the launcher might end the one that has yet to speak.  Returns what the command returns. */
int startup_close(struct dist *d, int ret, const struct err *e);

#endif
