/* top_lines.c -- what contraflow top shows of a run. */
#include "commands/top/top.h"
#include "trainer/live/sparkline.h"
#include "trainer/record/metric_table.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#define LAST     10 /* rows that phases are means of */
#define LABEL    12
#define VALUE    10
#define WIDE     64 /* from here on there is room for a curve's range */
#define TALL     24 /* from here on for empty lines */
#define MOST_BAR 40
#define QUIET    60.0 /* s without a row that are not yet worth a word */

enum paint { PLAIN, BOLD, DIM, CURVE, GOOD, WARN, BAD };
static const char *const paints[] = {
	"", "\033[1m", "\033[2m", "\033[36m", "\033[32m", "\033[33m", "\033[31m"
};

/* Lines as they grow: each ends at the last column. */
struct page {
	struct text *out;
	const struct top_style *style;
	int column, lines;
};

/* The next character of s and the columns it takes; bytes of something else than UTF-8 are a '?' each. */
static size_t next_char(const char *s, bool utf8, const char **shown, int *columns)
{
	mbstate_t state = { 0 };
	wchar_t c;
	size_t n = strnlen(s, 4);

	*shown = s;
	*columns = 1;
	if ((unsigned char)*s < 0x80)
		return 1;
	n = utf8 ? mbrtowc(&c, s, n, &state) : (size_t)-1;
	if (n == (size_t)-1 || n == (size_t)-2 || wcwidth(c) < 0) {
		*shown = "?";
		n = 1;
		while (!utf8 && ((unsigned char)s[n] & 0xc0) == 0x80)
			n++;
	} else {
		*columns = wcwidth(c);
	}
	return n;
}

/* As much as the line has room for. */
static void add(struct page *p, enum paint paint, const char *s)
{
	bool painted = p->style->colour && paint != PLAIN;
	const char *shown;
	int columns;

	if (painted)
		text_add(p->out, paints[paint]);
	for (size_t n; *s; s += n) {
		n = next_char(s, p->style->utf8, &shown, &columns);
		if (p->style->height && p->column + columns > p->style->width)
			break;
		text_add_bytes(p->out, shown, *shown == '?' ? 1 : n);
		p->column += columns;
	}
	if (painted)
		text_add(p->out, "\033[0m");
}

static void put(struct page *p, enum paint paint, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void put(struct page *p, enum paint paint, const char *fmt, ...)
{
	char s[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s, sizeof s, fmt, ap);
	va_end(ap);
	add(p, paint, s);
}

static void end_line(struct page *p)
{
	while (!p->style->colour && p->out->n && p->out->s[p->out->n - 1] == ' ')
		p->out->s[--p->out->n] = '\0';
	text_add(p->out, "\n");
	p->column = 0;
	p->lines++;
}

/* Between two parts, where there is room. */
static void part(struct page *p)
{
	if (!p->style->height || p->style->height >= TALL)
		end_line(p);
}

static const char *duration(char out[32], double s)
{
	double days = floor(s / 86400);
	int left = (int)(s - days * 86400);

	if (isnan(s) || s > 1e9)
		snprintf(out, 32, "?");
	else if (s < 60)
		snprintf(out, 32, "%d s", left);
	else if (s < 3600)
		snprintf(out, 32, "%d min %02d s", left / 60, left % 60);
	else if (s < 86400)
		snprintf(out, 32, "%d h %02d min", left / 3600, left / 60 % 60);
	else
		snprintf(out, 32, "%.0f d %d h", days, left / 3600);
	return out;
}

static const char *seconds(char out[32], double s)
{
	if (isnan(s))
		snprintf(out, 32, "-");
	else if (s < 1e-5)
		snprintf(out, 32, "0 s");
	else if (s < 1e-2)
		snprintf(out, 32, "%.2g ms", s * 1000);
	else if (s < 1)
		snprintf(out, 32, "%.0f ms", s * 1000);
	else
		snprintf(out, 32, s < 100 ? "%.1f s" : "%.0f s", s);
	return out;
}

/* ---- Its head ---------------------------------------------------------------------------------- */

static enum paint paint_of(const struct follow *w)
{
	switch (w->state) {
	case FOLLOW_FINISHED:
		return GOOD;
	case FOLLOW_STARTING:
	case FOLLOW_RUNNING:
	case FOLLOW_ELSEWHERE:
		return BOLD;
	case FOLLOW_STOPPED:
		return WARN;
	default:
		return BAD;
	}
}

static void put_state(struct page *p, const struct follow *w)
{
	put(p, BOLD, "%s", w->name);
	put(p, paint_of(w), "  %s", follow_state_name(w->state));
	if (w->state == FOLLOW_DEAD)
		put(p, PLAIN, ": %s, is gone without a word; --resume goes on", w->who);
	else if (w->state == FOLLOW_ELSEWHERE)
		put(p, PLAIN, ": %s (its lock cannot be seen from here)", w->who);
	else if (follow_goes_on(w) && *w->who)
		put(p, DIM, "  %s", w->who);
	else if (*w->what && w->state != FOLLOW_FINISHED)
		put(p, PLAIN, ": %s", strstr(w->what, ": ") + 2);
	end_line(p);
}

/* Of an epoch and of what may come behind it. */
static double usual_seconds(const struct follow *w)
{
	static const char *const names[] = { "time/rollout",    "time/reward_wait", "time/update",
					     "time/all_reduce", "time/eval",        "time/checkpoint" };
	double sum = 0;

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		double v = follow_mean(w, names[i], LAST);

		sum += isnan(v) ? 0 : v;
	}
	return sum;
}

