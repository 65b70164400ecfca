/* What a user sees while a run goes on: curves as characters, what is left, numbers for Prometheus, who takes
 * how long, and a run's directory in any state. */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/live/exposition.h"
#include "trainer/live/follow.h"
#include "trainer/live/pace.h"
#include "trainer/live/sparkline.h"
#include "trainer/live/tracker.h"
#include "trainer/record/runlock.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static void assert_line(const double *v, int n, int width, bool utf8, const char *want)
{
	struct text t = { 0 };

	sparkline(&t, v, n, width, utf8);
	assert_string_equal(t.s ? t.s : "", want);
	text_free(&t);
}

static void test_sparkline(void **state)
{
	const double rise[] = { 0, 1, 2, 3, 4, 5, 6, 7 }, gap[] = { 1, NAN, 2, INFINITY }, flat[] = { 3, 3 };
	const double wide[] = { -1.7e308, 1.7e308 }, none[] = { NAN, NAN };

	(void)state;
	assert_line(rise, 8, 8, true, "▁▂▃▄▅▆▇█");
	assert_line(rise, 8, 20, false, "_.-:=+*#");
	assert_line(rise, 8, 4, false,
		    "_-+#"); /* means 0.5, 2.5, 4.5, 6.5: 0, 1/3, 2/3 of eight heights, all */
	assert_line(rise, 8, 1, false, "_");
	assert_line(gap, 4, 4, false, "_ # ");
	assert_line(flat, 2, 5, false, "__");
	assert_line(wide, 2, 2, false, "_#"); /* their difference is no double */
	assert_line(none, 2, 2, true, "  ");
	assert_line(rise, 0, 5, true, "");
	assert_line(rise, 8, 0, true, "");
}

static void assert_bar(double share, int width, bool utf8, const char *want)
{
	struct text t = { 0 };

	sparkline_bar(&t, share, width, utf8);
	assert_string_equal(t.s ? t.s : "", want);
	text_free(&t);
}

static void test_bar(void **state)
{
	(void)state;
	assert_bar(0.5, 4, true, "██  ");
	assert_bar(0.53125, 4, true, "██▏ ");
	assert_bar(0.5, 4, false, "##  ");
	assert_bar(0.4, 4, false, "##  "); /* 1.6 of four */
	assert_bar(7, 3, false, "###");
	assert_bar(-1, 3, false, "   ");
	assert_bar(NAN, 2, false, "  ");
}

static void test_eta(void **state)
{
	struct eta x = { .step = 10, .steps = 100, .step_seconds = 2 };

	(void)state;
	assert_float_equal(eta_seconds(&x), 180, 1e-9);
	x.eval_every = 25;
	x.eval_seconds = 7; /* after 25, 50, 75, and at the end */
	x.save_every = 0;
	x.save_seconds = 3;
	assert_float_equal(eta_seconds(&x), 180 + 4 * 7 + 3, 1e-9);
	x.later = 50;
	assert_float_equal(eta_seconds(&x), 280 + 4 * 7 + 3, 1e-9);
	x.later = 0;
	x.most = 60; /* 40 s of training are left: 20 steps, to step 30 */
	x.trained = 20;
	assert_float_equal(eta_seconds(&x), 40 + 2 * 7 + 3, 1e-9);
	x.trained = 90;
	assert_float_equal(eta_seconds(&x), 7 + 3, 1e-9);
	x.most = 0;
	x.step = 100;
	assert_float_equal(eta_seconds(&x), 7 + 3, 1e-9);
	x.eval_seconds = NAN; /* there was none yet */
	assert_float_equal(eta_seconds(&x), 3, 1e-9);
	x.step_seconds = NAN;
	assert_true(isnan(eta_seconds(&x)));
	x.step_seconds = 1;
	x.steps = NAN;
	assert_true(isnan(eta_seconds(&x)));
}

