/* report_page.c -- the page: its files, and the runs as JSON, put together. */
#include "base/mem.h"
#include "base/version.h"
#include "commands/report/report.h"
#include "trainer/record/metric_table.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static json_t *metrics_json(void)
{
	json_t *all = json_array();

	for (const struct metric_info *m = metric_table; m->name; m++)
		json_array_append_new(all,
				      json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:s, s:s}", "name", m->name,
						"title", m->title, "unit", m->unit, "section", m->section,
						"low", json_number(m->low), "high", json_number(m->high),
						"meaning", m->meaning, "look", m->look));
	return all;
}

static json_t *sections_json(void)
{
	json_t *all = json_array();

	for (int i = 0; i < METRIC_SECTIONS; i++)
		json_array_append_new(all, json_string(metric_sections[i]));
	return all;
}

static json_t *page_json(const json_t *runs, int64_t refresh)
{
	char when[64];
	time_t now = time(NULL);
	struct tm tm;

	strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &tm));
	return json_pack("{s:O, s:o, s:o, s:I, s:s, s:s}", "runs", runs, "metrics", metrics_json(),
			 "sections", sections_json(), "refresh", (json_int_t)refresh, "written", when,
			 "version", version());
}

/* Six digits are more than a screen shows, and keep the page small.  No text in it can end the element that
 * it stands in. */
static void add_data(struct text *page, const json_t *runs, int64_t refresh)
{
	json_t *all = page_json(runs, refresh);
	char *data = json_dumps(all, JSON_COMPACT | JSON_REAL_PRECISION(6));

	for (const char *s = data, *end; s && *s; s = end + (*end != '\0')) {
		end = s + strcspn(s, "<");
		text_add_bytes(page, s, (size_t)(end - s));
		if (*end)
			text_add(page, "\\u003c");
	}
	free(data);
	json_decref(all);
}

static const struct report_file *file_of(const char *name, size_t n)
{
	for (const struct report_file *f = report_files; f->name; f++)
		if (strlen(f->name) == n && !strncmp(f->name, name, n))
			return f;
	return NULL;
}

/* In page.html, "{{NAME}}" stands for a file, and "{{data}}" for the runs. */
char *report_page(const json_t *runs, int64_t refresh, size_t *size)
{
	const struct report_file *f = file_of("page.html", 9);
	struct text page = { 0 };
	char *form = mem_alloc(f->size + 1);

	memcpy(form, f->data, f->size);
	form[f->size] = '\0';
	for (const char *s = form, *mark; *s;) {
		mark = strstr(s, "{{");
		text_add_bytes(&page, s, mark ? (size_t)(mark - s) : strlen(s));
		if (!mark)
			break;
		size_t n = strcspn(mark + 2, "}");
		const struct report_file *part = file_of(mark + 2, n);
		if (part)
			text_add_bytes(&page, part->data, part->size);
		else
			add_data(&page, runs, refresh);
		s = mark + n + 4;
	}
	free(form);
	*size = page.n;
	return page.s;
}
