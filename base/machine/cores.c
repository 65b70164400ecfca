#include "base/machine/cores.h"
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#define WORDS (CORES_MOST / 64)

void cores_read(struct cores *c)
{
	*c = (struct cores) { .quotas = 0 };
	/* the kernel fills bits from the lowest of the first long on */
	if (sched_getaffinity(0, sizeof c->mask, (cpu_set_t *)c->mask))
		c->mask[0] = 1;
	c->quotas = cgroup_quotas("", c->quota, CORES_QUOTAS);
}

int cores_count(const struct cores *c)
{
	int n = 0;

	for (int i = 0; i < WORDS; i++)
		n += __builtin_popcountll(c->mask[i]);
	return n;
}

static int overlap(const struct cores *a, const struct cores *b)
{
	for (int i = 0; i < WORDS; i++)
		if (a->mask[i] & b->mask[i])
			return 1;
	return 0;
}

static int is_below(const struct cores *c, uint64_t group)
{
	for (int i = 0; i < c->quotas; i++)
		if (c->quota[i].group == group)
			return 1;
	return 0;
}

int cores_share(const struct cores *all, int n, int me)
{
	const struct cores *mine = &all[me];
	int here = 0;

	for (int i = 0; i < n; i++)
		here += overlap(mine, &all[i]);
	double share = here ? cores_count(mine) / here : 1;

	for (int k = 0; k < mine->quotas; k++) {
		int below = 0;

		for (int i = 0; i < n; i++)
			below += is_below(&all[i], mine->quota[k].group);
		if (mine->quota[k].cpus / below < share) /* a thread more would stop all at a barrier */
			share = mine->quota[k].cpus / below;
	}
	return share >= 1 ? (int)share : 1;
}

/* 0: none that can be seen. */
static pid_t parent_of(pid_t pid)
{
	char path[64];
	int parent = 0;

	snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
	FILE *f = fopen(path, "re");
	if (f && fscanf(f, "%*d (%*[^)]) %*c %d", &parent) != 1)
		parent = 0;
	if (f)
		fclose(f);
	return parent;
}

int cores_of_launcher(void)
{
	pid_t pid = getppid();
	int most = 0;

	for (int i = 0; i < 2 && pid > 0; i++, pid = parent_of(pid)) {
		struct cores c = { .quotas = 0 };

		if (!sched_getaffinity(pid, sizeof c.mask, (cpu_set_t *)c.mask) && cores_count(&c) > most)
			most = cores_count(&c);
	}
	return most;
}