static void test_pace(void **state)
{
	/* sampling, waiting, update of three ranks */
	const double all[] = { 4, 0, 2, 5, 1, 3, 3, 0, 4 };
	struct pace p;

	(void)state;
	pace_of(&p, all, 3);
	assert_float_equal(p.max[PACE_SAMPLING], 5, 1e-12);
	assert_float_equal(p.mean[PACE_SAMPLING], 4, 1e-12);
	assert_float_equal(p.max[PACE_REWARD_WAIT], 1, 1e-12);
	assert_float_equal(p.max[PACE_UPDATE], 4, 1e-12);
	assert_int_equal(p.slowest, 1);
	assert_float_equal(p.waiting, 1 - (4 + 1.0 / 3 + 3) / 10, 1e-12);
	pace_of(&p, (const double[]) { 0, 0, 0 }, 1);
	assert_float_equal(p.waiting, 0, 0);
}

static char *expose(const char *run, const char *const *rows)
{
	struct exposition *x = exposition_new(run);
	struct text t = { 0 };

	for (int i = 0; rows[i]; i++)
		exposition_row(x, rows[i], strlen(rows[i]));
	exposition_text(x, &t);
	exposition_free(x);
	return t.s;
}

static void test_exposition(void **state)
{
	const char *const rows[] = {
		"{\"step\": 1, \"time/rollout\": 2.5, \"memory/peak\": 0.5, \"loss/policy\": 1, "
		"\"eval/strict\": 0.25, \"eval/strict/two \\\"big\\\"\\\\\\n\": 0.5, \"reward/ocr\": 3, "
		"\"scoring/seconds/ocr\": 0.125, \"histogram/r\": {\"low\": 0}, \"nobody/knows\": 1}",
		"{\"step\": 2, \"loss/policy\": null}", "{\"step\": 3", NULL
	};
	char *text = expose("a\"b\\c", rows);

	(void)state;
	assert_non_null(strstr(text, "contraflow_info{run=\"a\\\"b\\\\c\",version=\""));
	assert_non_null(strstr(text, "\n# TYPE contraflow_step gauge\ncontraflow_step 2\n"));
	assert_non_null(strstr(text, "\ncontraflow_time_rollout_seconds 2.5\n"));
	assert_non_null(strstr(text, "\ncontraflow_memory_peak_bytes 536870912\n"));
	assert_non_null(strstr(text, "\ncontraflow_loss_policy NaN\n"));
	assert_non_null(strstr(text, "\ncontraflow_eval_strict 0.25\n"));
	assert_non_null(
	    strstr(text, "\ncontraflow_eval_strict_by_tag{tag=\"two \\\"big\\\"\\\\\\n\"} 0.5\n"));
	assert_non_null(strstr(text, "\ncontraflow_reward{reward=\"ocr\"} 3\n"));
	assert_non_null(strstr(text, "\ncontraflow_scoring_seconds{reward=\"ocr\"} 0.125\n"));
	assert_null(strstr(text, "histogram"));
	assert_null(strstr(text, "nobody"));
	free(text);
	text = expose("", (const char *const[]) { NULL });
	assert_null(strstr(text, "last_row"));
	free(text);
}

/* ---- Run directories ---------------------------------------------------------------------------- */

static char dir[] = "/tmp/contraflow-live-XXXXXX";

static void put(const char *name, const char *text)
{
	char *path = file_join(dir, name);
	struct err e;

	assert_int_equal(file_write(path, text, strlen(text), &e), 0);
	free(path);
}

static int make(void **state)
{
	(void)state;
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	return !mkdtemp(dir);
}

static int unmake(void **state)
{
	struct err e;

	(void)state;
	return file_remove_tree(dir, &e);
}

static void test_not_runs(void **state)
{
	struct follow w;
	struct err e;
	char *file = file_join(dir, "file");

	(void)state;
	assert_int_equal(follow_open(&w, "/nowhere/at/all", &e), -1);
	assert_non_null(strstr(e.msg, "there is no /nowhere/at/all"));
	assert_int_equal(follow_open(&w, dir, &e), -1);
	assert_non_null(strstr(e.msg, "holds no run"));
	put("file", "");
	assert_int_equal(follow_open(&w, file, &e), -1);
	assert_non_null(strstr(e.msg, "is a file"));
	free(file);
}

static const char config[] = "run: {name: short}\ntrain: {max_steps: 100}\neval: {every: 0}\n";

