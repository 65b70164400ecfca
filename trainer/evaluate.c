/* evaluate.c -- the held-out score.  Item i of an evaluation is image i % per of prompt i / per. */
#include "trainer/evaluate.h"
#include "aten/transfer.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/judging.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shown from the first prompt that has to be encoded on: most of the time all are there. */
struct encoding {
	struct progress bar;
	bool begun;
	int64_t n;
};

static void encoded(void *ctx, int64_t i)
{
	struct encoding *x = ctx;

	if (!x->begun)
		progress_begin(&x->bar, "encode prompts", i, x->n);
	x->begun = true;
	progress_tick(&x->bar, i + 1, "%s", "");
}

int prepare_prompts(struct dist *d, const struct pipeline *p, const struct prompts *in, struct err *e)
{
	const char **text = mem_zero((size_t)in->n, sizeof *text);
	struct encoding x = { .n = in->n };
	int ret;

	for (int64_t i = 0; i < in->n; i++)
		text[i] = in->v[i].text;
	/* shared among all ranks, and then, where machines have a cache each, among those of a machine */
	ret = dist_agree(d, conditioner_fill(p->text, text, in->n, d->rank, d->ranks, encoded, &x, e), e);
	if (!ret)
		ret = dist_agree(
		    d, conditioner_fill(p->text, text, in->n, d->local_rank, d->local_ranks, encoded, &x, e),
		    e);
	if (x.begun)
		progress_end(&x.bar);
	free(text);
	return ret ? err_in(e, "%s", in->path) : 0;
}

int encode_prompts(const struct pipeline *p, const struct prompts *in, const int64_t *index, int n,
		   struct cond *out, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	const char **text = mem_zero((size_t)n, sizeof *text);
	int64_t *row = mem_zero((size_t)n, sizeof *row);
	struct cond once = { 0 };
	int distinct = 0, ret;

	for (int i = 0; i < n; i++) {
		if (!i || index[i] != index[i - 1])
			text[distinct++] = in->v[index[i]].text;
		row[i] = distinct - 1;
	}
	ret = pipeline_encode(p, text, distinct, &once, e);
	if (!ret) {
		*out = cond_rows(&once, at_to(at_from(row, DIMS(n), AT_I64), AT_I64, p->device));
		cond_escape(s, out);
	}
	free(text);
	free(row);
	at_end(s);
	return ret;
}

/* Images of items id[0..n): uint8 (n, H, W, 3) on the pipeline's device, of the innermost scope. */
static int sample_items(at_t *rgb_BHW3, const struct evaluator *v, const struct pass *pass, const int64_t *id,
			int n, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	const struct pipeline *p = v->pipeline;
	int64_t *prompt = mem_zero((size_t)n, sizeof *prompt);
	struct cond c = { 0 };
	int ret;

	for (int i = 0; i < n; i++)
		prompt[i] = id[i] / v->images_per_prompt;
	ret = encode_prompts(p, v->prompts, prompt, n, &c, e);
	if (!ret) {
		at_t noise = sampler_noise(p, v->seed, RNG_EVAL, 0, id, n,
					   pipeline_latent_shape(p, v->height, v->width));

		*rgb_BHW3 = at_escape(sc, pipeline_pixels(p, sampler_run(v->sampler, pass, noise, &c)));
	}
	free(prompt);
	at_end(sc);
	return ret;
}

/* Images of n items from `first` on, on their way to the CPU. */
struct delivery {
	struct at_fetch *images; /* NULL: none are */
	int64_t first;
	int n;
};

static void deliver(const struct evaluator *v, struct judging *j, struct delivery *d)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct reward_item *item = mem_zero((size_t)d->n + 1, sizeof *item);

	if (d->images) {
		at_t rgb = at_fetch_end(d->images);
		int h = (int)at_size(rgb, 1), w = (int)at_size(rgb, 2);

		for (int i = 0; i < d->n; i++) {
			const struct prompt *p = &v->prompts->v[(d->first + i) / v->images_per_prompt];
			item[i] = (struct reward_item) { .rgb = (const uint8_t *)at_data(rgb) +
								(size_t)i * (size_t)(h * w * 3),
							 .w = w,
							 .h = h,
							 .prompt = p->text,
							 .meta = p->meta };
		}
		judging_submit(j, d->first - j->first, item, d->n);
	}
	d->images = NULL;
	free(item);
	at_end(sc);
}

/* Samples a batch of items from `first` on; the one before goes to the judges when this one is on its way. */
static int score_batch(const struct evaluator *v, const struct pass *pass, struct judging *j,
		       struct delivery *coming, int64_t first, int n, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t *id = mem_zero((size_t)n, sizeof *id);
	struct delivery next = { .first = first, .n = n };
	at_t rgb;
	int ret;

	for (int i = 0; i < n; i++)
		id[i] = first + i;
	ret = sample_items(&rgb, v, pass, id, n, e);
	if (!ret)
		next.images = at_fetch_begin(rgb);
	deliver(v, j, coming);
	*coming = next;
	if (!ret && at_fetch_ready(next.images))
		deliver(v, j, coming);
	free(id);
	at_end(sc);
	return ret;
}

