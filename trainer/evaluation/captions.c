#include "trainer/evaluation/captions.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "base/text.h"
#include <math.h>
#include <stdlib.h>

static enum sheet_verdict verdict_of(const struct mixture *m, const struct mixture_scores *s, int i)
{
	int judge = mixture_judge(m);
	double strict = judge < 0 ? NAN : mixture_sub_of(m, s, judge, i, "strict");

	return isnan(strict) ? SHEET_NEITHER : strict > 0 ? SHEET_RIGHT : SHEET_WRONG;
}

static char *note_of(const struct mixture_scores *s, int i)
{
	struct text t = { 0 };
	const char *between = " ";

	if (isnan(s->total[i]))
		text_add(&t, "no score:");
	else
		text_printf(&t, "%.2f", s->total[i]);
	for (int k = 0; k < s->rewards; k++) {
		const char *why = s->reason[k * s->n + i];

		if (!*why)
			continue;
		text_printf(&t, "%s%s", between, why);
		between = "; ";
	}
	return t.s;
}

void captions_score(struct mixture *m, const struct reward_item *item, int n, struct sheet_tile *tile)
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
	}
	mixture_scores_free(&s);
}

void captions_free(struct sheet_tile *tile, int n)
{
	for (int i = 0; i < n; i++)
		free((char *)(uintptr_t)tile[i].note);
}
