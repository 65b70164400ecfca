#include "trainer/evaluation/grids.h"
#include "base/mem.h"
#include "trainer/evaluation/captions.h"
#include <stdlib.h>
#include <string.h>

static int by_tag(const void *a, const void *b, void *ctx)
{
	const struct prompts *p = ctx;
	int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
	int c = strcmp(p->v[i].tag, p->v[j].tag);

	return c ? c : (i > j) - (i < j);
}

/* A prompt and how many of its tag come before it. */
struct turn {
	int64_t before, prompt;
};
static int by_turn(const void *a, const void *b)
{
	const struct turn *x = a, *y = b;

	if (x->before != y->before)
		return x->before < y->before ? -1 : 1;
	return (x->prompt > y->prompt) - (x->prompt < y->prompt);
}

int grid_choose(const struct prompts *p, int n, int64_t *prompt)
{
	int64_t *order = mem_zero((size_t)p->n + 1, sizeof *order);
	struct turn *turn = mem_zero((size_t)p->n + 1, sizeof *turn);
	int got = 0;

	for (int64_t i = 0; i < p->n; i++)
		order[i] = i;
	qsort_r(order, (size_t)p->n, sizeof *order, by_tag, (void *)(uintptr_t)p);
	for (int64_t i = 0; i < p->n; i++) {
		bool first = !i || strcmp(p->v[order[i]].tag, p->v[order[i - 1]].tag);
		turn[i] = (struct turn) { first ? 0 : turn[i - 1].before + 1, order[i] };
	}
	qsort(turn, (size_t)p->n, sizeof *turn, by_turn);
	for (; got < n && got < p->n; got++)
		prompt[got] = turn[got].prompt;
	free(order);
	free(turn);
	return got;
}

struct tiles {
	uint8_t *rgb; /* of all; NULL: none has come */
	int n, w, h;
};

static int take(void *ctx, int64_t at, at_t rgb_BHW3, struct err *e)
{
	struct tiles *t = ctx;
	size_t bytes = (size_t)at_numel(rgb_BHW3), each = bytes / (size_t)at_size(rgb_BHW3, 0);

	t->h = (int)at_size(rgb_BHW3, 1);
	t->w = (int)at_size(rgb_BHW3, 2);
	t->rgb = t->rgb ? t->rgb : mem_zero((size_t)t->n, each);
	memcpy(t->rgb + each * (size_t)at, at_data(rgb_BHW3), bytes);
	(void)e;
	return 0;
}

/* As grid_sample's `told`; `each` has what was said of the images, or nothing. */
static json_t *tell(const struct sheet *s, const struct sheet_tile *tile, int n, const struct evaluator *v,
		    const int64_t *prompt, const json_t *each)
{
	struct sheet_place *place = mem_zero((size_t)n, sizeof *place);
	json_t *images = json_array();

	sheet_places(s, tile, n, place);
	for (int i = 0; i < n; i++) {
		const struct prompt *p = &v->prompts->v[prompt[i]];
		json_t *one = json_pack("{s:i, s:i, s:o, s:o}", "x", place[i].x, "y", place[i].y, "prompt",
					json_words(p->text), "tag", json_words(p->tag));

		json_object_update(one, json_array_get(each, (size_t)i));
		json_array_append_new(images, one);
	}
	free(place);
	return json_pack("{s:i, s:i, s:i, s:o}", "width", s->w * s->zoom, "height", s->h * s->zoom, "zoom",
			 s->zoom, "images", images);
}

/* With its prompt, its score and what is wrong beneath each. */
static struct image join(const struct tiles *t, const struct evaluator *v, const int64_t *prompt, int cols,
			 int zoom, json_t **told)
{
	json_t *each = json_array();
	struct sheet_tile *tile = mem_zero((size_t)t->n, sizeof *tile);
	struct reward_item *item = mem_zero((size_t)t->n, sizeof *item);
	struct sheet s = { .w = t->w, .h = t->h, .cols = cols, .span = 1, .zoom = zoom };

	for (int i = 0; i < t->n; i++) {
		const struct prompt *p = &v->prompts->v[prompt[i]];
		const uint8_t *rgb = t->rgb + (size_t)i * (size_t)t->w * (size_t)t->h * 3;

		item[i] = (struct reward_item) {
			.rgb = rgb,
			.w = t->w,
			.h = t->h,
			.prompt = p->text,
			.meta = p->meta,
			.set = prompts_set_of(v->prompts, prompt[i]),
		};
		tile[i] = (struct sheet_tile) { .rgb = rgb, .title = p->text, .verdict = SHEET_NEITHER };
	}
	if (v->mixture)
		captions_score(v->mixture, item, t->n, tile, each);
	struct image grid = sheet_draw(&s, tile, t->n);
	*told = tell(&s, tile, t->n, v, prompt, each);
	json_decref(each);
	captions_free(tile, t->n);
	free(tile);
	free(item);
	return grid;
}

int grid_sample(struct image *grid, json_t **told, const struct evaluator *v, const struct pass *pass, int n,
		int cols, int zoom, struct err *e)
{
	int64_t *id, *prompt;
	struct tiles t = { 0 };
	struct sampling s;

	*grid = (struct image) { 0 };
	*told = NULL;
	if (v->dist->rank != 0)
		return 0;
	id = mem_zero((size_t)n, sizeof *id);
	prompt = mem_zero((size_t)n, sizeof *prompt);
	t.n = grid_choose(v->prompts, n, prompt);
	for (int i = 0; i < t.n; i++)
		id[i] = prompt[i] * v->images_per_prompt; /* a prompt's first image */
	s = evaluator_sampling(v, pass);
	s.take = take;
	s.take_ctx = &t;
	int ret = sampling_run(&s, id, t.n, e);
	if (!ret)
		*grid = join(&t, v, prompt, cols, zoom, told);
	free(id);
	free(prompt);
	free(t.rgb);
	return ret;
}
