#include "rewards/judges/scoring.h"
#include <math.h>
#include <string.h>

json_t *scoring_reward(const struct mixture *m, const struct mixture_scores *s, int k, int i)
{
	const struct mixture_entry *entry = mixture_at(m, k);
	const double *sub = s->sub + (size_t)(k * s->n + i) * REWARD_SUBS;
	const char *why = s->reason[k * s->n + i];
	json_t *o = json_object();

	json_object_set_new(o, "score", json_number(s->value[k * s->n + i]));
	for (int j = 0; mixture_sub(entry, j); j++)
		json_object_set_new(o, mixture_sub(entry, j), json_number(sub[j]));
	if (*why)
		json_object_set_new(o, "why", json_words(why));
	return o;
}

static json_t *each_reward(const struct mixture *m, const struct mixture_scores *s, int i)
{
	json_t *all = json_object();

	for (int k = 0; k < s->rewards; k++)
		json_object_set_new(all, mixture_at(m, k)->name, scoring_reward(m, s, k, i));
	return all;
}

/* The first of the rewards that could not score sample i, and why. */
static json_t *why_not(const struct mixture *m, const struct mixture_scores *s, int i)
{
	struct err e;

	err_set(&e, "the total is not a finite number");
	for (int k = 0; k < s->rewards; k++)
		if (isnan(s->value[k * s->n + i]) && mixture_at(m, k)->weight != 0) {
			err_set(&e, "%s: %s", mixture_at(m, k)->name, s->reason[k * s->n + i]);
			break;
		}
	return json_words(e.msg);
}

json_t *scoring_json(const struct mixture *m, const struct mixture_scores *s)
{
	json_t *answer = json_object(), *list = json_array();

	for (int i = 0; i < s->n; i++) {
		bool ok = isfinite(s->total[i]);
		json_t *o = json_object();

		json_object_set_new(o, ok ? "score" : "error",
				    ok ? json_number(s->total[i]) : why_not(m, s, i));
		json_object_set_new(o, "rewards", each_reward(m, s, i));
		json_array_append_new(list, o);
	}
	json_object_set_new(answer, "scores", list);
	return answer;
}

char *scoring_answer(struct mixture *m, const struct request *r, double end)
{
	struct mixture_scores s;

	mixture_scores_init(&s, r->n, mixture_count(m));
	mixture_scores_keep_reasons(&s);
	s.check = true;
	mixture_begin(m, &s);
	mixture_submit(m, &s, 0, r->item, r->n);
	mixture_submit_groups(m, &s, r->item, r->n);
	mixture_wait_until(m, &s, end);
	mixture_total(m, &s, NULL, 0);
	json_t *answer = scoring_json(m, &s);
	char *text = json_line(answer);
	json_decref(answer);
	mixture_scores_free(&s);
	return text;
}
