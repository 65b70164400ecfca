#include "base/machine/cgroup.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NO_LIMIT 1e18 /* bytes; version 1 says 2^63 less a page */

/* ---- files ---- */

/* In folder/name: as file_number. */
static double number(const char *folder, const char *name, const char *key)
{
	char *path = mem_printf("%s/%s", folder, name);
	double v = file_number(path, key);

	free(path);
	return v;
}

/* Two numbers of a line. */
static bool pair(const char *folder, const char *name, double *a, double *b)
{
	char *path = mem_printf("%s/%s", folder, name);
	FILE *f = fopen(path, "re");
	bool found = f && fscanf(f, "%lf %lf", a, b) == 2;

	if (f)
		fclose(f);
	free(path);
	return found;
}

/* ---- groups ---- */

/* The group `path` and those above it.  One that is not there is another view's (a container sees its own as
 * the root), and the root below `mount` is tried in any case. */
static void climb(const char *mount, const char *path, int version,
		  void (*look)(void *out, const char *folder, int version), void *out)
{
	char *folder = mem_printf("%s%s", mount, strstr(path, "/..") ? "" : path);

	for (;;) {
		look(out, folder, version);
		char *slash = strrchr(folder, '/');
		if (!slash || slash < folder + strlen(mount))
			break;
		*slash = '\0';
	}
	free(folder);
}

static bool in_list(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *at = list; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ','))
		if (strcspn(at, ",") == n && !strncmp(at, name, n))
			return true;
	return false;
}

/* A line of /proc/self/cgroup: "4:cpu,cpuacct:/slurm/job_7", version 2's "0::/user.slice". */
static void read_line(const char *root, char *line, const char *controller,
		      void (*look)(void *out, const char *folder, int version), void *out)
{
	char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL, *mount;

	if (!path)
		return;
	*list++ = *path++ = '\0';
	path[strcspn(path, "\n")] = '\0';
	if (*list && !in_list(list, controller))
		return;
	mount = mem_printf("%s/sys/fs/cgroup%s%s", root, *list ? "/" : "", list);
	climb(mount, path, *list ? 1 : 2, look, out);
	free(mount);
	/* where the other version is mounted first, or several controllers under the names of each */
	mount = mem_printf("%s/sys/fs/cgroup/%s", root, *list ? controller : "unified");
	climb(mount, path, *list ? 1 : 2, look, out);
	free(mount);
}

static void look_at_all(const char *root, const char *controller,
			void (*look)(void *out, const char *folder, int version), void *out)
{
	char *path = mem_printf("%s/proc/self/cgroup", root), *line = NULL;
	FILE *f = fopen(path, "re");
	size_t size = 0;

	while (f && getline(&line, &size, f) >= 0)
		read_line(root, line, controller, look, out);
	if (!f) {
		char v2[] = "0::/", *v1 = mem_printf("1:%s:/", controller);

		read_line(root, v2, controller, look, out);
		read_line(root, v1, controller, look, out);
		free(v1);
	}
	if (f)
		fclose(f);
	free(line);
	free(path);
}

/* ---- limits ---- */

struct quotas {
	struct cgroup_quota *v;
	int n, most;
};

static void look_at_cpus(void *out, const char *folder, int version)
{
	struct quotas *q = out;
	double time = -1, period = -1;
	struct stat s;

	if (version == 2 && !pair(folder, "cpu.max", &time, &period))
		return;
	if (version == 1) {
		time = number(folder, "cpu.cfs_quota_us", "");
		period = number(folder, "cpu.cfs_period_us", "");
	}
	if (time <= 0 || period <= 0 || q->n == q->most || stat(folder, &s))
		return;
	uint64_t group = (uint64_t)s.st_dev << 40 ^ (uint64_t)s.st_ino;
	for (int i = 0; i < q->n; i++)
		if (q->v[i].group == group) /* by another name: "cpu" is a link to "cpu,cpuacct" */
			return;
	q->v[q->n++] = (struct cgroup_quota) { group, time / period };
}

static void look_at_memory(void *out, const char *folder, int version)
{
	bool v2 = version == 2;
	double *left = out, limit = number(folder, v2 ? "memory.max" : "memory.limit_in_bytes", "");
	double used = number(folder, v2 ? "memory.current" : "memory.usage_in_bytes", "");
	double cache = number(folder, "memory.stat", v2 ? "inactive_file " : "total_inactive_file ");

	if (limit < 0 || limit > NO_LIMIT)
		return;
	used -= cache > 0 ? cache : 0;
	limit -= used > 0 ? used : 0;
	limit = limit > 0 ? limit : 0;
	*left = *left < 0 || limit < *left ? limit : *left;
}

int cgroup_quotas(const char *root, struct cgroup_quota *out, int most)
{
	struct quotas q = { out, 0, most };

	look_at_all(root, "cpu", look_at_cpus, &q);
	return q.n;
}

double cgroup_memory(const char *root)
{
	double left = -1;

	look_at_all(root, "memory", look_at_memory, &left);
	return left;
}
