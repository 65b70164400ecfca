/*
 * scoring.h -- the answer to a request (request.h): its images through a mixture.
 *
 * {"scores": [{"score": 1.5, "rewards": {"ocr": {"score": 1.5}, ...}}, {"error": "ocr: ..."}]}: an entry an
 * item, in order.  `score` is the total, the sum of weight * score; `rewards` has each reward's own score and
 * sub-scores, null where there is none.  An item that lacks any reward's score has no `score` but `error`.
 */
#ifndef SCORING_H
#define SCORING_H
#include "rewards/mixture/mixture.h"
#include "rewards/judges/request.h"

/* JSON text, free() it; in any number of threads at once.  What is not scored when clock_now() is `end` is an
 * error.  Rewards are asked first whether they can score a prompt. */
char *scoring_answer(struct mixture *m, const struct request *r, double end);

#endif
