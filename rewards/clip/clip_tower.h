/* clip_tower.h -- CLIP models that several rewards look through: the same folder, type and device are open
 * once. */
#ifndef CLIP_TOWER_H
#define CLIP_TOWER_H
#include "models/text/clip.h"

struct clip_tower {
	char *dir;
	enum at_dtype dtype;
	enum at_device device;
	int users;
	bool loaded;
	struct clip clip;
	struct clip_tower *next;
};

int clip_tower_open(struct clip_tower **out, const char *dir, enum at_dtype dt, enum at_device dev,
		    struct err *e);
/* Its weights, for all who look through it; those who have not called this only tokenize. */
int clip_tower_load(struct clip_tower *t, struct err *e);
void clip_tower_close(struct clip_tower *t); /* the last user's frees it */

#endif
