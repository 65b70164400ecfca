#include "rewards/geneval/geneval.h"
#include "rewards/geneval/detector.h"
#include "base/mem.h"
#include "base/text.h"
#include "data/clauses.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rules {
	struct clause include[GENEVAL_MAX_CLAUSES], exclude[GENEVAL_MAX_CLAUSES];
	int includes, excludes;
};

/* The best objects of a class, best first. */
struct group {
	const struct geneval_object *v[GENEVAL_MAX_OBJECTS];
	int n;
};

/* ---- metadata ---- */

static int read_rules(struct rules *r, const json_t *meta, struct err *e)
{
	if (!json_is_object(meta))
		return err_set(e, "GenEval metadata: not an object");
	if (clauses_read(r->include, GENEVAL_MAX_CLAUSES, &r->includes, meta, "include", e) ||
	    clauses_read(r->exclude, GENEVAL_MAX_CLAUSES, &r->excludes, meta, "exclude", e))
		return err_in(e, "GenEval metadata");
	if (!r->includes)
		return err_set(
		    e, "GenEval metadata: no \"include\" clauses (is this a prompt file for GenEval?)");
	return 0;
}

static int check_names(const struct clause *c, int n, const char *section, const struct detector *d,
		       struct err *e)
{
	for (int i = 0; i < n; i++) {
		if (c[i].color && !d->colors[0])
			return err_set(e, "%s[%d] asks for a color, which needs rewards.geneval.clip",
				       section, i);
		if ((text_index(c[i].class_name, d->classes) < 0 &&
		     clauses_unknown("class", c[i].class_name, d->classes, e)) ||
		    (c[i].color && text_index(c[i].color, d->colors) < 0 &&
		     clauses_unknown("color", c[i].color, d->colors, e)))
			return err_in(e, "detector %s: %s[%d]", d->type->name, section, i);
	}
	return 0;
}

int geneval_check(const json_t *meta, const struct detector *d, struct err *e)
{
	struct rules r;

	if (read_rules(&r, meta, e) || check_names(r.include, r.includes, "include", d, e) ||
	    check_names(r.exclude, r.excludes, "exclude", d, e))
		return -1;
	return 0;
}

int geneval_colored(const json_t *meta, const char *class_name)
{
	struct rules r;
	struct err unused;
	int most = 0;

	if (read_rules(&r, meta, &unused))
		return 0;
	for (int i = 0; i < r.includes; i++) {
		const struct clause *c = &r.include[i];
		if (c->color && !strcmp(c->class_name, class_name) && c->count > most)
			most = c->count;
	}
	return most;
}

/* ---- objects ---- */

static struct group find(const struct geneval_object *obj, int n, const char *class_name)
{
	struct group g = { .n = 0 };

	for (int i = 0; i < n; i++) {
		if (strcmp(obj[i].class_name, class_name))
			continue;
		/* Insertion from behind: equal scores keep the detector's order. */
		int k = g.n < GENEVAL_MAX_OBJECTS ? g.n++ : GENEVAL_MAX_OBJECTS;
		for (; k > 0 && g.v[k - 1]->score < obj[i].score; k--)
			if (k < GENEVAL_MAX_OBJECTS)
				g.v[k] = g.v[k - 1];
		if (k < GENEVAL_MAX_OBJECTS)
			g.v[k] = &obj[i];
	}
	return g;
}

static double area(double x0, double y0, double x1, double y1)
{
	return fmax(x1 - x0 + 1, 0) * fmax(y1 - y0 + 1, 0);
}

static double overlap(const double *a, const double *b)
{
	double both = area(fmax(a[0], b[0]), fmax(a[1], b[1]), fmin(a[2], b[2]), fmin(a[3], b[3]));
	double either = area(a[0], a[1], a[2], a[3]) + area(b[0], b[1], b[2], b[3]) - both;

	return either > 0 ? both / either : 0;
}

static int copy_apart(struct geneval_object *out, const struct group *g, double max_overlap)
{
	int n = 0;

	for (int i = 0; i < g->n; i++) {
		int k = 0;
		while (k < n && (max_overlap >= 1 || overlap(out[k].box, g->v[i]->box) < max_overlap))
			k++;
		if (k == n)
			out[n++] = *g->v[i];
	}
	return n;
}

int geneval_select(struct geneval_object *obj, int n, const json_t *meta, const struct geneval_limits *limits)
{
	const char *tag = json_string_value(json_object_get(meta, "tag"));
	bool counting = tag && !strcmp(tag, "counting");
	float threshold = (float)(counting ? limits->counting_threshold : limits->threshold);
	struct geneval_object *sure = mem_alloc((size_t)n * sizeof *sure);
	int count = 0, kept = 0;

	for (int i = 0; i < n; i++)
		if ((float)obj[i].score > threshold)
			sure[count++] = obj[i];
	for (int i = 0; i < count; i++) {
		struct group earlier = find(sure, i, sure[i].class_name);
		if (earlier.n)
			continue;
		struct group g = find(sure, count, sure[i].class_name);
		kept += copy_apart(obj + kept, &g, limits->max_overlap);
	}
	free(sure);
	return kept;
}

static int count_color(const struct group *g, const char *color)
{
	int n = 0;

	for (int i = 0; i < g->n; i++)
		n += g->v[i]->color && !strcmp(g->v[i]->color, color);
	return n;
}

static double shorten(double offset, double by)
{
	return offset > by ? offset - by : offset < -by ? offset + by : 0;
}

