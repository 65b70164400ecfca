/* report_run.c -- what a run's directory tells: its numbers, images, settings, and log. */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "commands/report/report.h"
#include "trainer/record/rundir.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_WARNINGS = 200, MOST_FACTS = 12 };

/* ---- Settings ------------------------------------------------------------------------------------ */

static void put_value(void *ctx, const char *key, const char *value)
{
	json_object_set_new(ctx, key, json_words(value));
}

static json_t *values_of(const struct conf_node *tree)
{
	json_t *j = json_object();

	conf_each(tree, put_value, j);
	return j;
}

static void put_default(void *ctx, const char *key, const char *was, const char *is)
{
	if (is)
		json_object_set_new(ctx, key, was ? json_words(was) : json_null());
}

static void put_change(void *ctx, const char *key, const char *was, const char *is)
{
	json_array_append_new(ctx, json_pack("[s, o, o]", key, was ? json_words(was) : json_null(),
					     is ? json_words(is) : json_null()));
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* config-until-STEP.yaml, the oldest first; free() each and the array. */
static char **earlier_files(const char *run, int *n)
{
	DIR *d = opendir(run);
	char **name = NULL;
	int cap = 0;

	*n = 0;
	for (struct dirent *x; d && (x = readdir(d));)
		if (text_starts(x->d_name, "config-until-") && text_ends(x->d_name, ".yaml"))
			MEM_PUSH(name, *n, cap) = mem_str(x->d_name);
	if (d)
		closedir(d);
	if (*n)
		qsort(name, (size_t)*n, sizeof *name, by_name);
	return name;
}

/* [{"until": "00000050", "changes": [[key, was, is], ...]}, ...] */
static json_t *changes_of(const char *run, const struct conf_node *now)
{
	int n;
	char **name = earlier_files(run, &n);
	struct conf_node *was = NULL;
	json_t *all = json_array(), *last = NULL;
	struct err why;

	for (int i = 0; i < n; i++) {
		char *path = file_join(run, name[i]);
		struct conf_node *then = conf_read(path, &why);

		if (!then)
			log_warn("left out of the report: %s", why.msg);
		if (then && was)
			conf_compare(was, then, put_change, last);
		if (then) {
			last = json_array();
			json_array_append_new(all, json_pack("{s:s#, s:o}", "until", name[i] + 13,
							     (int)strlen(name[i]) - 18, "changes", last));
			conf_node_free(was);
			was = then;
		}
		free(path);
		free(name[i]);
	}
	if (was)
		conf_compare(was, now, put_change, last);
	conf_node_free(was);
	free(name);
	return all;
}

/* The name of the file that the end of the run's last stage writes. */
static char *result_name(const struct conf_node *config)
{
	int n;
	const char **stage = conf_keys(config, "stages", &n);
	char *name = n ? mem_printf("result-%s.json", stage[n - 1]) : mem_str("result.json");

	free(stage);
	return name;
}

static const char *state_of(const char *run, const struct conf_node *config)
{
	char *result = result_name(config);
	bool done = file_is_in(run, result);

	free(result);
	return runlock_held(run) ? "running" : done ? "finished" : "stopped";
}

static void put_settings(json_t *out, const char *run, const struct conf_node *config)
{
	json_t *defaults = json_object();
	struct conf_node *bare = rundir_defaults(config);

	if (bare)
		conf_compare(bare, config, put_default, defaults);
	conf_node_free(bare);
	json_object_set_new(out, "config", values_of(config));
	json_object_set_new(out, "defaults", defaults);
	json_object_set_new(out, "changes", changes_of(run, config));
	json_object_set_new(out, "state", json_string(state_of(run, config)));
}

/* ---- The log --------------------------------------------------------------------------------------- */

/* What a line says behind its time; NULL: it has none. */
static char *said(char *line)
{
	char *text = strchr(line, ' ');

	return text && strlen(line) > 19 && line[4] == '-' && line[10] == 'T' ? text + 1 : NULL;
}

static bool is_fact(const char *text)
{
	return *text && *text != ' ' && !text_starts(text, "settings") && !text_starts(text, "warning: ") &&
	       !strstr(text, "held-out");
}

/* {"facts": [what the newest start said of machine and program], "starts": times the program was started,
 * "warnings": [[time, text], ...], "n_warnings"}.  A run without a log has none. */
static json_t *log_json(const char *run)
{
	char *path = file_join(run, "log.txt"), *text = NULL, *rest;
	json_t *facts = json_array(), *warnings = json_array();
	int starts = 0, all = 0;
	struct err ignored;
	size_t n;

	if (file_exists(path) && !file_read(&text, &n, path, &ignored))
		for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
			char *what = said(line);

			if (!what)
				continue;
			if (text_starts(what, "contraflow ")) {
				starts++;
				json_array_clear(facts);
			}
			if (is_fact(what) && json_array_size(facts) < MOST_FACTS)
				json_array_append_new(facts, json_words(what));
			if (!text_starts(what, "warning: "))
				continue;
			what[-1] = '\0';
			all++;
			json_array_append_new(warnings,
					      json_pack("[o, o]", json_words(line), json_words(what + 9)));
			if (json_array_size(warnings) > MOST_WARNINGS)
				json_array_remove(warnings, 0);
		}
	free(text);
	free(path);
	return json_pack("{s:o, s:i, s:o, s:i}", "facts", facts, "starts", starts, "warnings", warnings,
			 "n_warnings", all);
}

json_t *report_run(const char *run, const char *name, double image_bytes, struct err *e)
{
	char *path = file_join(run, "config.yaml");
	bool known = file_is_in(run, "metrics.jsonl") && file_exists(path);
	struct conf_node *config = known ? conf_read(path, e) : NULL;
	json_t *out = NULL, *rows = config ? report_rows(run, e) : NULL;

	if (!known)
		err_set(e, "%s holds no run: there is no config.yaml and metrics.jsonl in it", run);
	if (rows) {
		out =
		    json_pack("{s:o, s:o, s:o, s:o, s:o}", "name", json_words(name), "path", json_words(run),
			      "rows", rows, "images", report_images(run, image_bytes), "log", log_json(run));
		put_settings(out, run, config);
	}
	conf_node_free(config);
	free(path);
	return out;
}
