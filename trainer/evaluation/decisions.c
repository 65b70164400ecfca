/* decisions.c -- what a run makes of an evaluation: the score that ends it, the alarm, and what the progress
 * line says. */
#include "base/log.h"
#include "base/text.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static void ring(struct trainer *t, const char *why)
{
	const struct eval_conf *c = &t->x->eval;
	const char *then = "";

	if (!strcmp(c->alarm, "stop")) {
		t->alarm.stopped = true;
		then = ": this ends here (eval.alarm)";
	}
	if (!strcmp(c->alarm, "kl")) {
		t->alarm.kl = c->alarm_kl * (t->alarm.kl > 0 ? t->alarm.kl : 1);
		then = ": the weight of the KL term is raised (eval.alarm_kl)";
	}
	if (t->dist->rank == 0)
		log_warn("step %lld: %s%s", (long long)t->at.step, why, then);
}

void trainer_take_evaluation(struct trainer *t, const struct eval_result *r)
{
	double lacking = eval_lacking(r);
	struct text why = { 0 };
	bool first = t->at.stage_step == 0;

	if (lacking > t->x->eval.max_unavailable) {
		if (t->dist->rank == 0)
			log_warn("evaluation: %.0f %% of the images have no score (eval.max_unavailable is "
				 "%g): its numbers decide nothing; %s",
				 100 * lacking, t->x->eval.max_unavailable, r->why);
		return;
	}
	if (!first) /* a stage has at least a step */
		t->at.held_out = eval_held_out(r)->mean;
	if (strcmp(t->x->eval.alarm, "none") && alarm_look(&t->alarm, r, &why))
		ring(t, why.s);
	text_free(&why);
}

void trainer_note(const struct trainer *t, const struct samples *s, const struct update_stats *u,
		  const struct eval_result *eval, char *note, size_t size)
{
	const struct eval_result *r = eval->n_tags ? eval : &t->before;
	double strict = 0, n = 0, held_out = r->n_tags ? eval_held_out(r)->mean : NAN;
	int at = 0;

	if (!eval->n_tags && !isnan(t->at.held_out)) /* of before the run was resumed */
		held_out = t->at.held_out;
	for (int64_t i = 0; i < s->n; i++)
		if (!isnan(s->strict[i])) {
			strict += s->strict[i];
			n++;
		}
	/* side by side only what is measured alike */
	if (n > 0 && (r->has[EVAL_STRICT] || !r->n_tags))
		at = snprintf(note, size, "reward %.3f  strict %.3f", s->stats.reward_mean, strict / n);
	else
		at = snprintf(note, size, "reward %.3f", s->stats.reward_mean);
	if (!isnan(held_out) && at > 0 && (size_t)at < size)
		at += snprintf(note + at, size - (size_t)at, "  held-out %s%.3f",
			       r->has[EVAL_STRICT] ? "strict " : "", held_out);
	if (at > 0 && (size_t)at < size)
		snprintf(note + at, size - (size_t)at, "  grad %.2g  %.1f s/step", u->grad_norm,
			 s->rollout_seconds + s->reward_wait_seconds + u->seconds);
}
