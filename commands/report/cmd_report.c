/* cmd_report.c -- contraflow report: runs as one HTML page. */
#include "base/file.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "base/text.h"
#include "commands/options.h"
#include "commands/report/report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RUNS = 8, WATCH_SECONDS = 10 };

struct report {
	const char *run[MOST_RUNS];
	char *name[MOST_RUNS];
	int n;
	char *out;
};

/* Without the slashes at its end. */
static char *tidy_path(const char *path)
{
	char *s = mem_str(path);

	while (strlen(s) > 1 && text_ends(s, "/"))
		s[strlen(s) - 1] = '\0';
	return s;
}

/* Names as short as tell them apart. */
static void name_runs(struct report *r)
{
	bool short_ones = true;

	for (int i = 0; i < r->n; i++)
		for (int k = 0; k < i; k++) {
			char *a = tidy_path(r->run[i]), *b = tidy_path(r->run[k]);

			short_ones &= strcmp(file_base(a), file_base(b)) != 0;
			free(a);
			free(b);
		}
	for (int i = 0; i < r->n; i++) {
		char *path = tidy_path(r->run[i]);

		r->name[i] = mem_str(short_ones ? file_base(path) : path);
		free(path);
	}
}

/* *open: some run has not come to its end. */
static int write_page(const struct report *r, int64_t refresh, bool *open, size_t *size, struct err *e)
{
	json_t *runs = json_array();
	int ret = 0;

	*open = false;
	for (int i = 0; i < r->n && !ret; i++) {
		json_t *one = report_run(r->run[i], r->name[i], REPORT_IMAGE_BYTES / (double)r->n, e);

		ret = one ? 0 : -1;
		*open |= one && strcmp(json_string_value(json_object_get(one, "state")), "finished") != 0;
		if (one)
			json_array_append_new(runs, one);
	}
	if (!ret) {
		char *page = report_page(runs, *open ? refresh : 0, size);

		ret = file_write(r->out, page, *size, e);
		free(page);
	}
	json_decref(runs);
	return ret;
}

/* Until it is over, or somebody asks for an end; the last page does not load itself again. */
static int watch(const struct report *r, int64_t seconds, struct err *e)
{
	bool open = true;
	size_t size;

	stop_open(false);
	log_info("%s is written again every %lld seconds, until the run ends or Ctrl-C; open it in a browser",
		 r->out, (long long)seconds);
	while (open && !stop_asked()) {
		if (write_page(r, seconds, &open, &size, e))
			return -1;
		for (double end = clock_now() + (double)seconds; open && !stop_asked() && clock_now() < end;)
			clock_sleep(0.2);
	}
	return open ? write_page(r, 0, &open, &size, e) : 0;
}

static int seconds_of(const char *watched, int64_t *seconds, struct err *e)
{
	char *end = "";

	*seconds = watched && *watched ? strtoll(watched, &end, 10) : WATCH_SECONDS;
	if (*end || *seconds < 1 || *seconds > 86400)
		return err_set(e, "report: --watch=%s: not a whole number of seconds from 1 to 86400",
			       watched);
	return 0;
}

static int make(struct report *r, const char *out, const char *watched, struct err *e)
{
	int64_t seconds;
	bool open;
	size_t size;
	char text[32];

	if (seconds_of(watched, &seconds, e))
		return -1;
	r->out = out ? mem_str(out) : r->n > 1 ? mem_str("report.html") : file_join(r->run[0], "report.html");
	name_runs(r);
	if (watched)
		return watch(r, seconds, e);
	if (write_page(r, 0, &open, &size, e))
		return -1;
	printf("%s (%s): open it in a browser\n", r->out, text_size(text, (double)size));
	return 0;
}

static int run(int argc, char **argv, struct err *e)
{
	struct report r = { .n = 0 };
	const char *out = NULL, *watched = NULL;
	const struct option_spec spec[] = {
		{ "o", 's', &out, "FILE",
		  "where to (default: RUN/report.html; of several runs report.html)" },
		{ "watch", 'v', &watched, "SECONDS",
		  "write it again every so many seconds (default 10) while a run goes on; the page reloads "
		  "itself" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	int ret = options_parse(&cmd_report, spec, argc, argv, r.run, MOST_RUNS, &r.n, e);

	if (ret)
		return ret;
	if (!r.n)
		return err_set(e, "report: which run? usage: contraflow report %s", cmd_report.usage);
	ret = make(&r, out, watched, e);
	for (int i = 0; i < r.n; i++)
		free(r.name[i]);
	free(r.out);
	return ret;
}

const struct command cmd_report = { "report", "RUN [RUN ...] [options]",
				    "make a page of runs: curves, images, settings, and what to look at",
				    run };