static void put_progress(struct page *p, const struct follow *w)
{
	double steps = follow_steps(w), stage = follow_last(w, "stage"), eta = follow_eta(w);
	int room = p->style->width >= WIDE ? 20 : 0;
	struct text bar = { 0 };
	char left[32], took[32];

	if (!isnan(stage))
		put(p, PLAIN, "stage %.0f/%d  ", stage, w->n_stages);
	put(p, PLAIN, "step %lld", (long long)w->step);
	if (steps > 0) {
		put(p, PLAIN, "/%.0f  ", steps);
		sparkline_bar(&bar, (double)w->step / steps, room, p->style->utf8);
		if (room) {
			put(p, DIM, "%s", p->style->utf8 ? "\u2595" : "[");
			add(p, CURVE, bar.s ? bar.s : "");
			put(p, DIM, "%s ", p->style->utf8 ? "\u258f" : "]");
		}
		put(p, PLAIN, "%.0f %%", floor(100 * (double)w->step / steps));
	}
	if (follow_goes_on(w) && !isnan(eta))
		put(p, BOLD, "  %s left", duration(left, eta));
	put(p, DIM, "  epoch %.0f, %.0f images, %s of training", fmax(follow_last(w, "epoch"), 0),
	    fmax(follow_last(w, "images"), 0), duration(left, follow_last(w, "time/train_total")));
	end_line(p);
	text_free(&bar);
	double usual = usual_seconds(w);
	if (follow_goes_on(w) && w->age > fmax(QUIET, 5 * usual)) {
		put(p, WARN, "no row for %s: an epoch takes %s", duration(left, w->age),
		    seconds(took, usual));
		end_line(p);
	}
}

/* ---- Curves ------------------------------------------------------------------------------------ */

static void put_curve(struct page *p, const struct follow *w, const char *label, const char *name)
{
	const struct series *s = follow_series(w, name);
	bool wide = p->style->width >= WIDE;
	struct text line = { 0 };
	double low = INFINITY, high = -INFINITY;

	if (!s || !s->n)
		return;
	for (int i = 0; i < s->n; i++)
		if (isfinite(s->v[i])) {
			low = fmin(low, s->v[i]);
			high = fmax(high, s->v[i]);
		}
	put(p, DIM, "%-*s", LABEL, label);
	if (isnan(s->v[s->n - 1]))
		put(p, PLAIN, "%*s ", VALUE - 1, "-");
	else
		put(p, PLAIN, "%*.4g ", VALUE - 1, s->v[s->n - 1]);
	int room = p->style->width - p->column - (wide ? 24 : 0);
	sparkline(&line, s->v, s->n, room > 0 ? room : 0, p->style->utf8);
	add(p, CURVE, line.s ? line.s : "");
	if (wide && low <= high)
		put(p, DIM, "  %.4g to %.4g", low, high);
	end_line(p);
	text_free(&line);
}

