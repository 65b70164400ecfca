/* cmd_top.c -- contraflow top RUN: a run while it goes on. */
#include "commands/options.h"
#include "commands/top/top.h"
#include "base/log.h"
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EVERY       2.0 /* s between looks, on a terminal */
#define PLAIN_WIDTH 100

static bool wants_colour(void)
{
	const char *no = getenv("NO_COLOR");

	return !(no && *no);
}

/* On a terminal, until somebody ends it; the run's own end stays to be seen. */
static int draw(struct follow *w, double every, bool utf8, struct err *e)
{
	enum terminal_event what = TERMINAL_RESIZED;
	struct text screen = { 0 };
	int ret = 0;

	terminal_open();
	while (!ret && what != TERMINAL_QUIT) {
		struct top_style style = { .utf8 = utf8, .colour = wants_colour() };

		if (what != TERMINAL_RESIZED)
			ret = follow_look(w, e);
		terminal_size(&style.width, &style.height);
		screen.n = 0;
		top_lines(&screen, w, &style);
		terminal_draw(&screen);
		what = terminal_wait(every);
	}
	terminal_close();
	text_free(&screen);
	return ret;
}

static void print_time(void)
{
	time_t now = time(NULL);
	struct tm tm;
	char s[32];

	strftime(s, sizeof s, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &tm));
	printf("\n%s\n", s);
}

/* Elsewhere: once, or every so often until the run has ended. */
static int print(struct follow *w, double every, bool utf8, struct err *e)
{
	const char *columns = getenv("COLUMNS");
	int width = columns && atoi(columns) > 0 ? atoi(columns) : PLAIN_WIDTH, ret = 0;
	const struct top_style style = { .width = width, .utf8 = utf8 };

	for (;;) {
		struct text lines = { 0 };

		top_lines(&lines, w, &style);
		fputs(lines.s, stdout);
		text_free(&lines);
		if (fflush(stdout) || !(every > 0) || !follow_goes_on(w))
			return ret;
		clock_sleep(every);
		if ((ret = follow_look(w, e)))
			return ret;
		print_time();
	}
}

static int run(int argc, char **argv, struct err *e)
{
	bool once = false;
	double every = 0;
	const char *dir = NULL;
	const struct option_spec spec[] = {
		{ "once", 'f', &once, NULL, "print what there is now, and end; so without a terminal" },
		{ "every", 'r', &every, "S",
		  "look again every S seconds (default 2 on a terminal); without a terminal, print again "
		  "until the run has ended" },
		{ NULL, 0, NULL, NULL, NULL }
	};
	struct follow w;
	int n, ret = options_parse(&cmd_top, spec, argc, argv, &dir, 1, &n, e);

	if (ret)
		return ret;
	if (!n)
		return err_set(e, "top: name a run's directory; usage: contraflow top %s", cmd_top.usage);
	if (every != 0 && !(every >= 0.1 && every <= 86400))
		return err_set(e, "top: --every %g: seconds from 0.1 to 86400", every);
	if (once && every != 0)
		return err_set(e, "top: --once and --every contradict each other");
	setlocale(LC_CTYPE, "");
	bool utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	if (follow_open(&w, dir, e))
		return err_in(e, "top");
	ret =
	    terminal_is() && !once ? draw(&w, every > 0 ? every : EVERY, utf8, e) : print(&w, every, utf8, e);
	follow_close(&w);
	return ret;
}

const struct command cmd_top = { "top", "RUN [--once] [--every S]",
				 "watch a run: curves, times, ranks, rewards, what is left", run };
