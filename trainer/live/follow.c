#include "trainer/live/follow.h"
#include "base/conf/conf.h"
#include "base/file.h"
#include "base/mem.h"
#include "trainer/record/rundir.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TAIL_BYTES 65536
#define FRESH      600.0 /* s: a run whose files are younger may be alive where its lock cannot be seen */
#define PACE_ROWS  20

/* ---- Settings ---------------------------------------------------------------------------------- */

static void put_value(void *ctx, const char *key, const char *value)
{
	json_object_set_new(ctx, key, json_words(value));
}

static void forget_settings(struct follow *w)
{
	for (int i = 0; i < w->n_stages; i++)
		free(w->stage[i]);
	free(w->stage);
	w->stage = NULL;
	w->n_stages = 0;
	free(w->name);
	w->name = NULL;
	json_decref(w->config);
	w->config = json_object();
}

static int read_settings(struct follow *w, struct err *e)
{
	char *path = file_join(w->dir, "config.yaml");
	struct conf_node *tree = file_exists(path) ? conf_read(path, e) : conf_empty();
	int ret = tree ? 0 : -1;

	if (!ret) {
		int n;
		const char **names = conf_keys(tree, "stages", &n);

		forget_settings(w);
		conf_each(tree, put_value, w->config);
		w->stage = mem_zero((size_t)n, sizeof *w->stage);
		for (int i = 0; i < n; i++)
			w->stage[i] = mem_str(names[i]);
		w->n_stages = n;
		free(names);
		const char *name = json_string_value(json_object_get(w->config, "run.name"));
		w->name = mem_str(name && *name ? name : file_base(w->dir));
		text_tame(w->name);
	}
	conf_node_free(tree);
	free(path);
	return ret;
}

/* The number that a key is set to; `absent`: a word, or nothing. */
static double number_of(const struct follow *w, const char *key, double absent)
{
	const char *s = json_string_value(json_object_get(w->config, key));
	char *end;

	if (!s || !*s)
		return absent;
	double v = strtod(s, &end);
	return *end ? absent : v;
}

/* Of stage i, from 0. */
static double of_stage(const struct follow *w, int i, const char *key, double absent)
{
	double v = NAN;

	if (i >= 0 && i < w->n_stages) {
		char *full = mem_printf("stages.%s.%s", w->stage[i], key);
		v = number_of(w, full, NAN);
		free(full);
	}
	return isnan(v) ? number_of(w, key, absent) : v;
}

static int stage_now(const struct follow *w)
{
	double stage = follow_last(w, "stage");

	return stage >= 1 && stage <= w->n_stages ? (int)stage - 1 : 0;
}

double follow_setting(const struct follow *w, const char *key, double absent)
{
	return of_stage(w, stage_now(w), key, absent);
}

static double steps_from(const struct follow *w, int stage)
{
	double sum = 0;

	for (int i = stage; i < w->n_stages; i++)
		sum += of_stage(w, i, "train.max_steps", NAN);
	return w->n_stages ? sum : number_of(w, "train.max_steps", NAN);
}

double follow_steps(const struct follow *w)
{
	return steps_from(w, 0);
}

/* ---- Rows -------------------------------------------------------------------------------------- */

static void forget_rows(struct follow *w)
{
	for (int i = 0; i < w->n_series; i++) {
		free(w->series[i].name);
		free(w->series[i].v);
	}
	free(w->series);
	w->series = NULL;
	w->n_series = w->cap_series = w->steps = w->evals = w->bad = 0;
	w->step = -1;
	w->stage_from = 0;
	w->offset = 0;
}

static struct series *find(const struct follow *w, const char *name)
{
	for (int i = 0; i < w->n_series; i++)
		if (!strcmp(w->series[i].name, name))
			return &w->series[i];
	return NULL;
}

const struct series *follow_series(const struct follow *w, const char *name)
{
	return find(w, name);
}

static void put(struct follow *w, const char *name, const json_t *v)
{
	struct series *s = find(w, name);

	if (!json_is_number(v) && !json_is_null(v))
		return;
	if (!s) {
		MEM_PUSH(w->series, w->n_series, w->cap_series) = (struct series) { .name = mem_str(name) };
		s = &w->series[w->n_series - 1];
	}
	MEM_PUSH(s->v, s->n, s->cap) = json_is_number(v) ? json_number_value(v) : NAN;
}