static int score_share(const struct evaluator *v, const struct pass *pass, struct judging *j, struct err *e)
{
	struct delivery coming = { 0 };
	struct progress bar;
	int ret = 0;

	if (!v->quiet)
		progress_begin(&bar, "evaluate", 0, j->count);
	for (int64_t at = 0; at < j->count && !ret; at += v->batch) {
		int n = (int)(j->count - at < v->batch ? j->count - at : v->batch);

		ret = score_batch(v, pass, j, &coming, j->first + at, n, e);
		if (!ret && !v->quiet)
			progress_tick(&bar, at + n, "%s", "");
	}
	deliver(v, j, &coming);
	if (!v->quiet)
		progress_end(&bar);
	return ret;
}

static struct eval_tag *tag_of(struct eval_result *r, const char *name)
{
	for (int i = 0; i < r->n_tags; i++)
		if (!strcmp(r->tag[i].name, name))
			return &r->tag[i];
	if (r->n_tags == EVAL_TAGS)
		return &r->tag[EVAL_TAGS - 1];
	struct eval_tag *t = &r->tag[r->n_tags++];
	*t = (struct eval_tag) { 0 };
	snprintf(t->name, sizeof t->name, "%s", *name ? name : "all");
	return t;
}

void eval_count(struct eval_result *r, const struct mixture *m, const struct mixture_scores *s, int64_t i,
		const char *tag)
{
	struct eval_tag *t = tag_of(r, *tag ? tag : "all");
	int k = 0, sub = 0;

	r->has_strict = mixture_find_sub(m, "strict", &k, &sub);
	if (isnan(s->total[i])) {
		r->unavailable++;
		return;
	}
	r->images++;
	r->total += s->total[i];
	t->images++;
	t->soft += r->has_strict ? s->value[k * s->n + i] : s->total[i];
	t->strict += r->has_strict ? s->sub[(k * s->n + i) * REWARD_SUBS + sub] : 0;
}

void eval_finish(struct eval_result *r)
{
	double variance = 0;
	int tags = 0;

	r->total /= r->images ? (double)r->images : 1;
	for (int i = 0; i < r->n_tags; i++) {
		struct eval_tag *t = &r->tag[i];
		if (!t->images)
			continue;
		tags++;
		t->soft /= (double)t->images;
		t->strict /= (double)t->images;
		r->soft += t->soft;
		r->strict += t->strict;
		variance += t->strict * (1 - t->strict) / (double)t->images;
	}
	r->soft /= tags ? tags : 1;
	r->strict = r->has_strict ? r->strict / (tags ? tags : 1) : NAN;
	r->strict_error = r->has_strict ? sqrt(variance) / (tags ? tags : 1) : NAN;
}

int evaluate(const struct evaluator *v, const struct pass *pass, struct eval_result *r, struct err *e)
{
	struct dist *d = v->dist;
	int64_t n = v->prompts->n * v->images_per_prompt;
	int ret;
	double start = clock_now();
	struct mixture_scores all;
	struct judging j;

	*r = (struct eval_result) { 0 };
	judging_begin(&j, d, v->mixture, n, v->images_per_prompt);
	ret = dist_agree(d, score_share(v, pass, &j, e), e);
	if (ret) {
		judging_drop(&j);
		return ret;
	}
	judging_finish(&j, &all, NULL);
	for (int64_t i = 0; i < n; i++)
		eval_count(r, v->mixture, &all, i, v->prompts->v[i / v->images_per_prompt].tag);
	eval_finish(r);
	if (!r->images)
		ret = err_set(e, "evaluation: no image could be scored; %s", all.why);
	r->seconds = clock_now() - start;
	mixture_scores_free(&all);
	return ret;
}

json_t *eval_json(const struct eval_result *r)
{
	json_t *tags = json_object(), *j;

	for (int i = 0; i < r->n_tags; i++)
		json_object_set_new(tags, r->tag[i].name,
				    json_pack("{s:f, s:f, s:I}", "strict", r->tag[i].strict, "soft",
					      r->tag[i].soft, "images", (json_int_t)r->tag[i].images));
	j = json_pack("{s:f, s:f, s:I, s:I, s:o, s:f}", "soft", r->soft, "reward", r->total, "images",
		      (json_int_t)r->images, "unavailable", (json_int_t)r->unavailable, "tags", tags,
		      "seconds", r->seconds);
	json_object_set_new(j, "strict", r->has_strict ? json_real(r->strict) : json_null());
	json_object_set_new(j, "strict_95", r->has_strict ? json_real(1.96 * r->strict_error) : json_null());
	return j;
}