static bool stands(int relation, const struct geneval_object *a, const struct geneval_object *b)
{
	double d[2], off[2];

	for (int i = 0; i < 2; i++) {
		off[i] = 0.5 * (a->box[i] + a->box[i + 2] - b->box[i] - b->box[i + 2]);
		d[i] = shorten(off[i],
			       0.1 * (fabs(a->box[i + 2] - a->box[i]) + fabs(b->box[i + 2] - b->box[i])));
	}
	if (fabs(d[0]) < 1e-3 && fabs(d[1]) < 1e-3)
		return false;
	/* By the whole distance, not the shortened one: so does the original. */
	double along = d[relation / 2] / hypot(off[0], off[1]);
	return relation % 2 ? along > 0.5 : along < -0.5;
}

static bool all_stand(int relation, const struct group *a, const struct group *b)
{
	for (int i = 0; i < a->n; i++)
		for (int j = 0; j < b->n; j++)
			if (!stands(relation, a->v[i], b->v[j]))
				return false;
	return true;
}

/* ---- verdicts ---- */

/* The original benchmark: the best `count` objects decide; "at least" instead of "exactly". */
static bool judge_correct(const struct rules *r, const struct geneval_object *obj, int n)
{
	struct group matched[GENEVAL_MAX_CLAUSES];

	for (int i = 0; i < r->includes; i++) {
		const struct clause *c = &r->include[i];
		struct group *g = &matched[i];
		*g = find(obj, n, c->class_name);
		if (g->n < c->count)
			return false;
		g->n = c->count;
		if (c->color && count_color(g, c->color) < c->count)
			return false;
		if (c->relation >= 0 && !all_stand(c->relation, g, &matched[c->target]))
			return false;
	}
	for (int i = 0; i < r->excludes; i++)
		if (find(obj, n, r->exclude[i].class_name).n >= r->exclude[i].count)
			return false;
	return true;
}

struct tally {
	double sum;
	int terms;
	bool bounded; /* partial scores kept in [0, 1] */
	char *why;    /* sizeof geneval_result.why bytes */
};

static void score(struct tally *t, double partial)
{
	t->sum += t->bounded ? fmin(fmax(partial, 0), 1) : partial;
	t->terms++;
}

/* Keeps the first reason. */
static void blame(struct tally *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void blame(struct tally *t, const char *fmt, ...)
{
	va_list ap;

	if (t->why[0])
		return;
	va_start(ap, fmt);
	vsnprintf(t->why, sizeof((struct geneval_result *)0)->why, fmt, ap);
	va_end(ap);
}

static double closeness(int want, int found)
{
	return 1 - fabs((double)(want - found)) / want;
}

static bool count_right(struct tally *t, const struct clause *c, const struct group *g)
{
	score(t, closeness(c->count, g->n));
	if (g->n != c->count)
		blame(t, "wanted %d %s, found %d", c->count, c->class_name, g->n);
	return g->n == c->count;
}

static bool color_right(struct tally *t, const struct clause *c, const struct group *g)
{
	int found = count_color(g, c->color);

	score(t, closeness(c->count, found));
	if (found != c->count)
		blame(t, "wanted %d %s %s, found %d", c->count, c->color, c->class_name, found);
	return found == c->count;
}

/* target: NULL when its own clause failed. */
static bool position_right(struct tally *t, const struct clause *c, const struct group *g,
			   const struct group *target)
{
	bool right = target && all_stand(c->relation, g, target);

	score(t, right);
	if (!t->bounded && target && !right)
		score(t, 1);
	if (!right)
		blame(t, "%s is not %s %s", c->class_name, relation_names[c->relation],
		      target ? "its target" : "a target");
	return right;
}

static bool clause_right(struct tally *t, const struct clause *c, const struct group *g,
			 const struct group *target)
{
	bool color = c->color, position = c->relation >= 0;

	if (!count_right(t, c, g)) {
		for (int zeros = t->bounded ? color + position : color || position; zeros; zeros--)
			score(t, 0);
		return false;
	}
	if (color && !color_right(t, c, g)) {
		if (position && t->bounded)
			score(t, 0);
		return false;
	}
	return !position || position_right(t, c, g, target);
}

int geneval_judge(struct geneval_result *r, const json_t *meta, const struct geneval_object *obj, int n,
		  bool reference_scoring, struct err *e)
{
	struct rules rules;
	struct group group[GENEVAL_MAX_CLAUSES];
	bool right[GENEVAL_MAX_CLAUSES];
	struct tally t = { .bounded = !reference_scoring, .why = r->why };

	*r = (struct geneval_result) { .strict = true };
	if (read_rules(&rules, meta, e))
		return -1;
	for (int i = 0; i < rules.includes; i++) {
		const struct clause *c = &rules.include[i];
		group[i] = find(obj, n, c->class_name);
		right[i] = clause_right(&t, c, &group[i],
					c->relation >= 0 && right[c->target] ? &group[c->target] : NULL);
		r->strict = r->strict && right[i];
		r->right |= (unsigned)right[i] << i;
	}
	for (int i = 0; i < rules.excludes; i++) {
		const struct clause *c = &rules.exclude[i];
		int found = find(obj, n, c->class_name).n;
		if (found >= c->count) {
			blame(&t, "wanted fewer than %d %s, found %d", c->count, c->class_name, found);
			r->strict = false;
		}
	}
	r->reward = t.sum / t.terms;
	r->correct = judge_correct(&rules, obj, n);
	return 0;
}
