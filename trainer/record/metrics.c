#include "trainer/record/metrics.h"
#include "base/file.h"
#include "base/io.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "trainer/record/metric_table.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct metrics {
	struct io_records *file;
	struct text lines; /* that are not written yet */
	struct tensorboard *tb;
	int64_t rows, unwritten;
	void (*listener)(void *ctx, const char *json, size_t n);
	void *listener_ctx;
	char **told; /* tags that the event file has a description of */
	int n_told, cap_told;
	int n, cap;
	struct metric {
		char *name;
		double v;
		char *counts; /* JSON in place of v, or NULL */
	} * v;
};

/* What of a file stays. */
struct kept {
	struct text lines;
	json_t *rows; /* the same, parsed */
	int64_t from; /* event files go on from this step */
};

/* Whether the line, which may be part of one, stays; *at becomes its step. */
static bool stays(const json_t *row, int64_t step, int64_t most, const struct kept *k, int64_t *at)
{
	const json_t *v = json_object_get(row, "step");

	*at = json_is_integer(v) ? json_integer_value(v) : step + 1;
	return *at <= step && (most < 0 || (int64_t)json_array_size(k->rows) < most);
}

/* What a run wrote after its last checkpoint, or before it went back to one, is written again. */
static void keep_lines(struct kept *k, const char *data, const char *path, int64_t step, int64_t most)
{
	for (const char *line = data, *end; *line; line = end) {
		struct err ignored;
		int64_t at;

		end = line + strcspn(line, "\n");
		end += *end != '\0';
		/* a line without its end was being written when the run was killed */
		json_t *row = end[-1] == '\n' ? json_parse(line, (size_t)(end - line), path, &ignored) : NULL;
		if (stays(row, step, most, k, &at)) {
			text_add_bytes(&k->lines, line, (size_t)(end - line));
			json_array_append(k->rows, row);
		} else if (at < k->from) {
			k->from = at;
		}
		json_decref(row);
	}
}

/* What of the file stays; *cut: not all of it. */
static int read_kept(struct kept *k, const char *path, int64_t step, int64_t most, bool *cut, struct err *e)
{
	char *data;
	size_t n;

	*cut = false;
	text_add(&k->lines, "");
	if (!file_exists(path))
		return 0;
	if (file_read(&data, &n, path, e))
		return -1;
	keep_lines(k, data, path, step, most);
	*cut = k->lines.n != n;
	free(data);
	return 0;
}

static bool is_told(const struct metrics *m, const char *name)
{
	for (int i = 0; i < m->n_told; i++)
		if (!strcmp(m->told[i], name))
			return true;
	return false;
}

/* With what it means, when its name comes for the first time. */
static void put_event(struct metrics *m, const char *name, int64_t step, double v)
{
	const struct metric_info *info = is_told(m, name) ? NULL : metric_find(name);
	char *about = info ? mem_printf("%s %s", info->meaning, info->look) : NULL;

	tb_scalar(m->tb, name, step, v, about);
	if (info)
		MEM_PUSH(m->told, m->n_told, m->cap_told) = mem_str(name);
	free(about);
}

/* The event files' part of lines that stay, where some of their step do not. */
static void repeat(struct metrics *m, const struct kept *k)
{
	const char *name;
	json_t *row, *v;
	size_t i;

	json_array_foreach(k->rows, i, row)
	{
		int64_t at = json_integer_value(json_object_get(row, "step"));

		json_object_foreach(row, name, v)
		{
			if (at >= k->from && json_is_number(v) && strcmp(name, "step"))
				put_event(m, name, at, json_number_value(v));
		}
	}
}

/* Event files take back what the lines are about to lose, and hold what stays. */
static int open_events(struct metrics *m, const char *dir, const struct kept *k, struct err *e)
{
	char *events = file_join(dir, "tensorboard");
	int ret = file_mkdirs(events, e) || tb_open(&m->tb, events, k->from - 1, e) ? -1 : 0;

	free(events);
	if (ret)
		return -1;
	repeat(m, k);
	return tb_flush(m->tb, e);
}

int metrics_open(struct metrics **out, const char *dir, int64_t step, int64_t rows, bool tensorboard,
		 struct err *e)
{
	struct metrics *m = mem_zero(1, sizeof *m);
	struct kept kept = { .rows = json_array(), .from = step + 1 };
	char *path = file_join(dir, "metrics.jsonl");
	bool cut;
	int ret = read_kept(&kept, path, step, rows, &cut, e);