static void test_rows(void **state)
{
	struct follow w;
	struct err e;

	(void)state;
	put("config.yaml", config);
	assert_int_equal(follow_open(&w, dir, &e), 0);
	assert_int_equal(w.steps, 0);
	assert_int_equal(w.step, -1);
	assert_true(isnan(follow_eta(&w)));
	put("metrics.jsonl", "{\"step\": 0, \"eval/soft\": 0.5}\n"
			     "{\"step\": 1, \"epoch\": 1, \"time/train_total\": 10, \"reward/mean\": null}\n"
			     "nonsense\n[1]\n{\"epoch\": 1}\n\n"
			     "{\"step\": 3, \"epoch\": 2, \"time/train_total\": 14, \"reward/mean\": 0.5}\n"
			     "{\"step\": 4, \"epo");
	assert_int_equal(follow_look(&w, &e), 0);
	assert_int_equal(w.steps, 2);
	assert_int_equal(w.evals, 1);
	assert_int_equal(w.bad, 3);
	assert_int_equal(w.step, 3);
	assert_string_equal(follow_score(&w), "eval/soft");
	assert_float_equal(follow_mean(&w, "reward/mean", 5), 0.5, 0);
	assert_float_equal(follow_eta(&w), 97 * 2, 1e-9);
	/* the rest of the line that was half there comes, and nothing is read twice */
	char *path = file_join(dir, "metrics.jsonl");
	FILE *f = fopen(path, "ae");
	fputs("ch\": 3, \"time/train_total\": 16, \"reward/mean\": 0.75}\n", f);
	fclose(f);
	assert_int_equal(follow_look(&w, &e), 0);
	assert_int_equal(w.steps, 3);
	assert_int_equal(w.step, 4);
	assert_int_equal(w.bad, 3);
	/* a resume has cut the file */
	put("metrics.jsonl", "{\"step\": 1, \"epoch\": 1, \"reward/mean\": 0.25}\n");
	assert_int_equal(follow_look(&w, &e), 0);
	assert_int_equal(w.step, 1);
	assert_int_equal(w.bad, 0);
	assert_int_equal(follow_series(&w, "reward/mean")->n, 1);
	assert_null(follow_series(&w, "time/train_total"));
	assert_true(isnan(follow_eta(&w)));
	unlink(path);
	free(path);
	assert_int_equal(follow_look(&w, &e), 0);
	assert_int_equal(w.step, -1);
	follow_close(&w);
}

static void test_stages(void **state)
{
	struct follow w;
	struct err e;

	(void)state;
	put("config.yaml", "train: {max_steps: 1000}\nstages: {a: {train: {max_steps: 4}}, b: {train: "
			   "{max_steps: 6}}, c: {train: {max_steps: 10}}}\n");
	put("metrics.jsonl", "{\"step\": 4, \"stage\": 1, \"epoch\": 4, \"time/train_total\": 4}\n"
			     "{\"step\": 4, \"stage\": 2}\n"
			     "{\"step\": 5, \"stage\": 2, \"epoch\": 5, \"time/train_total\": 5}\n");
	assert_int_equal(follow_open(&w, dir, &e), 0);
	assert_float_equal(follow_steps(&w), 20, 0);
	assert_int_equal(w.stage_from, 4);
	assert_float_equal(follow_eta(&w), 5 + 10, 1e-9);
	follow_close(&w);
}

static enum follow_state state_of(char *what, size_t size)
{
	struct follow w;
	struct err e;

	assert_int_equal(follow_open(&w, dir, &e), 0);
	enum follow_state state = w.state;
	snprintf(what, size, "%s", w.what);
	follow_close(&w);
	return state;
}

