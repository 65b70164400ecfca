/* eval_report.c -- an evaluation's numbers as JSON, and back; as a table; as metrics. */
#include "base/mem.h"
#include "trainer/evaluation/eval_result.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[EVAL_KINDS] = { "geneval", "strict", "soft" };

/* ---- JSON ---------------------------------------------------------------------------------------- */

void eval_put_number(json_t *j, const char *key, const struct eval_number *v)
{
	char *in = mem_printf("%s_95", key);

	json_object_set_new(j, key, json_number(v->mean));
	json_object_set_new(j, in,
			    isnan(v->in.low)
				? json_null()
				: json_pack("[o, o]", json_number(v->in.low), json_number(v->in.high)));
	free(in);
}

static json_t *rewards_json(const struct eval_result *r)
{
	json_t *all = json_object();

	for (int k = 0; k < r->n_rewards; k++) {
		json_t *o = json_object();

		eval_put_number(o, "score", &r->reward[k].score);
		json_object_set_new(o, "images", json_integer(r->reward[k].score.n));
		if (r->reward[k].watched)
			json_object_set_new(o, "watched", json_true());
		json_object_set_new(all, r->reward[k].name, o);
	}
	return all;
}

json_t *eval_json(const struct eval_result *r)
{
	json_t *tags = json_object(), *j = json_object();

	for (int i = 0; i < r->n_tags; i++) {
		const struct eval_tag *t = &r->tag[i];
		json_t *o = json_pack("{s:I, s:I}", "images", (json_int_t)t->images, "prompts",
				      (json_int_t)t->prompts);

		for (int k = 0; k < EVAL_KINDS; k++)
			eval_put_number(o, kinds[k], &t->of[k]);
		json_object_set_new(tags, t->name, o);
	}
	for (int k = 0; k < EVAL_KINDS; k++) {
		struct eval_number none = { NAN, { NAN, NAN }, 0 };
		char *count = mem_printf("%s_images", kinds[k]);

		eval_put_number(j, kinds[k], r->has[k] ? &r->of[k] : &none);
		if (r->has[k])
			json_object_set_new(j, count, json_integer(r->of[k].n));
		free(count);
	}
	eval_put_number(j, "reward", &r->total);
	json_object_set_new(j, "images", json_integer(r->images));
	json_object_set_new(j, "unavailable", json_integer(r->unavailable));
	json_object_set_new(j, "prompts", json_integer(r->prompts));
	json_object_set_new(j, "rewards", rewards_json(r));
	json_object_set_new(j, "tags", tags);
	json_object_set_new(j, "seconds", json_number(r->seconds));
	if (r->n_sets) {
		json_t *sets = json_object();

		for (int i = 0; i < r->n_sets; i++)
			json_object_set_new(sets, r->set[i].name, eval_json(&r->set[i]));
		json_object_set_new(j, "sets", sets);
	}
	return j;
}

int eval_get_number(struct eval_number *v, const json_t *j, const char *key, const char *what, struct err *e)
{
	char *in = mem_printf("%s_95", key);
	const json_t *pair = json_object_get(j, in), *low = json_array_get(pair, 0),
		     *high = json_array_get(pair, 1);

	free(in);
	v->in = (struct interval) { NAN, NAN };
	if (json_is_number(low) && json_is_number(high))
		v->in = (struct interval) { json_number_value(low), json_number_value(high) };
	return json_get_number(&v->mean, j, key, NAN, what, e);
}

static int get_rewards(struct eval_result *r, const json_t *all, const char *what, struct err *e)
{
	const char *name;
	json_t *o;

	r->reward = mem_zero(json_object_size(all) + 1, sizeof *r->reward);
	json_object_foreach((json_t *)(uintptr_t)all, name, o)
	{
		struct eval_reward *k = &r->reward[r->n_rewards++];

		*k = (struct eval_reward) { .name = mem_str(name) };
		if (eval_get_number(&k->score, o, "score", what, e) ||
		    json_get_int(&k->score.n, o, "images", 0, what, e) ||
		    json_get_bool(&k->watched, o, "watched", false, what, e))
			return -1;
	}
	return 0;
}

static int get_tag(struct eval_result *r, const char *name, const json_t *o, const char *what, struct err *e)
{
	struct eval_tag *t = &MEM_PUSH(r->tag, r->n_tags, r->cap_tags);

	*t = (struct eval_tag) { .name = mem_str(name) };
	for (int k = 0; k < EVAL_KINDS; k++)
		if (eval_get_number(&t->of[k], o, kinds[k], what, e))
			return -1;
	return json_get_int(&t->images, o, "images", 0, what, e) ||
		       json_get_int(&t->prompts, o, "prompts", 0, what, e)
		   ? -1
		   : 0;
}

