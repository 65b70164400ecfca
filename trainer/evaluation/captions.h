/* captions.h -- what stands beneath an image in a picture: its score, and what is wrong with it. */
#ifndef CAPTIONS_H
#define CAPTIONS_H
#include "base/image/sheet.h"
#include "base/json.h"
#include "rewards/mixture/mixture.h"

/* Scores n images, those of a held-out reward as well, and gives each tile a note ("0.50 wanted 2 dogs, found
 * 1") and a verdict, where some reward gives one.  What cannot be scored says so: it is no error.  To `each`,
 * an array or NULL, it adds an object an image: {"reward": total, "strict": 0 or 1 with a verdict, "rewards":
 * {NAME: score}, "why": text where there is something to say}. */
void captions_score(struct mixture *m, const struct reward_item *item, int n, struct sheet_tile *tile,
		    json_t *each);
void captions_free(struct sheet_tile *tile, int n); /* the notes */

#endif
