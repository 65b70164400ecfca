/* report_rows.c -- metrics.jsonl as columns of the page. */
#include "base/file.h"
#include "base/mem.h"
#include "commands/report/report.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows of one kind: of steps, or of evaluations. */
struct rows {
	json_t **v;
	int n, cap;
};

static bool is_step(const json_t *row)
{
	return json_object_get(row, "epoch") != NULL;
}

/* The columns' names, in the order in which they first come. */
static json_t *names_of(const struct rows *r)
{
	json_t *names = json_object(), *v;
	const char *name;

	for (int i = 0; i < r->n; i++)
		json_object_foreach(r->v[i], name, v) json_object_set_new(names, name, json_null());
	return names;
}

/* What stands for rows from .. to - 1: the mean of numbers, the last of anything else, of whole numbers
 * that only count up, and of the step. */
static json_t *cell(const struct rows *r, int from, int to, const char *name)
{
	const json_t *last = json_object_get(r->v[to - 1], name);
	double sum = 0, n = 0;

	if (to - from == 1 || json_is_integer(last) || json_is_object(last))
		return last ? json_incref((json_t *)(uintptr_t)last) : json_null();
	for (int i = from; i < to; i++) {
		const json_t *v = json_object_get(r->v[i], name);

		if (json_is_number(v)) {
			sum += json_number_value(v);
			n++;
		}
	}
	return json_number(n > 0 ? sum / n : NAN);
}

static json_t *columns(const struct rows *r, int every)
{
	json_t *names = names_of(r), *all = json_object(), *ignored;
	const char *name;

	json_object_foreach(names, name, ignored)
	{
		json_t *column = json_array();

		for (int i = 0; i < r->n; i += every)
			json_array_append_new(column, cell(r, i, i + every < r->n ? i + every : r->n, name));
		json_object_set_new(all, name, column);
	}
	json_decref(names);
	return all;
}

static int read_lines(struct rows *steps, struct rows *evals, const char *text, const char *path,
		      struct err *e)
{
	int line = 0;

	for (const char *s = text, *end; (end = strchr(s, '\n')); s = end + 1) {
		struct err why;
		json_t *row = json_parse(s, (size_t)(end - s), path, &why);

		line++;
		if (!json_is_object(row) || !json_is_integer(json_object_get(row, "step"))) {
			json_decref(row);
			return err_set(e, "%s:%d: not a row of metrics: is this file a run's?", path, line);
		}
		struct rows *r = is_step(row) ? steps : evals;
		MEM_PUSH(r->v, r->n, r->cap) = row;
	}
	return 0;
}

static void rows_free(struct rows *r)
{
	for (int i = 0; i < r->n; i++)
		json_decref(r->v[i]);
	free(r->v);
}

json_t *report_rows(const char *run, struct err *e)
{
	struct rows steps = { 0 }, evals = { 0 };
	char *path = file_join(run, "metrics.jsonl"), *text = NULL;
	json_t *out = NULL;
	size_t n;

	if (!file_read(&text, &n, path, e) && !read_lines(&steps, &evals, text, path, e)) {
		int every = (steps.n + REPORT_POINTS - 1) / REPORT_POINTS;

		every = every ? every : 1;
		out = json_pack("{s:o, s:o, s:i}", "steps", columns(&steps, every), "evals",
				columns(&evals, 1), "every", every);
	}
	rows_free(&steps);
	rows_free(&evals);
	free(text);
	free(path);
	return out;
}