static void take_row(struct follow *w, json_t *row)
{
	const json_t *step = json_object_get(row, "step");
	bool trained = json_object_get(row, "epoch") != NULL;
	double stage = follow_last(w, "stage");
	const char *name;
	json_t *v;

	if (!json_is_integer(step)) {
		w->bad++;
		return;
	}
	int64_t before = w->step < 0 ? 0 : w->step;
	w->step = json_integer_value(step);
	w->steps += trained;
	w->evals += !trained;
	json_object_foreach(row, name, v)
	{
		if (trained || strcmp(name, "step")) /* a series of steps belongs to the others of its rows */
			put(w, name, v);
	}
	double now = follow_last(w, "stage");
	if (!isnan(now) && !(now <= stage))
		w->stage_from = before;
}

/* Whole lines; what comes behind the last is being written. */
static void take_lines(struct follow *w, const char *text, size_t n)
{
	for (const char *s = text, *end; (end = memchr(s, '\n', n - (size_t)(s - text))); s = end + 1) {
		struct err ignored;
		json_t *row = memchr(s, '\0', (size_t)(end - s))
				  ? NULL
				  : json_parse(s, (size_t)(end - s), "", &ignored);

		if (row && json_is_object(row))
			take_row(w, row);
		else if (end > s)
			w->bad++;
		json_decref(row);
		w->offset += end + 1 - s;
	}
}

/* What of a file lies behind `offset`; NULL where it cannot be read.  free(). */
static char *read_from(const char *path, int64_t offset, size_t *n)
{
	FILE *f = fopen(path, "re");
	struct stat st;
	char *text = NULL;

	*n = 0;
	if (!f)
		return NULL;
	bool known = !fstat(fileno(f), &st), plain = known && S_ISREG(st.st_mode);
	int code = known && !plain ? EISDIR : errno;
	if (plain && st.st_size >= offset && !fseeko(f, (off_t)offset, SEEK_SET)) {
		size_t most = (size_t)(st.st_size - offset);

		text = mem_alloc(most + 1);
		*n = fread(text, 1, most, f);
		text[*n] = '\0';
	}
	fclose(f);
	errno = code;
	return text;
}

/* A resume, and a return to a checkpoint, put another file in its place. */
static int read_rows(struct follow *w, struct err *e)
{
	char *path = file_join(w->dir, "metrics.jsonl"), *text;
	struct stat st;
	int ret = 0;
	size_t n;

	w->age = NAN;
	if (stat(path, &st)) {
		if (errno != ENOENT && errno != ESTALE)
			ret = err_set(e, "cannot read %s: %s", path, strerror(errno));
		forget_rows(w);
	} else {
		if (st.st_ino != w->file || st.st_size < w->offset)
			forget_rows(w);
		w->file = st.st_ino;
		w->age = difftime(time(NULL), st.st_mtime);
		if (st.st_size > w->offset) {
			text = read_from(path, w->offset, &n);
			if (text)
				take_lines(w, text, n);
			else
				ret = err_set(e, "cannot read %s: %s", path, strerror(errno));
			free(text);
		}
	}
	free(path);
	return ret;
}

double follow_mean(const struct follow *w, const char *name, int n)
{
	const struct series *s = find(w, name);
	double sum = 0;
	int count = 0;

	for (int i = s ? s->n - 1 : -1; i >= 0 && i >= s->n - n; i--)
		if (!isnan(s->v[i])) {
			sum += s->v[i];
			count++;
		}
	return count ? sum / count : NAN;
}

double follow_last(const struct follow *w, const char *name)
{
	const struct series *s = find(w, name);

	return s && s->n ? s->v[s->n - 1] : NAN;
}

const char *follow_score(const struct follow *w)
{
	static const char *const names[] = { "eval/strict", "eval/soft", NULL };

	for (int i = 0; names[i]; i++)
		if (find(w, names[i]))
			return names[i];
	return "eval/reward";
}

