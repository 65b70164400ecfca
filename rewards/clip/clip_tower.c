#include "rewards/clip/clip_tower.h"
#include "base/mem.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct clip_tower *towers;
static pthread_mutex_t towers_lock = PTHREAD_MUTEX_INITIALIZER;

int clip_tower_open(struct clip_tower **out, const char *dir, enum at_dtype dt, enum at_device dev,
		    struct err *e)
{
	struct clip_tower *t;
	int ret = 0;

	pthread_mutex_lock(&towers_lock);
	for (t = towers; t; t = t->next)
		if (!strcmp(t->dir, dir) && t->dtype == dt && t->device == dev)
			break;
	if (!t) {
		t = mem_zero(1, sizeof *t);
		ret = clip_open(&t->clip, dir, dt, dev, e);
		if (ret) {
			free(t);
		} else {
			t->dir = mem_str(dir);
			t->dtype = dt;
			t->device = dev;
			t->next = towers;
			towers = t;
		}
	}
	if (!ret) {
		t->users++;
		*out = t;
	}
	pthread_mutex_unlock(&towers_lock);
	return ret;
}

int clip_tower_load(struct clip_tower *t, struct err *e)
{
	pthread_mutex_lock(&towers_lock);
	int ret = t->loaded ? 0 : clip_load(&t->clip, e);
	t->loaded |= !ret;
	pthread_mutex_unlock(&towers_lock);
	return ret;
}

void clip_tower_close(struct clip_tower *t)
{
	pthread_mutex_lock(&towers_lock);
	if (--t->users == 0) {
		struct clip_tower **at = &towers;

		while (*at != t)
			at = &(*at)->next;
		*at = t->next;
		clip_release(&t->clip);
		free(t->dir);
		free(t);
	}
	pthread_mutex_unlock(&towers_lock);
}
