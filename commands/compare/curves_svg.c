/* curves_svg.c -- two panels of curves as SVG, readable on light and on dark pages. */
#include "commands/compare/curves.h"
#include <math.h>
#include <string.h>

enum { PANEL = 400, HEIGHT = 300, LEFT = 46, TOP = 16, BOTTOM = 44, GAP = 40, POINTS = 80, LEGEND = 22 };

static const char *const colour[] = { "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9" };

static double furthest(const struct curve_set *set, int n, enum axis a)
{
	double most = 0;

	for (int i = 0; i < n; i++)
		for (int k = 0; k < set[i].n; k++)
			most = fmax(most, set[i].v[k].v[set[i].v[k].n - 1].at[a]);
	return most > 0 ? most : 1;
}

/* Mean and range of the seeds where all of them are; false: some is not. */
static bool seeds_at(const struct curve_set *s, enum axis a, double taken, double *mean, double *least,
		     double *most)
{
	*mean = 0;
	*least = INFINITY;
	*most = -INFINITY;
	for (int k = 0; k < s->n; k++) {
		double v = curve_at(&s->v[k], a, taken);

		if (isnan(v))
			return false;
		*mean += v / s->n;
		*least = fmin(*least, v);
		*most = fmax(*most, v);
	}
	return s->n > 0;
}

struct panel {
	struct text *out;
	double x, width, height, most; /* most: of the axis */
	enum axis a;
};

static double px(const struct panel *p, double taken)
{
	return p->x + taken / p->most * p->width;
}

static double py(const struct panel *p, double score)
{
	return TOP + (1 - score) * p->height;
}

static void draw_set(const struct panel *p, const struct curve_set *s, const char *ink)
{
	struct text band = { 0 }, line = { 0 };
	double mean, least, most, low[POINTS + 1], x[POINTS + 1];
	int n = 0;

	for (int i = 0; i <= POINTS; i++) {
		double taken = p->most * i / POINTS;

		if (!seeds_at(s, p->a, taken, &mean, &least, &most))
			continue;
		x[n] = px(p, taken);
		low[n++] = py(p, least);
		text_printf(&band, "%.1f,%.1f ", px(p, taken), py(p, most));
		text_printf(&line, "%.1f,%.1f ", px(p, taken), py(p, mean));
	}
	while (n-- > 0)
		text_printf(&band, "%.1f,%.1f ", x[n], low[n]);
	if (line.n)
		text_printf(p->out,
			    "<polygon points=\"%s\" fill=\"%s\" fill-opacity=\"0.2\"/>\n"
			    "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n",
			    band.s, ink, line.s, ink);
	text_free(&band);
	text_free(&line);
}

/* Numbers as people write them: 1200000 is 1.2M. */
static void put_number(struct text *out, double v)
{
	if (v >= 1e6)
		text_printf(out, "%.3gM", v / 1e6);
	else if (v >= 1e3)
		text_printf(out, "%.3gk", v / 1e3);
	else
		text_printf(out, "%.3g", v);
}

static void draw_axes(const struct panel *p, const char *title)
{
	for (int i = 0; i <= 4; i++) {
		double score = i / 4.0, y = py(p, score), x = p->x + p->width * i / 4;

		text_printf(
		    p->out,
		    "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#888\" "
		    "stroke-opacity=\"0.35\"/>\n<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.2f</text>\n"
		    "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">",
		    p->x, p->x + p->width, y, y, p->x - 6, y + 4, score, x, TOP + p->height + 16);
		put_number(p->out, p->most * i / 4);
		text_add(p->out, "</text>\n");
	}
	text_printf(p->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n",
		    p->x + p->width / 2, TOP + p->height + 34, title);
}

static void put_escaped(struct text *out, const char *s)
{
	for (; *s; s++)
		if (*s == '<' || *s == '>' || *s == '&' || *s == '"')
			text_printf(out, "&#%d;", *s);
		else
			text_add_bytes(out, s, 1);
}

void curves_svg(struct text *out, const struct curve_set *set, int n, const char *score)
{
	static const enum axis axes[] = { AXIS_FORWARDS, AXIS_SECONDS };
	static const char *const titles[] = { "forwards of an image", "device-seconds" };
	int width = 2 * PANEL + GAP, height = HEIGHT + LEGEND;

	text_printf(
	    out,
	    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
	    "font-size=\"12\" fill=\"#888\" role=\"img\">\n<title>held-out ",
	    width, height);
	put_escaped(out, score);
	text_add(out, " score</title>\n");
	for (int k = 0; k < 2; k++) {
		struct panel p = { .out = out,
				   .x = LEFT + k * (PANEL + GAP),
				   .width = PANEL - LEFT,
				   .height = HEIGHT - TOP - BOTTOM,
				   .most = furthest(set, n, axes[k]),
				   .a = axes[k] };
		draw_axes(&p, titles[k]);
		for (int i = 0; i < n; i++)
			draw_set(&p, &set[i], colour[i % 6]);
	}
	double x = LEFT;
	for (int i = 0; i < n; i++) {
		text_printf(out,
			    "<rect x=\"%.0f\" y=\"%d\" width=\"12\" height=\"12\" fill=\"%s\"/>\n<text "
			    "x=\"%.0f\" y=\"%d\">",
			    x, HEIGHT + 4, colour[i % 6], x + 17, HEIGHT + 14);
		put_escaped(out, set[i].name);
		text_add(out, "</text>\n");
		x += 40 + 7 * (double)strlen(set[i].name);
	}
	text_add(out, "</svg>\n");
}