static void test_states(void **state)
{
	struct runlock lock;
	char what[400], line[200], host[64] = "";
	struct err e;

	(void)state;
	assert_int_equal(runlock_take(&lock, dir, &e), 0);
	assert_int_equal(state_of(what, sizeof what), FOLLOW_STARTING);
	put("config.yaml", config);
	assert_int_equal(state_of(what, sizeof what), FOLLOW_RUNNING);
	runlock_drop(&lock, false);
	assert_int_equal(state_of(what, sizeof what), FOLLOW_STOPPED);
	put("result.json", "{}");
	assert_int_equal(state_of(what, sizeof what), FOLLOW_FINISHED);
	put("log.txt",
	    "2026-01-01T00:00:00 contraflow 1: train x\n2026-01-01T00:00:01 ended early: stopped by "
	    "SIGTERM\n");
	assert_int_equal(state_of(what, sizeof what), FOLLOW_STOPPED);
	assert_string_equal(what, "ended early: stopped by SIGTERM");
	put("log.txt",
	    "2026-01-01T00:00:00 contraflow 1: train x\n2026-01-01T00:00:01 ended by an error: no\x1b[2J\n");
	assert_int_equal(state_of(what, sizeof what), FOLLOW_FAILED);
	assert_null(strchr(what, '\x1b'));
	/* begun anew since, and killed: the file still has its name */
	gethostname(host, sizeof host - 1);
	snprintf(line, sizeof line, "%s 1234567 2026-01-01T00:00:00\n", host);
	put("lock", line);
	put("log.txt",
	    "2026-01-01T00:00:00 ended early: x\n2026-01-01T00:00:01 contraflow 1: train --resume\n");
	assert_int_equal(state_of(what, sizeof what), FOLLOW_DEAD);
	/* the same of another host, whose files are new */
	put("lock", "another-host 1234567 2026-01-01T00:00:00\n");
	assert_int_equal(state_of(what, sizeof what), FOLLOW_ELSEWHERE);
}

/* ---- A tracker ---------------------------------------------------------------------------------- */

/* What `script` kept of three lines in DIR/got, and how long the end took. */
static double track(const char *script, double timeout, double wait, char **got)
{
	char *path = file_join(dir, "got"), *full = mem_printf("cd %s; %s", dir, script);
	char *words[] = { (char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c", full };
	const struct conf_list command = { words, 3 };
	struct tracker *t;
	struct err e;
	size_t n;

	assert_int_equal(tracker_start(&t, &command, timeout, &e), 0);
	for (int i = 0; i < 3; i++)
		tracker_tell(t, "{\"a\":1}", 7);
	double start = clock_now();
	tracker_close(t, wait);
	double took = clock_now() - start;
	*got = NULL;
	if (file_exists(path))
		assert_int_equal(file_read(got, &n, path, &e), 0);
	unlink(path);
	free(path);
	free(full);
	return took;
}

static void test_tracker(void **state)
{
	char *got;

	(void)state;
	assert_true(track("cat > got", 60, 30, &got) < 20);
	assert_string_equal(got, "{\"a\":1}\n{\"a\":1}\n{\"a\":1}\n");
	free(got);
	track("read a; echo $a > got; exit 3", 60, 30, &got); /* it ends before the last line */
	assert_string_equal(got, "{\"a\":1}\n");
	free(got);
	double took = track("trap '' TERM; exec 0<&-; sleep 60", 60, 0.5, &got); /* nor does SIGTERM end it */
	assert_true(took > 0.4 && took < 20);
	free(got);
}

/* One that reads nothing fills its pipe, and is given up: whoever tells never waits. */
static void test_stuck_tracker(void **state)
{
	char *words[] = { (char *)(uintptr_t) "sleep", (char *)(uintptr_t) "60" };
	const struct conf_list command = { words, 2 };
	static char line[100000];
	struct tracker *t;
	struct err e;

	(void)state;
	memset(line, 'x', sizeof line);
	assert_int_equal(tracker_start(&t, &command, 0.3, &e), 0);
	double start = clock_now();
	for (int i = 0; i < 1000; i++) /* 100 MB, of which the queue holds a third */
		tracker_tell(t, line, sizeof line);
	assert_true(clock_now() - start < 10);
	clock_sleep(1.5);
	start = clock_now();
	tracker_close(t, 30);
	assert_true(clock_now() - start < 10);
	words[0] = (char *)(uintptr_t) "no-such-program";
	assert_int_equal(tracker_start(&t, &command, 1, &e), -1);
	assert_non_null(strstr(e.msg, "no-such-program"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sparkline),
		cmocka_unit_test(test_bar),
		cmocka_unit_test(test_eta),
		cmocka_unit_test(test_pace),
		cmocka_unit_test(test_exposition),
		cmocka_unit_test_setup_teardown(test_not_runs, make, unmake),
		cmocka_unit_test_setup_teardown(test_rows, make, unmake),
		cmocka_unit_test_setup_teardown(test_stages, make, unmake),
		cmocka_unit_test_setup_teardown(test_states, make, unmake),
		cmocka_unit_test_setup_teardown(test_tracker, make, unmake),
		cmocka_unit_test_setup_teardown(test_stuck_tracker, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