static void put_curves(struct page *p, const struct follow *w)
{
	if (w->step < 0)
		return;
	part(p);
	put_curve(p, w, "reward", "reward/mean");
	put_curve(p, w, "held-out", follow_score(w));
	put_curve(p, w, "loss", "loss/policy");
	put_curve(p, w, "KL", "loss/kl");
	put_curve(p, w, "gradient", "grad_norm");
	put_curve(p, w, "adapter", "lora_norm");
}

/* ---- Phases, ranks, rewards -------------------------------------------------------------------- */

static const struct phase {
	const char *label, *name;
} phases[] = { { "sampling", "time/rollout" },
	       { "reward wait", "time/reward_wait" },
	       { "update", "time/update" },
	       { "all-reduce", "time/all_reduce" } };
#define N_PHASES (sizeof phases / sizeof *phases)

static void put_phases(struct page *p, const struct follow *w)
{
	double of[N_PHASES], sum = 0;
	char took[32];
	int room = p->style->width - LABEL - VALUE - 8;

	if (!w->steps)
		return;
	part(p);
	for (size_t i = 0; i < N_PHASES; i++) {
		of[i] = follow_mean(w, phases[i].name, LAST);
		sum += isnan(of[i]) ? 0 : of[i];
	}
	for (size_t i = 0; i < N_PHASES; i++) {
		struct text bar = { 0 };
		double share = sum > 0 && !isnan(of[i]) ? of[i] / sum : 0;

		put(p, DIM, "%-*s", LABEL, phases[i].label);
		put(p, PLAIN, "%*s %4.0f %% ", VALUE - 1, seconds(took, of[i]), 100 * share);
		sparkline_bar(&bar, share, room < 0 ? 0 : room < MOST_BAR ? room : MOST_BAR, p->style->utf8);
		add(p, CURVE, bar.s ? bar.s : "");
		end_line(p);
		text_free(&bar);
	}
	double eval = follow_last(w, "time/eval"), save = follow_last(w, "time/checkpoint");
	if (!isnan(eval) || !isnan(save)) {
		put(p, DIM, "%-*s", LABEL, "each time");
		put(p, PLAIN, "evaluation %s", seconds(took, eval));
		put(p, PLAIN, ", checkpoint %s", seconds(took, save));
		end_line(p);
	}
}

/* How often rank r was the slowest lately. */
static int slowest_of(const struct series *s, double r, int *of)
{
	int n = 0, from = s->n > LAST ? s->n - LAST : 0;

	for (int i = from; i < s->n; i++)
		n += s->v[i] == r;
	*of = s->n - from;
	return n;
}

static void put_ranks(struct page *p, const struct follow *w)
{
	static const char *const names[] = { "sampling", "reward_wait", "update" };
	const struct series *slowest = follow_series(w, "ranks/slowest");
	double waiting = follow_mean(w, "ranks/waiting", LAST);
	char most[32], mean[32], name[64];
	int of;

	if (!slowest || !slowest->n)
		return;
	part(p);
	double r = slowest->v[slowest->n - 1];
	int n = slowest_of(slowest, r, &of);
	put(p, DIM, "%-*s", LABEL, "ranks");
	put(p, PLAIN, "slowest: %.0f (%d of %d epochs)  ", r, n, of);
	put(p, waiting > metric_find("ranks/waiting")->high ? WARN : PLAIN, "waiting for it: %.0f %%",
	    100 * waiting);
	end_line(p);
	put(p, DIM, "%-*s", LABEL, " max / mean");
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "ranks/%s_max", names[i]);
		double high = follow_mean(w, name, LAST);
		snprintf(name, sizeof name, "ranks/%s_mean", names[i]);
		put(p, PLAIN, "%s%s %s/%s", i ? ", " : "", i == 1 ? "rewards" : names[i], seconds(most, high),
		    seconds(mean, follow_mean(w, name, LAST)));
	}
	end_line(p);
}

/* One of scoring/WHAT/REWARD; NAN: there is none. */
static double scoring(const struct follow *w, const char *what, const char *reward)
{
	char name[256];

	snprintf(name, sizeof name, "scoring/%s/%s", what, reward);
	return follow_last(w, name);
}

static void put_trouble(struct page *p, const struct follow *w, const char *reward, const char *what,
			const char *words)
{
	double v = scoring(w, what, reward);

	if (!isnan(v))
		put(p, v > 0 ? WARN : PLAIN, ", %.0f %s", v, words);
}

