#include "trainer/grids.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

int grid_choose(const struct prompts *p, int n, int64_t *prompt)
{
	struct seen {
		const char *tag;
		int64_t n;
	} *tag = NULL;
	int64_t *turn = mem_zero((size_t)p->n, sizeof *turn);
	int tags = 0, cap = 0, got = 0;

	for (int64_t i = 0; i < p->n; i++) {
		int k = 0;

		while (k < tags && strcmp(tag[k].tag, p->v[i].tag))
			k++;
		if (k == tags)
			MEM_PUSH(tag, tags, cap) = (struct seen) { p->v[i].tag, 0 };
		turn[i] = tag[k].n++;
	}
	for (int64_t t = 0; got < n && t < p->n; t++)
		for (int64_t i = 0; i < p->n && got < n; i++)
			if (turn[i] == t)
				prompt[got++] = i;
	free(tag);
	free(turn);
	return got;
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
	struct image grid = image_grid(tile, t->n, t->w, t->h, cols, 2, zoom);
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
