/*
 * cores.h -- how many CPUs a process may use: those that its scheduler mask names (taskset, a launcher that
 * binds its ranks, cpusets), and no more at a time than the quotas of its control groups.
 */
#ifndef CORES_H
#define CORES_H
#include "base/machine/cgroup.h"
#include <stdint.h>

#define CORES_MOST   8192
#define CORES_QUOTAS 16

struct cores {
	uint64_t mask[CORES_MOST / 64];
	struct cgroup_quota quota[CORES_QUOTAS]; /* of its control groups */
	int quotas;
};

void cores_read(struct cores *c);       /* this process's */
int cores_count(const struct cores *c); /* in the mask */
/* Threads for process `me` of the n on a machine: it shares its CPUs with those whose masks have some of
 * them, and each quota with those below the same group.  At least 1. */
int cores_share(const struct cores *all, int n, int me);
/* In the mask of whoever started this process, or of who started that one: the launcher, though a script
 * stands between.  More than in its own: the launcher bound it.  0: not known. */
int cores_of_launcher(void);

#endif