/* ---- The log, the lock, and what they say of its state ----------------------------------------- */

/* What a line of the log says behind its time; NULL: it has none. */
static char *said(char *line)
{
	char *text = strchr(line, ' ');

	return text && strlen(line) > 19 && line[4] == '-' && line[10] == 'T' ? text + 1 : NULL;
}

/* A line about the end of a process. */
static bool is_end(const char *text)
{
	return text_starts(text, "came to its end") || text_starts(text, "ended early: ") ||
	       text_starts(text, "ended by an error: ") || text_starts(text, "ended by: ");
}

static void keep_warning(struct follow *w, const char *text)
{
	if (w->warnings == FOLLOW_WARNINGS)
		memmove(w->warning[0], w->warning[1], sizeof w->warning - sizeof *w->warning);
	else
		w->warnings++;
	snprintf(w->warning[w->warnings - 1], sizeof *w->warning, "%s", text);
	text_tame(w->warning[w->warnings - 1]);
}

/* Its last lines: w->what becomes what the newest start said of its end. */
static void read_log(struct follow *w)
{
	char *path = file_join(w->dir, "log.txt"), *rest = NULL, *text = NULL;
	struct stat st;
	size_t n;

	w->warnings = 0;
	*w->what = '\0';
	if (!stat(path, &st))
		text = read_from(path, st.st_size > TAIL_BYTES ? st.st_size - TAIL_BYTES : 0, &n);
	for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line;
	     line = strtok_r(NULL, "\n", &rest)) {
		char *what = said(line);

		if (what && text_starts(what, "contraflow "))
			*w->what = '\0';
		if (what && is_end(what))
			snprintf(w->what, sizeof w->what, "%s", what);
		if (what && text_starts(what, "warning: "))
			keep_warning(w, what + strlen("warning: "));
	}
	text_tame(w->what);
	free(text);
	free(path);
}

/* Seconds since the newest of a run's files changed. */
static double quiet_for(const struct follow *w)
{
	static const char *const names[] = { "metrics.jsonl", "log.txt", "lock", "checkpoints", "samples" };
	double least = INFINITY;

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char *path = file_join(w->dir, names[i]);
		struct stat st;

		if (!stat(path, &st))
			least = fmin(least, difftime(time(NULL), st.st_mtime));
		free(path);
	}
	return least;
}

static bool has_result(const struct follow *w)
{
	char *name =
	    w->n_stages ? mem_printf("result-%s.json", w->stage[w->n_stages - 1]) : mem_str("result.json");
	bool has = file_is_in(w->dir, name);

	free(name);
	return has;
}

static void find_state(struct follow *w)
{
	struct runlock_holder h;
	char own[sizeof h.host] = "";
	bool held = runlock_held(w->dir), named = runlock_holder(w->dir, &h);
	double epoch = follow_mean(w, "time/rollout", 3) + follow_mean(w, "time/update", 3);

	gethostname(own, sizeof own - 1);
	*w->who = '\0';
	if (named)
		snprintf(w->who, sizeof w->who, "pid %ld on %s, since %s", h.pid, h.host, h.since);
	text_tame(w->who);
	if (held)
		w->state = json_object_size(w->config) ? FOLLOW_RUNNING : FOLLOW_STARTING;
	else if (named && !*w->what && strcmp(h.host, own) && quiet_for(w) < fmax(FRESH, 5 * epoch))
		w->state = FOLLOW_ELSEWHERE;
	else if (text_starts(w->what, "came to its end"))
		w->state = FOLLOW_FINISHED;
	else if (text_starts(w->what, "ended early: "))
		w->state = FOLLOW_STOPPED;
	else if (*w->what)
		w->state = FOLLOW_FAILED;
	else if (named)
		w->state = FOLLOW_DEAD;
	else
		w->state = has_result(w) ? FOLLOW_FINISHED : FOLLOW_STOPPED;
}

const char *follow_state_name(enum follow_state state)
{
	static const char *const names[] = { [FOLLOW_STARTING] = "starting",
					     [FOLLOW_RUNNING] = "running",
					     [FOLLOW_ELSEWHERE] = "running elsewhere",
					     [FOLLOW_FINISHED] = "finished",
					     [FOLLOW_STOPPED] = "stopped",
					     [FOLLOW_FAILED] = "failed",
					     [FOLLOW_DEAD] = "dead" };

	return names[state];
}