static void put_rewards(struct page *p, const struct follow *w)
{
	static const char prefix[] = "scoring/unavailable/";
	char mean[32], longest[32];
	bool first = true;

	for (int i = 0; i < w->n_series; i++) {
		const char *reward = w->series[i].name + strlen(prefix);

		if (!text_starts(w->series[i].name, prefix))
			continue;
		if (first)
			part(p);
		put(p, DIM, "%-*.*s", LABEL, first ? LABEL : 0, "rewards");
		put(p, PLAIN, "%s %s a call (longest %s)", reward,
		    seconds(mean, scoring(w, "seconds", reward)),
		    seconds(longest, scoring(w, "longest", reward)));
		put_trouble(p, w, reward, "unavailable", "unavailable");
		put_trouble(p, w, reward, "given_up", "given up");
		put_trouble(p, w, reward, "restarts", "restarts");
		end_line(p);
		first = false;
	}
}

/* ---- Health, memory, warnings ------------------------------------------------------------------ */

static void put_health(struct page *p, const struct follow *w)
{
	static const struct {
		const char *name, *label;
		bool trouble; /* shown where it is not 0 */
	} numbers[] = { { "skipped", "skipped", true },
			{ "rollbacks", "returns", true },
			{ "health/pixel_mean", "brightness", false },
			{ "health/pixel_saturated", "saturated", false },
			{ "health/x0_norm", "latents", false },
			{ "advantage/flat_groups", "flat groups", false } };
	bool first = true;

	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
		const struct metric_info *m = metric_find(numbers[i].name);
		double v = follow_last(w, numbers[i].name);

		if (isnan(v) || (numbers[i].trouble && v == 0))
			continue;
		if (first)
			put(p, DIM, "%-*s", LABEL, "health");
		put(p, v < m->low || v > m->high ? WARN : PLAIN, "%s%s %.3g%s", first ? "" : ", ",
		    numbers[i].label, v, v < m->low || v > m->high ? " !" : "");
		first = false;
	}
	if (!first)
		end_line(p);
}

static void put_memory(struct page *p, const struct follow *w)
{
	double peak = follow_last(w, "memory/peak"), held = follow_last(w, "memory/reserved");

	if (isnan(peak))
		return;
	put(p, DIM, "%-*s", LABEL, "memory");
	put(p, PLAIN, "tensors %.3g GiB at most", peak);
	if (held > 0)
		put(p, PLAIN, ", held %.3g GiB", held);
	end_line(p);
}

static void put_warnings(struct page *p, const struct follow *w)
{
	if (w->warnings || w->bad)
		part(p);
	if (w->bad) {
		put(p, WARN, "%d line%s of metrics.jsonl cannot be read", w->bad, w->bad > 1 ? "s" : "");
		end_line(p);
	}
	for (int i = 0; i < w->warnings; i++) {
		put(p, WARN, "warning: %s", w->warning[i]);
		end_line(p);
	}
}

static void put_nothing(struct page *p, const struct follow *w)
{
	char age[32];

	if (w->state == FOLLOW_STARTING)
		put(p, PLAIN, "a process has this directory and is loading: there is nothing to show yet");
	else if (w->step >= 0)
		put(p, PLAIN, "no epoch yet: only the evaluation before training, %s ago",
		    duration(age, fmax(w->age, 0)));
	else
		put(p, PLAIN, "no epoch yet");
	end_line(p);
}

/* The first n lines. */
static void cut(struct text *t, size_t from, int n)
{
	char *s = t->s + from;

	for (; n > 0 && *s; n--)
		s = strchr(s, '\n') + 1;
	*s = '\0';
	t->n = (size_t)(s - t->s);
}

void top_lines(struct text *out, const struct follow *w, const struct top_style *style)
{
	struct page p = { .out = out, .style = style };
	size_t from = out->n;

	put_state(&p, w);
	if (w->steps)
		put_progress(&p, w);
	else
		put_nothing(&p, w);
	put_curves(&p, w);
	put_phases(&p, w);
	put_ranks(&p, w);
	put_rewards(&p, w);
	if (w->steps)
		part(&p);
	put_health(&p, w);
	put_memory(&p, w);
	put_warnings(&p, w);
	if (style->height)
		cut(out, from, style->height);
}
