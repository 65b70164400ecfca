#include "trainer/live/exposition.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/version.h"
#include "trainer/record/metric_table.h"
#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct exposition {
	pthread_mutex_t lock;
	char *run;
	json_t *values; /* name: number or null */
	double since;   /* Unix time of the newest row; 0: there is none */
};

struct exposition *exposition_new(const char *run)
{
	struct exposition *x = mem_zero(1, sizeof *x);

	pthread_mutex_init(&x->lock, NULL);
	x->run = mem_str(run);
	x->values = json_object();
	return x;
}

void exposition_free(struct exposition *x)
{
	if (!x)
		return;
	pthread_mutex_destroy(&x->lock);
	json_decref(x->values);
	free(x->run);
	free(x);
}

void exposition_row(struct exposition *x, const char *json, size_t n)
{
	struct err ignored;
	json_t *row = json_parse(json, n, "a row of metrics", &ignored), *v;
	const char *name;

	if (!row)
		return;
	pthread_mutex_lock(&x->lock);
	json_object_foreach(row, name, v)
	{
		if (json_is_number(v) || json_is_null(v))
			json_object_set(x->values, name, v);
	}
	x->since = (double)time(NULL);
	pthread_mutex_unlock(&x->lock);
	json_decref(row);
}

/* ---- Names ------------------------------------------------------------------------------------- */

/* What a unit is called at the end of a name, and what a number is multiplied with for it. */
static const struct unit {
	const char *unit, *suffix;
	double times;
} units[] = { { "s", "_seconds", 1 }, { "GiB", "_bytes", 1073741824 }, { "share", "_ratio", 1 } };

static const struct unit *unit_of(const struct metric_info *m)
{
	for (size_t i = 0; i < sizeof units / sizeof *units; i++)
		if (!strcmp(units[i].unit, m->unit))
			return &units[i];
	return NULL;
}

/* What the last part of such names is. */
static const char *label_of(const struct metric_info *m)
{
	if (!text_ends(m->name, "/"))
		return NULL;
	if (text_starts(m->name, "scoring/") || !strcmp(m->name, "reward/") ||
	    !strcmp(m->name, "eval/reward/"))
		return "reward";
	return text_starts(m->name, "eval/") ? "tag" : "name";
}

static char *family_of(const struct metric_info *m)
{
	const char *label = label_of(m);
	const struct unit *unit = unit_of(m);
	char *bare = mem_printf("%.*s", (int)(strlen(m->name) - (label != NULL)), m->name);
	const struct metric_info *whole = label ? metric_find(bare) : NULL;
	struct text t = { 0 };

	/* numbers of all and of a part under one name would be summed up as if they were alike */
	text_printf(&t, "contraflow_%s", bare);
	if (whole && !strcmp(whole->name, bare))
		text_printf(&t, "_by_%s", label);
	for (char *s = t.s; *s; s++)
		*s = isalnum((unsigned char)*s) ? *s : '_';
	if (unit && !text_ends(t.s, unit->suffix))
		text_add(&t, unit->suffix);
	free(bare);
	return t.s;
}

/* ---- Lines ------------------------------------------------------------------------------------- */

/* Of a HELP line, or between the quotes of a label. */
static void add_escaped(struct text *t, const char *s, bool quoted)
{
	for (; *s; s++)
		if (*s == '\\')
			text_add(t, "\\\\");
		else if (*s == '\n')
			text_add(t, "\\n");
		else if (*s == '"' && quoted)
			text_add(t, "\\\"");
		else
			text_add_bytes(t, s, 1);
}

static void add_value(struct text *t, double v)
{
	text_add(t, " ");
	if (isnan(v))
		text_add(t, "NaN");
	else if (isinf(v))
		text_add(t, v > 0 ? "+Inf" : "-Inf");
	else
		text_real(t, v);
	text_add(t, "\n");
}

static void add_head(struct text *t, const char *family, const char *help)
{
	text_printf(t, "# HELP %s ", family);
	add_escaped(t, help, false);
	text_printf(t, "\n# TYPE %s gauge\n", family);
}

/* All numbers of one line of the table. */
static void add_family(struct text *t, const struct exposition *x, const struct metric_info *m)
{
	const char *name, *label = label_of(m);
	const struct unit *unit = unit_of(m);
	char *family = NULL;
	json_t *v;

	json_object_foreach(x->values, name, v)
	{
		if (metric_find(name) != m)
			continue;
		if (!family)
			add_head(t, family = family_of(m), m->meaning);
		text_add(t, family);
		if (label) {
			text_printf(t, "{%s=\"", label);
			add_escaped(t, name + strlen(m->name), true);
			text_add(t, "\"}");
		}
		add_value(t, json_is_number(v) ? json_number_value(v) * (unit ? unit->times : 1) : NAN);
	}
	free(family);
}

void exposition_text(struct exposition *x, struct text *out)
{
	pthread_mutex_lock(&x->lock);
	add_head(out, "contraflow_info", "The run and the program's version; always 1.");
	text_add(out, "contraflow_info{run=\"");
	add_escaped(out, x->run, true);
	text_add(out, "\",version=\"");
	add_escaped(out, version(), true);
	text_add(out, "\"}");
	add_value(out, 1);
	if (x->since > 0) {
		add_head(out, "contraflow_last_row_timestamp_seconds",
			 "When the newest row was written, as Unix time; a run that hangs stays at it.");
		text_add(out, "contraflow_last_row_timestamp_seconds");
		add_value(out, x->since);
	}
	for (const struct metric_info *m = metric_table; m->name; m++)
		add_family(out, x, m);
	pthread_mutex_unlock(&x->lock);
}