static int get_sets(struct eval_result *r, const json_t *all, const char *what, struct err *e)
{
	const char *name;
	json_t *o;

	if (!json_is_object(all))
		return 0;
	r->set = mem_zero(json_object_size(all) + 1, sizeof *r->set);
	json_object_foreach((json_t *)(uintptr_t)all, name, o)
	{
		struct eval_result *set = &r->set[r->n_sets++];

		if (eval_from_json(set, o, what, e))
			return -1;
		set->name = mem_str(name);
	}
	return 0;
}

int eval_from_json(struct eval_result *r, const json_t *j, const char *what, struct err *e)
{
	const char *name;
	json_t *o;

	eval_release(r);
	for (int k = 0; k < EVAL_KINDS; k++) {
		char *count = mem_printf("%s_images", kinds[k]);
		int ret = eval_get_number(&r->of[k], j, kinds[k], what, e) ||
			  json_get_int(&r->of[k].n, j, count, 0, what, e);

		/* files from before the count have a number or no such score */
		r->has[k] = json_object_get(j, count) || json_is_number(json_object_get(j, kinds[k]));
		free(count);
		if (ret)
			return -1;
	}
	if (eval_get_number(&r->total, j, "reward", what, e) ||
	    json_get_int(&r->images, j, "images", 0, what, e) ||
	    json_get_int(&r->unavailable, j, "unavailable", 0, what, e) ||
	    json_get_int(&r->prompts, j, "prompts", 0, what, e) ||
	    json_get_number(&r->seconds, j, "seconds", 0, what, e) ||
	    get_rewards(r, json_object_get(j, "rewards"), what, e) ||
	    get_sets(r, json_object_get(j, "sets"), what, e))
		return -1;
	json_object_foreach((json_t *)(uintptr_t)json_object_get(j, "tags"), name, o)
	{
		if (get_tag(r, name, o, what, e))
			return -1;
	}
	return 0;
}

/* ---- A table ------------------------------------------------------------------------------------- */

#define NAME 20

static void print_cell(double v, const char *fmt)
{
	if (isnan(v))
		printf(" %8s", "-");
	else
		printf(fmt, v);
}

static void print_interval(struct interval in)
{
	if (!isnan(in.low))
		printf("%.3f to %.3f", in.low, in.high);
	else
		printf("-");
}

/* Which verdicts make columns; returns how many. */
static int columns_of(const struct eval_result *r, int *column)
{
	int n = 0;

	for (int k = 0; k < EVAL_KINDS; k++)
		if (r->has[k] && (k != EVAL_SOFT || !r->has[EVAL_STRICT]))
			column[n++] = k;
	return n;
}

static const char *title_of(const struct eval_result *r, int kind)
{
	return kind != EVAL_SOFT || r->has[EVAL_STRICT] ? kinds[kind] : "reward";
}

static void print_values(const struct eval_number *before, const struct eval_number *after, int column)
{
	printf("%s", after && column ? "   " : "");
	print_cell(before->mean, " %8.3f");
	if (after) {
		print_cell(after->mean, " %8.3f");
		print_cell(after->mean - before->mean, " %+8.3f");
	}
}

static const struct eval_tag *find_tag(const struct eval_result *r, const char *name, int likely)
{
	if (likely < r->n_tags && !strcmp(r->tag[likely].name, name))
		return &r->tag[likely];
	for (int i = 0; i < r->n_tags; i++)
		if (!strcmp(r->tag[i].name, name))
			return &r->tag[i];
	return NULL;
}

static void print_head(const struct eval_result *r, const int *column, int n, bool both)
{
	printf("\n  %-*s", NAME, "");
	for (int k = 0; k < n; k++)
		printf(" %8s%*s", title_of(r, column[k]), both && k + 1 < n ? 21 : 0, "");
	if (both) {
		printf("\n  %-*s", NAME, "");
		for (int k = 0; k < n; k++)
			printf("%s %8s %8s %8s", k ? "   " : "", "before", "after", "change");
	}
	printf("\n");
}

static void print_tags(const struct eval_result *before, const struct eval_result *after, const int *column,
		       int n)
{
	static const struct eval_number none = { NAN, { NAN, NAN }, 0 };

	/* by name: a result that was read from a file has its tags in another order */
	for (int i = 0; i < before->n_tags; i++) {
		const char *name = before->tag[i].name;
		const struct eval_tag *same = after ? find_tag(after, name, i) : NULL;

		printf("  %-*s", NAME, name);
		for (int k = 0; k < n; k++)
			print_values(&before->tag[i].of[column[k]],
				     !after ? NULL
				     : same ? &same->of[column[k]]
					    : &none,
				     k);
		printf("\n");
	}
}

/* Scores of single rewards, where they say more than the rows above. */
static void print_rewards(const struct eval_result *before, const struct eval_result *after)
{
	if (before->n_rewards < 2)
		return;
	for (int k = 0; k < before->n_rewards; k++) {
		const struct eval_reward *r = &before->reward[k], *same = NULL;

		for (int i = 0; after && i < after->n_rewards; i++)
			if (!strcmp(after->reward[i].name, r->name))
				same = &after->reward[i];
		char *name = mem_printf("%s%s", r->name, r->watched ? " (watched)" : "");
		printf("  %-*s", NAME, name);
		print_values(&r->score, same ? &same->score : NULL, 0);
		printf("\n");
		free(name);
	}
}

