/*
 * album.h -- sampled images that stay: a folder with one file an image and the prompts beside them, as
 * data/gallery.h reads them, and album.json, which says how they were made.
 *
 *   flat     DIR/00000-0000.png, and beside it 00000-0000.jsonl (of a prompt file .txt: 00000-0000.txt)
 *   geneval  DIR/00000/metadata.jsonl and DIR/00000/samples/0000.png, as GenEval's own scripts have them
 *
 * Image id is image id % per of prompt id / per.  A folder holds images of one making: what is there whole is
 * not made again, and a folder whose album.json tells of another model, adapter, setting or prompt is
 * refused. All ranks write there.
 */
#ifndef ALBUM_H
#define ALBUM_H
#include "base/image.h"
#include "base/json.h"
#include "data/prompts.h"
#include "dist/dist.h"
#include "trainer/record/runlock.h"

enum album_layout { ALBUM_FLAT, ALBUM_GENEVAL };
extern const char *const album_layouts[]; /* their names, ended by NULL */

struct album_plan {
	const char *dir;
	enum album_layout layout;
	const struct prompts *prompts;
	int64_t per;
	int w, h;
	/* All that the images depend on, of rank 0: {"version", "model", "adapter", "settings": {...}, ...}.
	 * Of `version`, `model`, `adapter` and `prompts`, which are names, a folder may say something else.
	 */
	const json_t *how;
};
struct album {
	struct dist *dist;
	char *dir;
	enum album_layout layout;
	const struct prompts *prompts; /* borrowed */
	int64_t per, n;
	int w, h;
	bool *there;   /* n: it was in the folder already */
	int64_t found; /* so many were */
	json_t *how;
	struct runlock lock; /* of rank 0 */
};
/* Collective.  One process, or job, at a time works in a folder. */
int album_open(struct album *a, struct dist *d, const struct album_plan *plan, struct err *e);
void album_close(struct album *a); /* of { 0 }, too */

/* This rank's share of those that are missing; `id` has room for all. */
int64_t album_missing(const struct album *a, int64_t *id);
int album_put(const struct album *a, int64_t id, const uint8_t *rgb, struct err *e);
int album_get(struct image *im, const struct album *a, int64_t id, struct err *e);
char *album_path(const struct album *a, int64_t id); /* free() */

/* What a PNG says of itself: prompt, sample, and of `how` the rest; the list and its texts are freed by
 * album_notes_free. */
struct image_note *album_notes(const json_t *how, const char *prompt, const char *sample);
void album_notes_free(struct image_note *note);

#endif
