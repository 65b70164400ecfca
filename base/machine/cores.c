#include "base/machine/cores.h"
#include "base/machine/cgroup.h"
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#define WORDS (CORES_MOST / 64)

void cores_read(struct cores *c)
{
	*c = (struct cores) { .quota = 0 };
	/* the kernel fills bits from the lowest of the first long on */
	if (sched_getaffinity(0, sizeof c->mask, (cpu_set_t *)c->mask))
		c->mask[0] = 1;
	c->quota = cgroup_cpus("", &c->group);
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

int cores_share(const struct cores *all, int n, int me)
{
	const struct cores *mine = &all[me];
	int here = 0, in_group = 0;

	for (int i = 0; i < n; i++) {
		here += overlap(mine, &all[i]);
		in_group += all[i].quota > 0 && all[i].group == mine->group;
	}
	double share = here ? cores_count(mine) / here : 1;

	if (mine->quota > 0 && mine->quota / in_group < share)
		share = mine->quota / in_group; /* a thread beyond it would stop all at the next barrier */
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
		struct cores c = { .quota = 0 };

		if (!sched_getaffinity(pid, sizeof c.mask, (cpu_set_t *)c.mask) && cores_count(&c) > most)
			most = cores_count(&c);
	}
	return most;
}
