#include "trainer/evaluation/grids.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

#define GAP 2 /* pixels between images */

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

int grid_write_scores(const char *path, const struct evaluator *v, const struct eval_result *r, int n,
		      int cols, struct err *e)
{
	int64_t *id = mem_zero((size_t)n, sizeof *id);
	json_t *images = json_array(), *all = json_pack("{s:i, s:i}", "columns", cols, "gap", GAP);

	n = grid_choose(v->prompts, n, id);
	for (int i = 0; i < n; i++) {
		const struct prompt *p = &v->prompts->v[id[i]];
		json_t *one = eval_image_json(r, id[i] * v->images_per_prompt);

		json_object_set_new(one, "prompt", json_words(p->text));
		json_object_set_new(one, "tag", json_words(p->tag));
		json_array_append_new(images, one);
	}
	json_object_set_new(all, "images", images);
	int ret = json_write(path, all, e);
	json_decref(all);
	free(id);
	return ret;
}

struct tiles {
	uint8_t *rgb; /* of all; NULL: none has come */
	int n, w, h;
};

static void take(void *ctx, int64_t at, at_t rgb_BHW3)
{
	struct tiles *t = ctx;
	size_t bytes = (size_t)at_numel(rgb_BHW3), each = bytes / (size_t)at_size(rgb_BHW3, 0);

	t->h = (int)at_size(rgb_BHW3, 1);
	t->w = (int)at_size(rgb_BHW3, 2);
	t->rgb = t->rgb ? t->rgb : mem_zero((size_t)t->n, each);
	memcpy(t->rgb + each * (size_t)at, at_data(rgb_BHW3), bytes);
}

static struct image join(const struct tiles *t, int cols, int zoom)
{
	const uint8_t **tile = mem_zero((size_t)t->n, sizeof *tile);

	for (int i = 0; i < t->n; i++)
		tile[i] = t->rgb + (size_t)i * (size_t)t->w * (size_t)t->h * 3;
	struct image grid = image_grid(tile, t->n, t->w, t->h, cols, GAP, zoom);
	free(tile);
	return grid;
}

int grid_sample(struct image *grid, const struct evaluator *v, const struct pass *pass, int n, int cols,
		int zoom, struct err *e)
{
	int64_t *id;
	struct tiles t = { 0 };
	struct sampling s;

	*grid = (struct image) { 0 };
	if (v->dist->rank != 0)
		return 0;
	id = mem_zero((size_t)n, sizeof *id);
	t.n = grid_choose(v->prompts, n, id);
	for (int i = 0; i < t.n; i++)
		id[i] *= v->images_per_prompt; /* a prompt's first image */
	s = evaluator_sampling(v, pass);
	s.take = take;
	s.take_ctx = &t;
	int ret = sampling_run(&s, id, t.n, e);
	if (!ret)
		*grid = join(&t, cols, zoom);
	free(id);
	free(t.rgb);
	return ret;
}