bool follow_goes_on(const struct follow *w)
{
	return w->state == FOLLOW_STARTING || w->state == FOLLOW_RUNNING || w->state == FOLLOW_ELSEWHERE;
}

/* ---- How long it will take --------------------------------------------------------------------- */

/* Times that something of every `every` steps comes between two steps. */
static double times(double every, double from, double to)
{
	return every > 0 ? fmax(floor(to / every) - floor(from / every), 0) : 0;
}

static double or_zero(double v)
{
	return isnan(v) ? 0 : v;
}

double eta_seconds(const struct eta *x)
{
	double steps = x->steps - x->step, end = x->steps;

	if (isnan(steps) || !(x->step_seconds > 0))
		return NAN;
	steps = fmax(steps, 0);
	if (x->most > 0 && steps * x->step_seconds > x->most - x->trained) {
		steps = ceil(fmax(x->most - x->trained, 0) / x->step_seconds);
		end = x->step + steps;
	}
	steps += or_zero(x->later);
	/* the evaluation and the checkpoint of the end come anyway */
	return steps * x->step_seconds +
	       (times(x->eval_every, x->step, end - 1) + 1) * or_zero(x->eval_seconds) +
	       (times(x->save_every, x->step, end - 1) + 1) * or_zero(x->save_seconds);
}

/* Training seconds a step, of the newest rows. */
static double step_seconds(const struct follow *w)
{
	const struct series *t = find(w, "time/train_total"), *s = find(w, "step");
	int n = t && s && t->n == s->n ? s->n : 0, from = n > PACE_ROWS ? n - 1 - PACE_ROWS : 0;

	if (!n)
		return NAN;
	double steps = s->v[n - 1] - s->v[from], seconds = t->v[n - 1] - t->v[from];
	if (n == 1) {
		steps = s->v[0];
		seconds = t->v[0];
	}
	return steps > 0 ? seconds / steps : NAN;
}

double follow_eta(const struct follow *w)
{
	int stage = stage_now(w);
	struct eta x = {
		.step = (double)(w->step - w->stage_from),
		.steps = of_stage(w, stage, "train.max_steps", NAN),
		.later = w->n_stages ? steps_from(w, stage + 1) : 0,
		.step_seconds = step_seconds(w),
		.trained = follow_last(w, "time/train_total"),
		.most = w->n_stages ? 0 : follow_setting(w, "train.max_seconds", 0), /* a stage's own clock */
		.eval_every = follow_setting(w, "eval.every", 0),
		.eval_seconds = follow_mean(w, "time/eval", 3),
		.save_every = follow_setting(w, "checkpoint.every", 0),
		.save_seconds = follow_mean(w, "time/checkpoint", 3),
	};

	return w->step < 0 ? NAN : eta_seconds(&x);
}

/* ---- All of it --------------------------------------------------------------------------------- */

int follow_look(struct follow *w, struct err *e)
{
	if (read_settings(w, e) || read_rows(w, e))
		return -1;
	read_log(w);
	find_state(w);
	return 0;
}

int follow_open(struct follow *w, const char *dir, struct err *e)
{
	*w = (struct follow) { .dir = mem_str(dir), .config = json_object(), .step = -1 };
	int ret = 0;

	if (!file_exists(dir))
		ret = err_set(e, "there is no %s; is the name right?", dir);
	else if (!file_is_dir(dir))
		ret = err_set(e, "%s is a file: name the run's directory", dir);
	else if (!file_is_in(dir, "config.yaml") && !file_is_in(dir, "metrics.jsonl") && !runlock_held(dir))
		ret = err_set(e, "%s holds no run: there is no config.yaml or metrics.jsonl in it", dir);
	if (!ret)
		ret = follow_look(w, e);
	if (ret)
		follow_close(w);
	return ret;
}

void follow_close(struct follow *w)
{
	forget_rows(w);
	forget_settings(w);
	json_decref(w->config);
	free(w->dir);
	*w = (struct follow) { 0 };
}
