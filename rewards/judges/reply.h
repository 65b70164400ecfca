/*
 * reply.h -- what judges outside this program get and say: the protocol of `http` and `exec`.
 *
 * They get {"version": 1, "items": [{"prompt": ..., "meta": {...}, ...image...}, ...]} and answer with
 * {"scores": [...]}, one entry an item, in order: a number, or {"score": number}, or null or {"error": "why"}
 * for what cannot be scored.  Anything else makes all of them unavailable.  With "group": true beside the
 * items, they are all the images of one prompt.
 */
#ifndef REPLY_H
#define REPLY_H
#include "base/json.h"
#include "rewards/reward.h"

/* {"version": 1, "items": [{"prompt": ..., "meta": ...}, ...]}, with "group": true for a group. */
json_t *reply_request(const struct reward_item *item, int n, bool group);
/* The key `group` of these judges. */
#define REPLY_GROUP_DOC                                                                                      \
	"all images of a prompt are sent in one request, so that they can be ranked or compared"
/* Scores from an answer's text; on an error all are unavailable, and the reason is in e too. */
int reply_scores(struct reward_score *out, int n, const char *text, size_t size, struct err *e);

#endif
