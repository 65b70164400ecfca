/*
 * alarm.h -- rewards that nobody trains on, watched for a fall while the trained reward rises: the sign that
 * a run games its reward.
 *
 * Each watched reward has a mark: the evaluation where it was best, with the total there.  It has fallen when
 * the interval of its distance from the mark is below 0, and the total has risen when that of its distance is
 * above 0; both by the intervals of the two means, as if these were independent (they share prompts and
 * noise, so that this asks for more).  After an alarm the mark is where it rang: it rings again for a further
 * fall alone.  Each set of prompts has marks of its own, SET/REWARD, beside that set's total.
 */
#ifndef ALARM_H
#define ALARM_H
#include "trainer/evaluation/eval_result.h"

struct alarm {
	struct alarm_mark {
		char *name;
		struct eval_number best, total;
	} * mark;
	int n, cap;
	double kl;    /* by what the pull to the base is multiplied, once it rang; 0: by nothing */
	bool stopped; /* it rang, and that was to end the stage */
};
/* Looks at an evaluation that counts.  True: it rings, and `why` says which reward fell how far. */
bool alarm_look(struct alarm *a, const struct eval_result *r, struct text *why);
void alarm_release(struct alarm *a); /* back to { 0 } */

json_t *alarm_json(const struct alarm *a); /* new reference */
/* *a is { 0 } or an earlier one, which is released; `j` may be NULL: { 0 }. */
int alarm_from_json(struct alarm *a, const json_t *j, const char *what, struct err *e);

#endif
