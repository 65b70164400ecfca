#include "trainer/evaluation/alarm.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct alarm_mark *find(const struct alarm *a, const char *name)
{
	for (int i = 0; i < a->n; i++)
		if (!strcmp(a->mark[i].name, name))
			return &a->mark[i];
	return NULL;
}

/* The lower end of the interval of a - b, of means with intervals of their own. */
static double least_ahead(const struct eval_number *a, const struct eval_number *b)
{
	return a->mean - b->mean - hypot(a->mean - a->in.low, b->in.high - b->mean);
}

static void tell(struct text *why, const struct alarm_mark *m, const struct eval_reward *k,
		 const struct eval_number *total)
{
	text_printf(why, "%s%s fell from %.4g to %.4g while the trained reward rose from %.4g to %.4g",
		    why->n ? "; " : "", m->name, m->best.mean, k->score.mean, m->total.mean, total->mean);
}

bool alarm_look(struct alarm *a, const struct eval_result *r, struct text *why)
{
	bool rings = false;

	for (int i = 0; i < r->n_sets; i++)
		rings |= alarm_look(a, &r->set[i], why);
	for (int i = 0; i < r->n_rewards; i++) {
		const struct eval_reward *k = &r->reward[i];
		char *name = r->name ? mem_printf("%s/%s", r->name, k->name) : mem_str(k->name);
		struct alarm_mark *m = find(a, name);

		if (!k->watched || isnan(k->score.in.low) || isnan(r->total.in.low)) {
			free(name);
			continue;
		}
		bool first = !m;
		if (first) {
			m = &MEM_PUSH(a->mark, a->n, a->cap);
			*m = (struct alarm_mark) { .name = mem_str(name) };
		}
		free(name);
		bool fell =
		    !first && least_ahead(&m->best, &k->score) > 0 && least_ahead(&r->total, &m->total) > 0;
		if (fell)
			tell(why, m, k, &r->total);
		if (first || fell || k->score.mean > m->best.mean) {
			m->best = k->score;
			m->total = r->total;
		}
		rings |= fell;
	}
	return rings;
}

void alarm_release(struct alarm *a)
{
	for (int i = 0; i < a->n; i++)
		free(a->mark[i].name);
	free(a->mark);
	*a = (struct alarm) { 0 };
}

json_t *alarm_json(const struct alarm *a)
{
	json_t *j = json_object(), *marks = json_object();

	for (int i = 0; i < a->n; i++) {
		json_t *o = json_object();

		eval_put_number(o, "best", &a->mark[i].best);
		eval_put_number(o, "total", &a->mark[i].total);
		json_object_set_new(marks, a->mark[i].name, o);
	}
	json_object_set_new(j, "marks", marks);
	json_object_set_new(j, "kl", json_number(a->kl));
	json_object_set_new(j, "stopped", json_boolean(a->stopped));
	return j;
}

int alarm_from_json(struct alarm *a, const json_t *j, const char *what, struct err *e)
{
	const char *name;
	json_t *o;

	alarm_release(a);
	if (json_get_number(&a->kl, j, "kl", 0, what, e) ||
	    json_get_bool(&a->stopped, j, "stopped", false, what, e))
		return -1;
	json_object_foreach((json_t *)(uintptr_t)json_object_get(j, "marks"), name, o)
	{
		struct alarm_mark *m = &MEM_PUSH(a->mark, a->n, a->cap);

		*m = (struct alarm_mark) { .name = mem_str(name) };
		if (eval_get_number(&m->best, o, "best", what, e) ||
		    eval_get_number(&m->total, o, "total", what, e))
			return -1;
	}
	return 0;
}