	/* events first: who is killed between the two cuts again, and knows from the lines what */
	if (!ret && tensorboard)
		ret = open_events(m, dir, &kept, e);
	if (!ret && cut)
		ret = file_write(path, kept.lines.s, kept.lines.n, e);
	if (!ret && !(m->file = io_records_open(path, false)))
		ret = err_set(e, "cannot write %s: %s", path, strerror(errno));
	m->rows = (int64_t)json_array_size(kept.rows);
	text_free(&kept.lines);
	json_decref(kept.rows);
	free(path);
	if (ret) {
		metrics_close(m);
		m = NULL;
	}
	*out = m;
	return ret;
}

/* A name may hold anything a configuration file can: quotes and control characters are escaped. */
static void add_name(struct text *line, const char *name)
{
	json_t *j = json_string(name);
	char *quoted = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;

	text_add(line, quoted ? quoted : "\"not UTF-8\"");
	free(quoted);
	json_decref(j);
}

static void forget(struct metrics *m)
{
	for (int i = 0; i < m->n; i++) {
		free(m->v[i].name);
		free(m->v[i].counts);
	}
	m->n = 0;
}

void metrics_close(struct metrics *m)
{
	if (!m)
		return;
	forget(m);
	io_records_close(m->file);
	tb_close(m->tb);
	text_free(&m->lines);
	for (int i = 0; i < m->n_told; i++)
		free(m->told[i]);
	free(m->told);
	free(m->v);
	free(m);
}

void metrics_listen(struct metrics *m, void (*row)(void *ctx, const char *json, size_t n), void *ctx)
{
	m->listener = row;
	m->listener_ctx = ctx;
}

void metrics_add(struct metrics *m, const char *name, double v)
{
	MEM_PUSH(m->v, m->n, m->cap) = (struct metric) { mem_str(name), v, NULL };
}

void metrics_add_counts(struct metrics *m, const char *name, const double *v, int64_t n)
{
	double low = INFINITY, high = -INFINITY;
	int64_t count[METRICS_BUCKETS] = { 0 };
	struct text t = { 0 };

	for (int64_t i = 0; i < n; i++)
		if (isfinite(v[i])) {
			low = fmin(low, v[i]);
			high = fmax(high, v[i]);
		}
	for (int64_t i = 0; i < n; i++)
		if (isfinite(v[i])) { /* halved first: a difference may overflow */
			double at = high > low ? (v[i] / 2 - low / 2) / (high / 2 - low / 2) : 0;
			count[(int)fmin(at * METRICS_BUCKETS, METRICS_BUCKETS - 1)]++;
		}
	text_add(&t, low <= high ? "{\"low\": " : "null");
	if (low <= high) {
		json_add_number(&t, low);
		text_add(&t, ", \"high\": ");
		json_add_number(&t, high);
		for (int k = 0; k < METRICS_BUCKETS; k++)
			text_printf(&t, "%s%lld", k ? ", " : ", \"counts\": [", (long long)count[k]);
		text_add(&t, "]}");
	}
	MEM_PUSH(m->v, m->n, m->cap) = (struct metric) { mem_str(name), NAN, t.s };
}

static void add_line(struct metrics *m, struct text *line, int64_t step)
{
	text_printf(line, "{\"step\": %lld", (long long)step);
	for (int i = 0; i < m->n; i++) {
		text_add(line, ", ");
		add_name(line, m->v[i].name);
		text_add(line, ": ");
		if (m->v[i].counts)
			text_add(line, m->v[i].counts);
		else
			json_add_number(line, m->v[i].v);
		if (m->tb && isfinite(m->v[i].v))
			put_event(m, m->v[i].name, step, m->v[i].v);
	}
	text_add(line, "}");
	forget(m);
}

int metrics_write(struct metrics *m, int64_t step, struct err *e)
{
	size_t from = m->lines.n;

	add_line(m, &m->lines, step);
	if (m->listener)
		m->listener(m->listener_ctx, m->lines.s + from, m->lines.n - from);
	text_add(&m->lines, "\n");
	m->unwritten++;
	return metrics_flush(m, e);
}

struct metrics *metrics_new(void)
{
	return mem_zero(1, sizeof(struct metrics));
}

char *metrics_take(struct metrics *m, int64_t step)
{
	struct text line = { 0 };

	add_line(m, &line, step);
	return line.s;
}

/* Lines first: an event that no line has would stay when a resumed run makes it again. */
int metrics_flush(struct metrics *m, struct err *e)
{
	if (m->lines.n && io_records_add(m->file, m->lines.s, m->lines.n))
		return err_set(e, "cannot write %s: %s", io_records_path(m->file), strerror(errno));
	m->rows += m->unwritten;
	m->unwritten = 0;
	m->lines.n = 0;
	return m->tb ? tb_flush(m->tb, e) : 0;
}

int64_t metrics_rows(const struct metrics *m)
{
	return m->rows;
}

struct tensorboard *metrics_tensorboard(struct metrics *m)
{
	return m->tb;
}
