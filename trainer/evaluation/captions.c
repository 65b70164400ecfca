#include "trainer/evaluation/captions.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "base/text.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static enum sheet_verdict verdict_of(const struct mixture *m, const struct mixture_scores *s, int i)
{
	int judge = mixture_judge(m, s->set[i]);
	double strict = judge < 0 ? NAN : mixture_sub_of(m, s, judge, i, "strict");

	return isnan(strict) ? SHEET_NEITHER : strict > 0 ? SHEET_RIGHT : SHEET_WRONG;
}

/* What the rewards say of it, or why they cannot score it. */
static struct text why_of(const struct mixture_scores *s, int i)
{
	struct text t = { 0 };

	text_add(&t, "");
	for (int k = 0; k < s->rewards; k++) {
		const char *why = s->reason[k * s->n + i];

		if (*why)
			text_printf(&t, "%s%s", t.n ? "; " : "", why);
	}
	return t;
}

static char *note_of(const struct mixture_scores *s, int i)
{
	struct text why = why_of(s, i);
	char score[32];

	snprintf(score, sizeof score, "%.2f", s->total[i]);
	char *note = mem_printf("%s%s%s", isnan(s->total[i]) ? "no score:" : score, why.n ? " " : "", why.s);
	text_free(&why);
	return note;
}

static json_t *json_of(const struct mixture *m, const struct mixture_scores *s, int i,
		       enum sheet_verdict verdict)
{
	struct text why = why_of(s, i);
	json_t *j = json_object(), *rewards = json_object();

	json_object_set_new(j, "reward", json_number(s->total[i]));
	if (verdict != SHEET_NEITHER)
		json_object_set_new(j, "strict", json_integer(verdict == SHEET_RIGHT));
	for (int k = 0; k < s->rewards; k++)
		if (!isnan(mixture_weight(m, k, s->set[i])))
			json_object_set_new(rewards, mixture_at(m, k)->name,
					    json_number(s->value[k * s->n + i]));
	json_object_set_new(j, "rewards", rewards);
	if (why.n)
		json_object_set_new(j, "why", json_words(why.s));
	text_free(&why);
	return j;
}

void captions_score(struct mixture *m, const struct reward_item *item, int n, struct sheet_tile *tile,
		    json_t *each)
{
	struct mixture_scores s;

	mixture_scores_init(&s, n, mixture_count(m));
	mixture_scores_keep_reasons(&s);
	s.check = s.held_out = true;
	mixture_begin(m, &s);
	mixture_submit(m, &s, 0, item, n);
	mixture_submit_groups(m, &s, item, n);
	mixture_wait_unless(m, &s, stop_asked);
	mixture_total(m, &s, NULL, 0);
	for (int i = 0; i < n; i++) {
		tile[i].note = note_of(&s, i);
		tile[i].verdict = verdict_of(m, &s, i);
		if (each)
			json_array_append_new(each, json_of(m, &s, i, tile[i].verdict));
	}
	mixture_scores_free(&s);
}

void captions_free(struct sheet_tile *tile, int n)
{
	for (int i = 0; i < n; i++)
		free((char *)(uintptr_t)tile[i].note);
}
