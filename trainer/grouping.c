#include "trainer/grouping.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "data/prompts.h"
#include <stdlib.h>
#include <string.h>

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static size_t bytes(const struct reward_item *item)
{
	return (size_t)item->w * (size_t)item->h * 3;
}

static void hold(struct held_images *h, const struct reward_item *item)
{
	struct reward_item copy = *item;

	copy.rgb = memcpy(mem_alloc(bytes(item)), item->rgb, bytes(item));
	MEM_PUSH(h->item, h->n, h->cap) = copy;
}

static void drop(struct held_images *h)
{
	for (int i = 0; i < h->n; i++)
		free((uint8_t *)(uintptr_t)h->item[i].rgb);
	free(h->item);
	*h = (struct held_images) { 0 };
}

void grouping_share(int64_t n, int64_t size, int rank, int ranks, int64_t *begin, int64_t *end)
{
	prompts_share(n, rank, ranks, begin, end);
	*begin = least((*begin + size - 1) / size * size, n);
	*end = least((*end + size - 1) / size * size, n);
}

void grouping_begin(struct grouping *g, struct dist *d, struct mixture *m, int64_t n, int64_t size)
{
	int64_t end;

	*g = (struct grouping) {
		.dist = d, .mixture = m, .wanted = mixture_has_groups(m), .n = n, .size = size
	};
	if (!g->wanted)
		return;
	prompts_share(n, d->rank, d->ranks, &g->first, &end);
	g->count = end - g->first;
	grouping_share(n, size, d->rank, d->ranks, &g->owned, &end);
	g->owned_count = end - g->owned;
	mixture_scores_init(&g->scores, (int)g->owned_count, mixture_count(m));
	mixture_begin(m, &g->scores);
}

/* The open group, which begins at sample `start`, is whole. */
static void submit(struct grouping *g, int64_t start)
{
	int *sample = mem_zero((size_t)g->open.n, sizeof *sample);

	for (int i = 0; i < g->open.n; i++)
		sample[i] = (int)(start - g->owned) + i;
	mixture_submit_group(g->mixture, &g->scores, sample, g->open.item, g->open.n);
	free(sample);
	drop(&g->open);
}

void grouping_add(struct grouping *g, int64_t at, const struct reward_item *item, int k)
{
	for (int i = 0; i < k && g->wanted; i++) {
		int64_t sample = g->first + at + i, start = sample / g->size * g->size;

		hold(start < g->first ? &g->head : &g->open, &item[i]);
		if (start >= g->first && g->open.n == least(g->size, g->n - start))
			submit(g, start);
	}
}

/* The rank whose share has this sample. */
static int owner(const struct grouping *g, int64_t sample)
{
	int r = 0;

	for (int64_t begin, end; r < g->dist->ranks; r++) {
		prompts_share(g->n, r, g->dist->ranks, &begin, &end);
		if (sample >= begin && sample < end)
			break;
	}
	return r;
}

/* Who gives how many images of groups that begin elsewhere to whom. */
static void plan(const struct grouping *g, int *to, int64_t *images)
{
	for (int r = 0; r < g->dist->ranks; r++) {
		int64_t begin, end;

		prompts_share(g->n, r, g->dist->ranks, &begin, &end);
		int64_t start = begin / g->size * g->size;
		bool cut = begin < end && start < begin;
		to[r] = cut ? owner(g, start) : -1;
		images[r] = cut ? least(end, start + g->size) - begin : 0;
	}
}

/* Images of groups that were cut go to where these began. */
static void put_together(struct grouping *g)
{
	int ranks = g->dist->ranks, *to = mem_zero((size_t)ranks, sizeof *to);
	int64_t *size = mem_zero((size_t)ranks, sizeof *size), get = 0;
	const struct reward_item *any = g->head.n ? g->head.item : g->open.item;
	size_t each = any ? bytes(any) : 0;

	plan(g, to, size);
	for (int r = 0; r < ranks; r++) {
		get += to[r] == g->dist->rank ? size[r] : 0;
		size[r] *= (int64_t)each;
	}
	uint8_t *out = mem_zero((size_t)g->head.n * each + 1, 1), *in = mem_zero((size_t)get * each + 1, 1);
	for (int i = 0; i < g->head.n; i++)
		memcpy(out + (size_t)i * each, g->head.item[i].rgb, each);
	dist_hand_over(g->dist, to, size, out, in);
	for (int64_t i = 0; i < get; i++) {
		struct reward_item item = g->open.item[0]; /* of the same prompt */

		item.rgb = in + (size_t)i * each;
		hold(&g->open, &item);
	}
	if (get)
		submit(g, g->owned + (g->owned_count - 1) / g->size * g->size);
	free(out);
	free(in);
	free(size);
	free(to);
}

double grouping_finish(struct grouping *g)
{
	if (!g->wanted)
		return 0;
	put_together(g);
	return mixture_wait_unless(g->mixture, &g->scores, stop_asked);
}

void grouping_release(struct grouping *g)
{
	if (!g->wanted)
		return;
	mixture_wait_unless(g->mixture, &g->scores, stop_asked);
	drop(&g->head);
	drop(&g->open);
	mixture_scores_free(&g->scores);
}
