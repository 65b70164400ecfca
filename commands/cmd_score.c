/* cmd_score.c -- contraflow score: images on disk and their prompts -> rewards, as JSON. */
#include "base/file.h"
#include "base/image.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/version.h"
#include "data/gallery.h"
#include "rewards/judges/scoring.h"
#include "trainer/evaluation/eval_result.h"
#include "commands/reward_options.h"
#include "dist/startup.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Images in memory at a time, by number and by their pixels, twice: while some are scored the next are read.
 * A larger image comes alone. */
#define PIECE        64
#define PIECE_PIXELS (16 << 20)

struct mean {
	double sum;
	int64_t n;
};
struct scoring {
	struct mixture *mixture;
	const struct gallery *gallery;
	int64_t *order;  /* in which images are scored */
	int64_t *pixels; /* of each image */
	json_t **entry;  /* of the report, an image each */
	struct eval_result result;
	struct mean *mean; /* each reward's score, then its sub-scores */
	char why[256];     /* the first reason of an unavailable score */
	struct progress bar;
	int64_t done;
};
struct piece {
	int64_t first; /* in `order` */
	struct mixture_scores s;
};

/* A file's name and a line of text may be any bytes; what is not UTF-8 cannot stand in JSON. */
static json_t *words(const char *s)
{
	json_t *o = json_string(s);

	return o ? o : json_null();
}

static const struct gallery_image *image_at(const struct scoring *x, int64_t at)
{
	return &x->gallery->image[x->order[at]];
}

/* ---- The report ---- */

static void count(struct mean *m, double v)
{
	if (!isfinite(v))
		return;
	m->sum += v;
	m->n++;
}

static json_t *mean_of(const struct mean *m)
{
	return json_number(m->n ? m->sum / (double)m->n : NAN);
}

static void report(struct scoring *x, const struct piece *p, int i)
{
	const struct gallery_image *pic = image_at(x, p->first + i);
	const struct mixture_scores *s = &p->s;
	json_t *o = json_pack("{s:o, s:o, s:o}", "image", words(pic->path), "prompt",
			      words(pic->prompt->text), "reward", json_number(s->total[i]));

	for (int k = 0; k < s->rewards; k++) {
		struct mean *mean = x->mean + k * (1 + REWARD_SUBS);

		count(mean, s->value[k * s->n + i]);
		for (int j = 0; j < REWARD_SUBS; j++)
			count(mean + 1 + j, s->sub[(k * s->n + i) * REWARD_SUBS + j]);
		json_object_set_new(o, mixture_at(x->mixture, k)->name, scoring_reward(x->mixture, s, k, i));
	}
	eval_count(&x->result, x->mixture, s, i, pic->prompt->tag, pic->prompt->text);
	x->entry[x->order[p->first + i]] = o;
}

static json_t *summary(const struct scoring *x)
{
	json_t *o = eval_json(&x->result), *rewards = json_object_get(o, "rewards");

	for (int k = 0; k < mixture_count(x->mixture); k++) {
		const struct mixture_entry *entry = mixture_at(x->mixture, k);
		const struct mean *mean = x->mean + k * (1 + REWARD_SUBS);
		json_t *r = json_object_get(rewards, mixture_at(x->mixture, k)->name);

		for (int j = 0; mixture_sub(entry, j); j++)
			json_object_set_new(r, mixture_sub(entry, j), mean_of(mean + 1 + j));
	}
	return o;
}

/* Why images have no score, or not a full one: a line each. */
static void print_reasons(const struct scoring *x)
{
	for (int64_t i = 0; i < x->gallery->n; i++)
		for (int k = 0; k < mixture_count(x->mixture); k++) {
			const char *name = mixture_at(x->mixture, k)->name;
			const char *why =
			    json_string_value(json_object_get(json_object_get(x->entry[i], name), "why"));
			struct err line; /* without the control characters of other people's texts */

			if (!why)
				continue;
			err_set(&line, "%s: %s: %s", x->gallery->image[i].path, name, why);
			printf("%s\n", line.msg);
		}
}