static const struct eval_result *find_set(const struct eval_result *r, const char *name)
{
	for (int i = 0; r && i < r->n_sets; i++)
		if (!strcmp(r->set[i].name, name))
			return &r->set[i];
	return NULL;
}

void eval_print(const struct eval_result *before, const struct eval_result *after, const char *what)
{
	for (int i = 0; i < before->n_sets; i++) {
		const struct eval_result *set = &before->set[i], *same = find_set(after, set->name);
		char *name = mem_printf("%s of set %s", what, set->name);

		if (same || !after)
			eval_print(set, same, name);
		free(name);
	}
	const struct eval_result *last = after ? after : before;
	int column[EVAL_KINDS], n = columns_of(before, column);

	print_head(before, column, n, after != NULL);
	print_tags(before, after, column, n);
	printf("  %-*s", NAME, "overall");
	for (int k = 0; k < n; k++)
		print_values(&before->of[column[k]], after ? &after->of[column[k]] : NULL, k);
	printf("\n");
	if (before->has[EVAL_STRICT]) {
		printf("  %-*s", NAME, "soft");
		print_values(&before->of[EVAL_SOFT], after ? &after->of[EVAL_SOFT] : NULL, 0);
		printf("\n");
	}
	print_rewards(before, after);
	printf("  (%lld %s of %lld different prompts", (long long)last->images, what,
	       (long long)last->prompts);
	if (last->unavailable)
		printf(", %lld without a score", (long long)last->unavailable);
	printf("; 95 %% intervals by prompts:");
	for (int k = 0; k < n; k++) {
		printf("%s %s ", k ? "," : "", title_of(before, column[k]));
		print_interval(last->of[column[k]].in);
	}
	printf(")\n");
	fflush(stdout);
}

static void print_ahead(const char *name, const struct eval_number *v)
{
	printf("  %-*s", NAME, name);
	print_cell(v->mean, " %+8.3f");
	if (!isnan(v->in.low))
		printf("   %+.3f to %+.3f%s", v->in.low, v->in.high,
		       v->in.low > 0 || v->in.high < 0 ? "" : " (no difference is shown)");
	printf("\n");
}

void eval_print_difference(const struct eval_result *d, const char *a, const char *b)
{
	for (int i = 0; i < d->n_sets; i++) {
		char *one = mem_printf("set %s: %s", d->set[i].name, a);

		eval_print_difference(&d->set[i], one, b);
		free(one);
	}
	printf("\n  %s minus %s, pair by pair, with 95 %% intervals by prompts:\n", a, b);
	for (int k = 0; k < EVAL_KINDS; k++)
		if (d->has[k])
			print_ahead(title_of(d, k), &d->of[k]);
	for (int k = 0; k < d->n_rewards && d->n_rewards > 1; k++)
		print_ahead(d->reward[k].name, &d->reward[k].score);
	fflush(stdout);
}

/* ---- Metrics ------------------------------------------------------------------------------------- */

static void add(struct metrics *m, const char *set, const char *begin, const char *end, double v)
{
	char *name =
	    mem_printf("eval/%s%s%s%s%s", set ? set : "", set ? "/" : "", begin, *end ? "/" : "", end);

	metrics_add(m, name, v);
	free(name);
}

void eval_add_metrics(const struct eval_result *r, struct metrics *m)
{
	int column[EVAL_KINDS], n = columns_of(r, column);

	for (int i = 0; i < r->n_sets; i++)
		eval_add_metrics(&r->set[i], m);
	for (int k = 0; k < EVAL_KINDS; k++)
		if (r->has[k])
			add(m, r->name, kinds[k], "", r->of[k].mean);
	add(m, r->name, "low", "", eval_held_out(r)->in.low);
	add(m, r->name, "high", "", eval_held_out(r)->in.high);
	add(m, r->name, "reward", "", r->total.mean);
	for (int k = 0; k < r->n_rewards; k++)
		add(m, r->name, "reward", r->reward[k].name, r->reward[k].score.mean);
	add(m, r->name, "unavailable", "", (double)r->unavailable);
	for (int k = 0; k < n; k++)
		for (int i = 0; i < r->n_tags; i++)
			add(m, r->name, kinds[column[k]], r->tag[i].name, r->tag[i].of[column[k]].mean);
	for (int i = 0; i < r->n_tags; i++) {
		const struct eval_number *held_out =
		    &r->tag[i].of[r->has[EVAL_STRICT] ? EVAL_STRICT : EVAL_SOFT];

		add(m, r->name, "low", r->tag[i].name, held_out->in.low);
		add(m, r->name, "high", r->tag[i].name, held_out->in.high);
	}
}
