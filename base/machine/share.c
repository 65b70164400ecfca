#include "base/machine/share.h"
#include "base/file.h"
#include "base/mem.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char marker; /* whose address says which file this is a part of */

/* Under one of the folders above `file`: at most `levels` of them. */
static char *find_above(const char *file, int levels, const char *path)
{
	char *folder = file_dir(file), *found = NULL;

	for (int i = 0; i < levels && !found; i++) {
		char *above = file_dir(folder);

		free(folder);
		folder = above;
		found = mem_printf("%s/share/contraflow/%s", folder, path);
		if (!file_exists(found)) {
			free(found);
			found = NULL;
		}
	}
	free(folder);
	return found;
}

char *share_find(const char *path)
{
	char file[PATH_MAX];
	Dl_info self;

	if (!*path || *path == '/' || file_exists(path))
		return NULL;
	/* a part of the library: PREFIX/lib/libcontraflow.so.0, or a folder deeper */
	if (dladdr(&marker, &self) && self.dli_fname && strstr(self.dli_fname, ".so") &&
	    realpath(self.dli_fname, file))
		return find_above(file, 2, path);
	ssize_t n = readlink("/proc/self/exe", file, sizeof file - 1);
	if (n <= 0)
		return NULL;
	file[n] = '\0';
	return find_above(file, 1, path);
}

void share_replace(char **path)
{
	char *found = share_find(*path);

	if (!found)
		return;
	free(*path);
	*path = found;
}