int eval_from_json(struct eval_result *r, const json_t *j, const char *what, struct err *e)
{
	const json_t *tags = json_object_get(j, "tags");
	const char *name;
	json_t *v;

	*r = (struct eval_result) { .has_strict = json_is_number(json_object_get(j, "strict")) };
	if (json_get_real(&r->soft, j, "soft", 0, what, e) ||
	    json_get_real(&r->total, j, "reward", 0, what, e) ||
	    json_get_int(&r->images, j, "images", 0, what, e) ||
	    json_get_int(&r->unavailable, j, "unavailable", 0, what, e) ||
	    json_get_real(&r->seconds, j, "seconds", 0, what, e))
		return -1;
	r->strict = r->has_strict ? json_number_value(json_object_get(j, "strict")) : NAN;
	r->strict_error = r->has_strict ? json_number_value(json_object_get(j, "strict_95")) / 1.96 : NAN;
	json_object_foreach((json_t *)(uintptr_t)tags, name, v)
	{
		struct eval_tag *t = tag_of(r, name);
		if (json_get_real(&t->strict, v, "strict", 0, what, e) ||
		    json_get_real(&t->soft, v, "soft", 0, what, e) ||
		    json_get_int(&t->images, v, "images", 0, what, e))
			return -1;
	}
	return 0;
}

/* By name: an evaluation that was read from a file has its tags in another order.  The prompts are the same,
 * so every tag is in both; one with no score has all zeros. */
static const struct eval_tag *find_tag(const struct eval_result *r, const char *name)
{
	static const struct eval_tag none;

	for (int i = 0; i < r->n_tags; i++)
		if (!strcmp(r->tag[i].name, name))
			return &r->tag[i];
	return &none;
}

static void print_row(const char *name, const struct eval_tag *before, const struct eval_tag *after,
		      bool strict)
{
	double b = strict ? before->strict : before->soft;
	if (after)
		printf("  %-16s %8.3f %8.3f %+8.3f\n", name, b, strict ? after->strict : after->soft,
		       (strict ? after->strict : after->soft) - b);
	else
		printf("  %-16s %8.3f\n", name, b);
}

void eval_print(const struct eval_result *before, const struct eval_result *after, const char *what)
{
	bool strict = before->has_strict;
	struct eval_tag b = { .strict = before->strict, .soft = before->soft }, a = { 0 };

	printf("\n  %-16s %8s%s\n", strict ? "strict score" : "reward", after ? "before" : "score",
	       after ? "    after   change" : "");
	for (int i = 0; i < before->n_tags; i++)
		print_row(before->tag[i].name, &before->tag[i],
			  after ? find_tag(after, before->tag[i].name) : NULL, strict);
	if (after)
		a = (struct eval_tag) { .strict = after->strict, .soft = after->soft };
	print_row("overall", &b, after ? &a : NULL, strict);
	if (strict)
		print_row("soft", &b, after ? &a : NULL, false);
	const struct eval_result *last = after ? after : before;
	printf("  (%lld %s", (long long)last->images, what);
	if (strict)
		printf(", 95 %% interval of the overall score +-%.3f", 1.96 * last->strict_error);
	printf(")\n");
	fflush(stdout);
}

static int draw_grid(struct image *grid, const struct evaluator *v, const struct pass *pass,
		     const int64_t *id, int n, int cols, int zoom, struct err *e)
{
	const uint8_t **tile = mem_zero((size_t)n, sizeof *tile);
	uint8_t *all = NULL;
	int w = 0, h = 0, ret = 0;

	for (int at = 0; at < n && !ret; at += (int)v->batch) {
		struct at_scope *sc = at_begin(AT_NO_GRAD);
		int k = n - at < v->batch ? n - at : (int)v->batch;
		at_t rgb;

		ret = sample_items(&rgb, v, pass, id + at, k, e);
		if (!ret) {
			size_t each = (size_t)at_numel(rgb) / (size_t)k;

			rgb = at_to(rgb, AT_U8, AT_CPU);
			h = (int)at_size(rgb, 1);
			w = (int)at_size(rgb, 2);
			all = all ? all : mem_zero((size_t)n, each);
			memcpy(all + each * (size_t)at, at_data(rgb), each * (size_t)k);
			for (int i = 0; i < k; i++)
				tile[at + i] = all + each * (size_t)(at + i);
		}
		at_end(sc);
	}
	if (!ret)
		*grid = image_grid(tile, n, w, h, cols, 2, zoom);
	free(tile);
	free(all);
	return ret;
}

int eval_grid(struct image *grid, const struct evaluator *v, const struct pass *pass, int n, int cols,
	      int zoom, struct err *e)
{
	int64_t *id = mem_zero((size_t)n, sizeof *id), *seen = mem_zero((size_t)v->prompts->n, sizeof *seen);
	int got = 0, ret = 0;

	*grid = (struct image) { 0 };
	/* The j-th prompt of each tag before the (j + 1)-th of any. */
	for (int64_t i = 0; i < v->prompts->n; i++)
		for (int64_t k = 0; k < i; k++)
			seen[i] += !strcmp(v->prompts->v[k].tag, v->prompts->v[i].tag);
	for (int64_t turn = 0; got < n && turn < v->prompts->n; turn++)
		for (int64_t i = 0; i < v->prompts->n && got < n; i++)
			if (seen[i] == turn)
				id[got++] = i * v->images_per_prompt;
	if (v->dist->rank == 0)
		ret = draw_grid(grid, v, pass, id, got, cols, zoom, e);
	free(id);
	free(seen);
	return ret;
}
