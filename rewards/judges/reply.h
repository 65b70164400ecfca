/*
 * reply.h -- what judges outside this program get and say: the protocol of `http` and `exec`.
 *
 * They get {"version": 1, "items": [{"prompt": ..., "meta": {...}, ...image...}, ...]} and answer with
 * {"scores": [...]}, one entry an item, in order: a number, or {"score": number}, or null, NaN or
 * {"error": "why"} for what cannot be scored.  {"error": "why"} in place of the list, or anything else, makes
 * all of them unavailable.  With "group": true beside the items, they are all the images of one prompt.
 *
 * Beside "score" an entry may have sub-scores, which the key `sub_scores` names, and "why", what there is to
 * say of the score; both may also stand in serve-reward's "rewards": {NAME: {...}} (scoring.h).
 */
#ifndef REPLY_H
#define REPLY_H
#include "base/json.h"
#include "rewards/reward.h"

/* For `check`: JSON cannot hold a prompt that is no UTF-8. */
int reply_check(void *state, const char *prompt, const char *meta, struct err *e);
/* {"version": 1, "items": [{"prompt": ..., "meta": ...}, ...]}, with "group": true for a group. */
json_t *reply_request(const struct reward_item *item, int n, bool group);
/* The key `group` of these judges. */
#define REPLY_GROUP_DOC                                                                                      \
	"all images of a prompt are sent in one request, so that they can be ranked or compared"
/* Their key `sub_scores`. */
#define REPLY_SUBS_DOC                                                                                       \
	"names of sub-scores that its answers have beside `score`; `strict` and `correct` are GenEval's, "   \
	"for "                                                                                               \
	"evaluations, and come from a serve-reward that has it"
/* Scores from an answer's text.  An answer that is none makes all unavailable; the reason is in e too. */
int reply_scores(struct reward_score *out, int n, const struct conf_list *subs, const char *text, size_t size,
		 struct err *e);

#endif
