/*
 * scoring.h -- the answer to a request (request.h): its images through a mixture.
 *
 * {"scores": [{"score": 1.5, "rewards": {"ocr": {"score": 1.5}, ...}}, {"error": "ocr: ..."}]}: an entry an
 * item, in order.  `score` is the total, the sum of weight * score; `rewards` has each reward's own score and
 * sub-scores, null where there is none, and `why`, what it says of the score or of its lack, where it does.
 * An item that lacks any reward's score has no `score` but `error`.
 */
#ifndef SCORING_H
#define SCORING_H
#include "rewards/mixture/mixture.h"
#include "rewards/judges/request.h"

/* One reward's own part of that, of sample i of s, whose reasons were kept; new reference. */
json_t *scoring_reward(const struct mixture *m, const struct mixture_scores *s, int k, int i);
/* That answer of a whole set, with its totals and reasons; new reference. */
json_t *scoring_json(const struct mixture *m, const struct mixture_scores *s);
/* JSON text, free() it; in any number of threads at once.  What is not scored when clock_now() is `end` is an
 * error.  Rewards are asked first whether they can score a prompt. */
char *scoring_answer(struct mixture *m, const struct request *r, double end);

#endif
