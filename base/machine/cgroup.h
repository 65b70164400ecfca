/*
 * cgroup.h -- what control groups leave this process: its own in /proc/self/cgroup and all those above it,
 * each of which may have a limit; version 2, version 1, or both side by side.
 *
 * `root` stands for "/" where files are looked for: "", or a test's folder.
 */
#ifndef CGROUP_H
#define CGROUP_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cgroup_quota {
	uint64_t group; /* the same number for all processes below it */
	double cpus;    /* that these may use at a time, together */
};
/* Of every group that has a quota, from this process's own on up, at most `most`; returns how many. */
int cgroup_quotas(const char *root, struct cgroup_quota *out, int most);
/* Bytes that can still be had: of the group with the least, its limit less what it uses; file cache that was
 * not used lately can be had as well.  Negative: no limit. */
double cgroup_memory(const char *root);

#ifdef __cplusplus
}
#endif

#endif
