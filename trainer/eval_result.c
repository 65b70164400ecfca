#include "trainer/eval_result.h"
#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Counting ------------------------------------------------------------------------------------ */

/* NULL: there is none. */
static struct eval_tag *find_tag(const struct eval_result *r, const char *name)
{
	for (int i = 0; i < r->n_tags; i++)
		if (!strcmp(r->tag[i].name, name))
			return &r->tag[i];
	return NULL;
}

static struct eval_tag *tag_of(struct eval_result *r, const char *name)
{
	struct eval_tag *t = find_tag(r, name);

	if (!t)
		MEM_PUSH(r->tag, r->n_tags, r->cap_tags) = (struct eval_tag) { .name = mem_str(name) };
	return t ? t : &r->tag[r->n_tags - 1];
}

static void add(double *sum, int64_t *n, double v)
{
	if (isnan(v))
		return;
	*sum += v;
	++*n;
}

void eval_count(struct eval_result *r, const struct mixture *m, const struct mixture_scores *s, int64_t i,
		const char *tag)
{
	struct eval_tag *t = tag_of(r, *tag ? tag : "all");
	int64_t scored = 0;
	int k = 0, sub = 0;

	r->has_strict = mixture_find_sub(m, "strict", &k, &sub);
	add(&r->total, &scored, s->total[i]);
	r->images += scored;
	r->unavailable += !scored;
	t->images += scored;
	/* a total may stand on the other rewards alone (quorum), and this one's score without a total */
	add(&t->soft, &t->n_soft, r->has_strict ? s->value[k * s->n + i] : s->total[i]);
	if (r->has_strict)
		add(&t->strict, &t->n_strict, s->sub[(k * s->n + i) * REWARD_SUBS + sub]);
}

static double mean(double sum, int64_t n)
{
	return n ? sum / (double)n : NAN;
}

void eval_finish(struct eval_result *r)
{
	int64_t softs = 0, stricts = 0;
	double variance = 0;

	r->total = mean(r->total, r->images);
	for (int i = 0; i < r->n_tags; i++) {
		struct eval_tag *t = &r->tag[i];

		t->soft = mean(t->soft, t->n_soft);
		t->strict = mean(t->strict, t->n_strict);
		add(&r->soft, &softs, t->soft);
		add(&r->strict, &stricts, t->strict);
		variance += t->n_strict ? t->strict * (1 - t->strict) / (double)t->n_strict : 0;
		r->n_strict += t->n_strict;
	}
	r->soft = mean(r->soft, softs);
	r->strict = mean(r->strict, stricts);
	r->strict_95 = 1.96 * mean(sqrt(variance), stricts);
}

void eval_release(struct eval_result *r)
{
	for (int i = 0; i < r->n_tags; i++)
		free(r->tag[i].name);
	free(r->tag);
	*r = (struct eval_result) { 0 };
}

double eval_held_out(const struct eval_result *r)
{
	return r->has_strict ? r->strict : r->soft;
}

/* ---- JSON ---------------------------------------------------------------------------------------- */

json_t *eval_json(const struct eval_result *r)
{
	json_t *tags = json_object(), *j = json_object();

	for (int i = 0; i < r->n_tags; i++) {
		const struct eval_tag *t = &r->tag[i];

		json_object_set_new(tags, t->name,
				    json_pack("{s:o, s:o, s:I}", "strict", json_number(t->strict), "soft",
					      json_number(t->soft), "images", (json_int_t)t->images));
	}
	json_object_set_new(j, "soft", json_number(r->soft));
	json_object_set_new(j, "reward", json_number(r->total));
	json_object_set_new(j, "images", json_integer(r->images));
	json_object_set_new(j, "unavailable", json_integer(r->unavailable));
	json_object_set_new(j, "tags", tags);
	json_object_set_new(j, "seconds", json_number(r->seconds));
	json_object_set_new(j, "strict", json_number(r->has_strict ? r->strict : NAN));
	json_object_set_new(j, "strict_95", json_number(r->has_strict ? r->strict_95 : NAN));
	if (r->has_strict)
		json_object_set_new(j, "strict_images", json_integer(r->n_strict));
	return j;
}

int eval_from_json(struct eval_result *r, const json_t *j, const char *what, struct err *e)
{
	const json_t *tags = json_object_get(j, "tags"), *strict = json_object_get(j, "strict");
	const char *name;
	json_t *v;

	eval_release(r);
	/* files from before `strict_images` have a number or no such score */
	r->has_strict = json_object_get(j, "strict_images") || json_is_number(strict);
	if (json_get_number(&r->soft, j, "soft", 0, what, e) ||
	    json_get_number(&r->total, j, "reward", 0, what, e) ||
	    json_get_number(&r->strict, j, "strict", NAN, what, e) ||
	    json_get_number(&r->strict_95, j, "strict_95", NAN, what, e) ||
	    json_get_int(&r->n_strict, j, "strict_images", 0, what, e) ||
	    json_get_int(&r->images, j, "images", 0, what, e) ||
	    json_get_int(&r->unavailable, j, "unavailable", 0, what, e) ||
	    json_get_number(&r->seconds, j, "seconds", 0, what, e))
		return -1;
	json_object_foreach((json_t *)(uintptr_t)tags, name, v)
	{
		struct eval_tag *t = tag_of(r, name);

		if (json_get_number(&t->strict, v, "strict", NAN, what, e) ||
		    json_get_number(&t->soft, v, "soft", 0, what, e) ||
		    json_get_int(&t->images, v, "images", 0, what, e))
			return -1;
	}
	return 0;
}

/* ---- A table ------------------------------------------------------------------------------------- */

static void print_cell(double v, const char *fmt)
{
	if (isnan(v))
		printf(" %8s", "-");
	else
		printf(fmt, v);
}

static void print_row(const char *name, const struct eval_tag *before, const struct eval_tag *after,
		      bool strict)
{
	double b = strict ? before->strict : before->soft;

	printf("  %-16s", name);
	print_cell(b, " %8.3f");
	if (after) {
		double a = strict ? after->strict : after->soft;

		print_cell(a, " %8.3f");
		print_cell(a - b, " %+8.3f");
	}
	printf("\n");
}

void eval_print(const struct eval_result *before, const struct eval_result *after, const char *what)
{
	static const struct eval_tag none = { .strict = NAN, .soft = NAN };
	const struct eval_result *last = after ? after : before;
	struct eval_tag b = { .strict = before->strict, .soft = before->soft }, a = { 0 };
	bool strict = before->has_strict;

	printf("\n  %-16s %8s%s\n", strict ? "strict score" : "reward", after ? "before" : "score",
	       after ? "    after   change" : "");
	/* by name: a result that was read from a file has its tags in another order */
	for (int i = 0; i < before->n_tags; i++) {
		const char *name = before->tag[i].name;
		const struct eval_tag *same = after ? find_tag(after, name) : NULL;

		print_row(name, &before->tag[i], after ? same ? same : &none : NULL, strict);
	}
	if (after)
		a = (struct eval_tag) { .strict = after->strict, .soft = after->soft };
	print_row("overall", &b, after ? &a : NULL, strict);
	if (strict)
		print_row("soft", &b, after ? &a : NULL, false);
	printf("  (%lld %s", (long long)last->images, what);
	if (last->unavailable)
		printf(", %lld without a score", (long long)last->unavailable);
	if (strict && !isnan(last->strict_95))
		printf(", 95 %% interval of the overall score +-%.3f", last->strict_95);
	printf(")\n");
	fflush(stdout);
}
