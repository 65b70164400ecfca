#include "trainer/record/metrics.h"
#include "base/file.h"
#include "base/io.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct metrics {
	FILE *f;
	char *path;
	struct tensorboard *tb;
	int n, cap;
	struct metric {
		char *name;
		double v;
	} * v;
};

/* Keeps the lines of steps up to `step`: what a killed run wrote after its last checkpoint is written again.
 */
static int cut(const char *path, int64_t step, struct err *e)
{
	struct text keep = { 0 };
	char *data;
	size_t n;
	int ret = 0;

	if (!file_exists(path))
		return 0;
	if (file_read(&data, &n, path, e))
		return -1;
	text_add(&keep, "");
	for (char *line = data, *end; *line; line = end) {
		struct err ignored;
		end = line + strcspn(line, "\n");
		if (*end) /* a line without its end was being written when the run was killed */
			end++;
		else
			break;
		json_t *j = json_parse(line, (size_t)(end - line), path, &ignored);
		const json_t *at = json_object_get(j, "step");
		if (json_is_integer(at) && json_integer_value(at) <= step)
			text_add_bytes(&keep, line, (size_t)(end - line));
		json_decref(j);
	}
	if (keep.n != n)
		ret = file_write(path, keep.s, keep.n, e);
	free(data);
	text_free(&keep);
	return ret;
}

int metrics_open(struct metrics **out, const char *dir, int64_t step, bool tensorboard, struct err *e)
{
	struct metrics *m = mem_zero(1, sizeof *m);
	char *events = file_join(dir, "tensorboard");
	int ret = 0;

	m->path = file_join(dir, "metrics.jsonl");
	if (cut(m->path, step, e))
		ret = -1;
	else if (!(m->f = io_append(m->path, false)))
		ret = err_set(e, "cannot write %s: %s", m->path, strerror(errno));
	else if (tensorboard)
		ret = file_mkdirs(events, e) || tb_open(&m->tb, events, step, e) ? -1 : 0;
	free(events);
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
	for (int i = 0; i < m->n; i++)
		free(m->v[i].name);
	m->n = 0;
}

void metrics_close(struct metrics *m)
{
	if (!m)
		return;
	forget(m);
	if (m->f)
		fclose(m->f);
	tb_close(m->tb);
	free(m->path);
	free(m->v);
	free(m);
}

void metrics_add(struct metrics *m, const char *name, double v)
{
	MEM_PUSH(m->v, m->n, m->cap) = (struct metric) { mem_str(name), v };
}

int metrics_write(struct metrics *m, int64_t step, struct err *e)
{
	struct text line = { 0 };
	int ret = 0;

	text_printf(&line, "{\"step\": %lld", (long long)step);
	for (int i = 0; i < m->n; i++) {
		text_add(&line, ", ");
		add_name(&line, m->v[i].name);
		text_add(&line, ": ");
		json_add_number(&line, m->v[i].v);
		if (m->tb && isfinite(m->v[i].v))
			tb_scalar(m->tb, m->v[i].name, step, m->v[i].v);
	}
	text_add(&line, "}\n");
	if (fwrite(line.s, 1, line.n, m->f) != line.n || fflush(m->f))
		ret = err_set(e, "cannot write %s: %s", m->path, strerror(errno));
	if (m->tb && !ret)
		ret = tb_flush(m->tb, e);
	text_free(&line);
	forget(m);
	return ret;
}

struct tensorboard *metrics_tensorboard(struct metrics *m)
{
	return m->tb;
}