static int write_report(const struct scoring *x, const char *out, struct err *e)
{
	json_t *images = json_array(), *o;
	int ret = 0;

	for (int64_t i = 0; i < x->gallery->n; i++)
		json_array_append(images, x->entry[i]);
	o = json_pack("{s:o, s:o, s:s}", "images", images, "summary", summary(x), "version", version());
	if (out) {
		ret = json_write(out, o, e);
		if (!ret)
			print_reasons(x);
		if (!ret)
			eval_print(&x->result, NULL, "images");
	} else {
		char *text = json_text(o, JSON_INDENT(2));
		puts(text);
		free(text);
	}
	json_decref(o);
	return ret;
}

/* ---- The work ---- */

static bool same_prompt(const struct prompt *a, const struct prompt *b)
{
	return a == b || (!strcmp(a->text, b->text) && !strcmp(a->meta, b->meta));
}

/* What can be known before the first score: no hour's work is lost to a file that is no image. */
static int check(const struct scoring *x, struct err *e)
{
	const struct gallery *g = x->gallery;

	for (int64_t i = 0; i < g->n; i++) {
		const struct prompt *p = g->image[i].prompt;
		struct file_map m;
		int w, h, ret;

		if (file_map(&m, g->image[i].path, e))
			return -1;
		ret = image_size(&w, &h, m.data, m.size, g->image[i].path, e);
		file_unmap(&m);
		if (ret)
			return -1;
		x->pixels[i] = (int64_t)w * h;
		if (i && p == g->image[i - 1].prompt)
			continue;
		if (mixture_check(x->mixture, p->text, p->meta, e))
			return err_in(e, "prompt '%s'", p->text);
	}
	return 0;
}

/* How many images from `first` on: a group that some reward compares stays whole. */
static int piece_size(const struct scoring *x, int64_t first)
{
	int64_t end = first, n = x->gallery->n, pixels = 0;
	bool groups = mixture_has_groups(x->mixture);

	while (end < n) {
		pixels += x->pixels[x->order[end]];
		if (end > first && (end - first >= PIECE || pixels > PIECE_PIXELS) &&
		    !(groups && same_prompt(image_at(x, end)->prompt, image_at(x, end - 1)->prompt)))
			break;
		end++;
	}
	return (int)(end - first);
}

/* Reads n images and hands them over. */
static int piece_begin(struct piece *p, struct scoring *x, int64_t first, int n, struct err *e)
{
	struct image *im = mem_zero((size_t)n, sizeof *im);
	struct reward_item *item = mem_zero((size_t)n, sizeof *item);
	int ret = 0;

	*p = (struct piece) { .first = first };
	for (int i = 0; i < n && !ret; i++) {
		const struct gallery_image *pic = image_at(x, first + i);

		ret = image_read(&im[i], pic->path, e);
		item[i] = (struct reward_item) { .rgb = im[i].rgb,
						 .w = im[i].w,
						 .h = im[i].h,
						 .prompt = pic->prompt->text,
						 .meta = pic->prompt->meta };
	}
	if (!ret) {
		mixture_scores_init(&p->s, n, mixture_count(x->mixture));
		mixture_scores_keep_reasons(&p->s);
		mixture_begin(x->mixture, &p->s);
		mixture_submit(x->mixture, &p->s, 0, item, n);
		mixture_submit_groups(x->mixture, &p->s, item, n);
	}
	for (int i = 0; i < n; i++)
		image_free(&im[i]);
	free(im);
	free(item);
	return ret;
}

static void piece_finish(struct piece *p, struct scoring *x)
{
	if (!p->s.n)
		return;
	mixture_wait(x->mixture, &p->s);
	mixture_total(x->mixture, &p->s, NULL, 0);
	for (int i = 0; i < p->s.n; i++)
		report(x, p, i);
	if (p->s.unavailable && !*x->why)
		snprintf(x->why, sizeof x->why, "%s", p->s.why);
	x->done += p->s.n;
	progress_tick(&x->bar, x->done, "%s", "");
	mixture_scores_free(&p->s);
	*p = (struct piece) { 0 };
}

