#include "base/machine/share.h"
#include "base/file.h"
#include "base/mem.h"
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

char *share_find(const char *path)
{
	char program[PATH_MAX], *bin, *prefix, *found = NULL;
	ssize_t n;

	if (!*path || *path == '/' || file_exists(path))
		return NULL;
	n = readlink("/proc/self/exe", program, sizeof program - 1);
	if (n <= 0)
		return NULL;
	program[n] = '\0';
	bin = file_dir(program);
	prefix = file_dir(bin);
	found = mem_printf("%s/share/contraflow/%s", prefix, path);
	free(bin);
	free(prefix);
	if (file_exists(found))
		return found;
	free(found);
	return NULL;
}

void share_replace(char **path)
{
	char *found = share_find(*path);

	if (!found)
		return;
	free(*path);
	*path = found;
}
