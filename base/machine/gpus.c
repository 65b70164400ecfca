#include "base/machine/gpus.h"
#include "base/mem.h"
#include "base/text.h"
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the driver ---- */

const char *gpus_root = "";

/* What is called of NVML, whose header comes with the toolkit: a build without CUDA asks as well. */
struct nvml {
	int (*init)(void);
	int (*count)(unsigned *n);
	int (*handle)(unsigned i, void **device);
	int (*uuid)(void *device, char *out, unsigned size);
	int (*shutdown)(void);
};

/* Calls have C's types at run time alone. */
static int find(void *lib, void *to, const char *name)
{
	void *f = dlsym(lib, name);

	memcpy(to, &f, sizeof f);
	return f ? 0 : -1;
}

/* It counts all GPUs of the machine; one that a control group withholds has no handle, and CUDA leaves it out
 * where it numbers them. */
static int list(const struct nvml *l, struct gpu *all)
{
	unsigned found = 0;
	int n = 0;

	if (l->count(&found))
		return -1;
	for (unsigned i = 0; i < found && n < GPUS_MOST; i++) {
		struct gpu *g = &all[n];
		void *device;

		if (l->handle(i, &device))
			continue;
		*g = (struct gpu) { .id = "" };
		snprintf(g->name, sizeof g->name, "%d", n++);
		if (l->uuid(device, g->id, sizeof g->id))
			*g->id = '\0';
	}
	return n;
}

/* -1: there is no NVML, or it does not work. */
static int ask_nvml(struct gpu *all)
{
	void *lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
	struct nvml l;
	int n = -1;

	if (!lib)
		return -1;
	if (!find(lib, &l.init, "nvmlInit_v2") && !find(lib, &l.count, "nvmlDeviceGetCount_v2") &&
	    !find(lib, &l.handle, "nvmlDeviceGetHandleByIndex_v2") &&
	    !find(lib, &l.uuid, "nvmlDeviceGetUUID") && !find(lib, &l.shutdown, "nvmlShutdown") &&
	    !l.init()) {
		n = list(&l, all);
		l.shutdown();
	}
	dlclose(lib);
	return n;
}

/* Their order is not CUDA's, so which is which is known of a single one alone. */
static int ask_proc(struct gpu *all)
{
	char *path = mem_printf("%s/proc/driver/nvidia/gpus", gpus_root);
	DIR *dir = opendir(path);
	struct dirent *d;
	int n = 0;

	free(path);
	while (dir && n < GPUS_MOST && (d = readdir(dir))) {
		if (*d->d_name == '.')
			continue;
		all[n] = (struct gpu) { .id = "" };
		snprintf(all[n].name, sizeof all[n].name, "%d", n);
		snprintf(all[n].id, sizeof all[n].id, "%.90s", d->d_name);
		n++;
	}
	if (dir)
		closedir(dir);
	for (int i = 0; i < n && n > 1; i++)
		*all[i].id = '\0';
	return n;
}

int gpus_of_machine(struct gpu *all)
{
	int n = ask_nvml(all);

	return n >= 0 ? n : ask_proc(all);
}

/* ---- CUDA_VISIBLE_DEVICES ---- */

/* The one whose UUID begins so; an id that is not known may be any. */
static const struct gpu *by_uuid(const char *name, const struct gpu *all, int n)
{
	const struct gpu *found = NULL;

	for (int i = 0; i < n; i++)
		if (text_starts(all[i].id, name)) {
			if (found)
				return NULL;
			found = &all[i];
		}
	return found;
}

/* False: the entry names no GPU. */
static bool read_entry(struct gpu *out, const char *name, const struct gpu *all, int n)
{
	char *end;
	bool known = n && text_starts(all[0].id, "GPU-");

	*out = (struct gpu) { .id = "" };
	snprintf(out->name, sizeof out->name, "%s", name);
	if (text_starts(name, "MIG-")) { /* a part of a GPU: only CUDA can tell whether there is one */
		memcpy(out->id, out->name, sizeof out->id);
		return true;
	}
	if (text_starts(name, "GPU-")) {
		const struct gpu *g = by_uuid(name, all, n);

		memcpy(out->id, g ? g->id : out->name, sizeof out->id);
		return g || !known;
	}
	long i = strtol(name, &end, 10); /* "1st" is 1, as in CUDA */
	if (end == name || i < 0 || i >= n)
		return false;
	memcpy(out->id, all[i].id, sizeof out->id);
	return true;
}

static bool same(const struct gpu *a, const struct gpu *b)
{
	return !strcmp(a->name, b->name) || (*a->id && !strcmp(a->id, b->id));
}

int gpus_left(struct gpu *out, const char *visible, const struct gpu *all, int n)
{
	int left = 0;

	if (!visible) {
		memcpy(out, all, (size_t)n * sizeof *out);
		return n;
	}
	for (const char *at = visible; n && left < GPUS_MOST; at++) {
		size_t size = strcspn(at, ",");
		const char *next = at + size;
		char name[GPU_NAME];

		while (size && isspace((unsigned char)*at))
			at++, size--;
		while (size && isspace((unsigned char)at[size - 1]))
			size--;
		if (size >= sizeof name)
			break;
		memcpy(name, at, size);
		name[size] = '\0';
		if (!read_entry(&out[left], name, all, n))
			break;
		for (int i = 0; i < left; i++)
			if (same(&out[i], &out[left]))
				return 0;
		left++;
		at = next;
		if (!*at)
			break;
	}
	return left;
}

int gpus_visible(struct gpu *out)
{
	static struct gpu all[GPUS_MOST];

	return gpus_left(out, getenv("CUDA_VISIBLE_DEVICES"), all, gpus_of_machine(all));
}