/* Images of a prompt follow each other. */
static int by_prompt(const void *a, const void *b, void *ctx)
{
	const struct gallery *g = ctx;
	int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
	const struct prompt *p = g->image[i].prompt, *q = g->image[j].prompt;
	int c = p == q ? 0 : strcmp(p->text, q->text);

	c = c || p == q ? c : strcmp(p->meta, q->meta);
	return c ? c : (i > j) - (i < j);
}

static int score_all(struct scoring *x, struct err *e)
{
	struct piece piece[2] = { 0 }; /* in place: the queue knows where their scores go */
	int64_t n = x->gallery->n;
	int now = 0, ret = check(x, e);

	for (int64_t i = 0; i < n; i++)
		x->order[i] = i;
	if (mixture_has_groups(x->mixture))
		qsort_r(x->order, (size_t)n, sizeof *x->order, by_prompt, (void *)(uintptr_t)x->gallery);
	progress_begin(&x->bar, "score", 0, n);
	for (int64_t at = 0; at < n && !ret; now = !now) {
		int k = piece_size(x, at);

		ret = piece_begin(&piece[now], x, at, k, e);
		piece_finish(&piece[!now], x);
		at += k;
	}
	piece_finish(&piece[!now], x);
	progress_end(&x->bar);
	eval_finish(&x->result);
	return ret;
}

static int score(struct mixture *m, const struct gallery *g, const char *out, struct err *e)
{
	int per = 1 + REWARD_SUBS;
	struct scoring x = { .mixture = m,
			     .gallery = g,
			     .order = mem_zero((size_t)g->n, sizeof *x.order),
			     .pixels = mem_zero((size_t)g->n, sizeof *x.pixels),
			     .entry = mem_zero((size_t)g->n, sizeof *x.entry),
			     .mean = mem_zero((size_t)(mixture_count(m) * per), sizeof *x.mean) };
	double start = clock_now();
	int ret = score_all(&x, e);

	x.result.seconds = clock_now() - start;
	if (!ret)
		ret = write_report(&x, out, e);
	if (!ret && x.result.unavailable)
		ret = err_set(e, "score: %lld of %lld images could not be scored: %s",
			      (long long)x.result.unavailable, (long long)g->n, x.why);
	for (int64_t i = 0; i < g->n; i++)
		json_decref(x.entry[i]);
	eval_release(&x.result);
	free(x.order);
	free(x.pixels);
	free(x.entry);
	free(x.mean);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	const char *file = NULL, *out = NULL, **args = mem_zero((size_t)argc + 1, sizeof *args);
	struct reward_options o = { 0 };
	bool quiet = false;
	const struct option_spec spec[] = {
		{ "prompts", 's', &file, "FILE",
		  ".txt or .jsonl with one prompt per image, in order, or one for all (default: NAME.txt, "
		  "NAME.jsonl or GenEval's metadata.jsonl beside the images)" },
		{ "config", 's', &o.config, "FILE",
		  "use the section `rewards` of this file (default: geneval)" },
		REWARD_OPTIONS(o),
		{ "quiet", 'f', &quiet, NULL, "print no progress" },
		{ "o", 's', &out, "FILE.json", "where the scores go (default: standard output)" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct gallery g = { 0 };
	struct mixture *m = NULL;
	struct dist d;
	int n, ret = options_parse(&cmd_score, spec, argc, argv, args, argc, &n, e);

	if (!ret && !n)
		ret = err_set(e, "score: usage: contraflow score %s", cmd_score.usage);
	log_quiet(quiet);
	if (!o.config && !o.reward)
		o.reward = "geneval";
	if (!ret && file_can_write(out, e))
		ret = err_in(e, "score");
	if (!ret)
		ret = startup_open(&d, STARTUP_ALONE, e);
	if (!ret)
		ret = reward_options_open(&m, &o, &d, "score", e) || gallery_open(&g, args, n, file, e) ? -1
													: 0;
	if (!ret)
		ret = score(m, &g, out, e);
	gallery_close(&g);
	mixture_close(m);
	free(args);
	return ret;
}

const struct command cmd_score = {
	"score", "[--prompts FILE] [--config FILE] [--reward NAME] [-o FILE.json] IMAGE|FOLDER ...",
	"score images with the configured rewards", run
};
