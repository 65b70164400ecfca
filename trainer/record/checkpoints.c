#include "trainer/record/checkpoints.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TEMP  ".tmp"
#define ASIDE ".old"

char *checkpoints_name(int64_t step)
{
	return mem_printf("step-%08lld", (long long)step);
}

/* The step of "step-00000123" with `suffix` behind it; -1: not a name of ours. */
static int64_t step_of(const char *name, const char *suffix)
{
	char *end;
	int64_t step = -1;

	if (!text_starts(name, "step-") || !strchr("0123456789", name[5]))
		return -1;
	errno = 0;
	step = strtoll(name + 5, &end, 10);
	char *ours = mem_printf("step-%08lld%s", (long long)step, suffix);
	if (errno || strcmp(ours, name))
		step = -1;
	free(ours);
	return step;
}

static int by_step(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* The steps of the names with this suffix, ascending. */
static int64_t *list(const char *all, const char *suffix, int *n)
{
	DIR *d = opendir(all);
	int64_t *steps = NULL, step;
	int cap = 0;

	*n = 0;
	for (struct dirent *x; d && (x = readdir(d));)
		if ((step = step_of(x->d_name, suffix)) >= 0)
			MEM_PUSH(steps, *n, cap) = step;
	if (d)
		closedir(d);
	if (*n)
		qsort(steps, (size_t)*n, sizeof *steps, by_step);
	return steps;
}

static char *path_of(const char *all, int64_t step, const char *suffix)
{
	char *name = checkpoints_name(step), *path = mem_printf("%s/%s%s", all, name, suffix);

	free(name);
	return path;
}

char *checkpoints_newest(const char *run, bool *failed, struct err *e)
{
	char *all = file_join(run, "checkpoints"), *latest = file_join(all, "latest"), *name, *dir = NULL;
	size_t size;

	*failed = false;
	if (!file_exists(latest)) {
		/* killed before its first checkpoint was named the newest, or somebody removed the file */
		int n;
		int64_t *steps = list(all, "", &n);
		if (n)
			dir = path_of(all, steps[n - 1], "");
		free(steps);
	} else if (file_read(&name, &size, latest, e)) {
		*failed = true;
	} else {
		name[strcspn(name, "\r\n")] = '\0';
		dir = file_join(all, name);
		char *aside = mem_printf("%s" ASIDE, dir);
		if (!file_exists(dir) && file_exists(aside)) { /* killed in between */
			free(dir);
			dir = aside;
			aside = NULL;
		}
		free(aside);
		free(name);
	}
	free(all);
	free(latest);
	return dir;
}

char *checkpoints_before(const char *dir)
{
	char *all = file_dir(dir), *name = mem_str(file_base(dir));
	int n;
	int64_t *steps = list(all, "", &n), before = -1;

	if (text_ends(name, ASIDE))
		name[strlen(name) - strlen(ASIDE)] = '\0';
	int64_t step = step_of(name, "");
	for (int i = 0; i < n; i++)
		if (step < 0 || steps[i] < step)
			before = steps[i];
	free(steps);
	free(all);
	free(name);
	return before < 0 ? NULL : checkpoints_name(before);
}

/* What is half gone, or was never whole. */
static void remove_left(const char *all)
{
	static const char *const suffixes[] = { TEMP, ASIDE };

	for (int k = 0; k < 2; k++) {
		int n;
		int64_t *steps = list(all, suffixes[k], &n);

		for (int i = 0; i < n; i++) {
			struct err e;
			char *path = path_of(all, steps[i], suffixes[k]);
			if (file_remove_tree(path, &e))
				log_warn("%s is of no use any more, but cannot be removed: %s", path, e.msg);
			free(path);
		}
		free(steps);
	}
}

/* The one that was set aside when the run was killed takes its name again. */
static int take_back(const char *all, struct err *e)
{
	int n, ret = 0;
	int64_t *steps = list(all, ASIDE, &n);

	for (int i = 0; i < n && !ret; i++) {
		char *aside = path_of(all, steps[i], ASIDE), *final = path_of(all, steps[i], "");
		if (!file_exists(final))
			ret = file_rename_synced(aside, final, e);
		free(aside);
		free(final);
	}
	free(steps);
	return ret;
}

int checkpoints_sweep(const char *all, struct err *e)
{
	int ret = take_back(all, e);

	if (!ret)
		remove_left(all);
	return ret;
}

int checkpoints_begin(const char *all, int64_t step, char **temp, struct err *e)
{
	*temp = path_of(all, step, TEMP);
	if (!file_mkdirs(all, e) && !take_back(all, e) && !file_remove_tree(*temp, e))
		return 0;
	free(*temp);
	*temp = NULL;
	return -1;
}

/* Under its name a checkpoint is whole, until its end: it loses the name before its files. */
static void retire(const char *all, int64_t step)
{
	char *path = path_of(all, step, ""), *temp = path_of(all, step, TEMP);
	struct err e;

	if (file_remove_tree(temp, &e) || file_rename_synced(path, temp, &e))
		log_warn("%s: the checkpoint is written, but this old one cannot be removed: %s", path,
			 e.msg);
	free(path);
	free(temp);
}

static void prune(const char *all, int64_t step, int64_t keep)
{
	int n;
	int64_t *steps = list(all, "", &n);

	/* who went back to an earlier one may want those beyond again; they are replaced in time */
	while (n && steps[n - 1] > step)
		n--;
	for (int i = 0; i < n - keep; i++)
		retire(all, steps[i]);
	free(steps);
	remove_left(all);
}

int checkpoints_put(const char *all, int64_t step, const char *temp, int64_t keep, struct err *e)
{
	char *name = checkpoints_name(step), *final = file_join(all, name),
	     *aside = path_of(all, step, ASIDE), *latest = file_join(all, "latest");
	int ret = file_put_tree(temp, final, aside, e) || file_write(latest, name, strlen(name), e) ? -1 : 0;

	if (!ret)
		prune(all, step, keep);
	free(name);
	free(final);
	free(aside);
	free(latest);
	return ret;
}
