/*
 * colors_probe.c -- what the tests of GenEval's colours run.
 *
 *   golden_colors CLIP IN OUT CLASS...   for each i-th class "rgb.i" (H, W, 3), "mask.i" (H, W; absent: none)
 * and "box.i" (4) -> "crop.i" (h, w, 3; absent when empty) and "logits.i" (10)
 */
#include "aten/safetensors.h"
#include "base/mem.h"
#include "rewards/geneval/clip_colors.h"
#include <stdlib.h>

static at_t take(const struct st_file *f, const char *what, int i, enum at_dtype dt)
{
	char *name = mem_printf("%s.%d", what, i);
	struct err e;
	at_t x = NULL;

	if (st_find(f, name) && st_take(&x, f, name, (struct at_dims) { 0 }, &e))
		die("%s", e.msg);
	free(name);
	return x ? at_contiguous(at_cast(x, dt)) : NULL;
}

int main(int argc, char **argv)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int n = argc - 4, items = 0;
	struct clip_colors *c;
	struct st_file f;
	struct err e;

	if (n < 1)
		die("golden_colors: see the top of tests/golden/colors_probe.c");
	struct color_question *q = mem_zero((size_t)n, sizeof *q);
	struct st_item *item = mem_zero((size_t)n * 2, sizeof *item);
	const char **color = mem_zero((size_t)n, sizeof *color);
	if (clip_colors_open(&c, argv[1], "float32", AT_CPU, &e) || clip_colors_load(c, &e) ||
	    st_open(&f, argv[2], &e))
		die("%s", e.msg);
	for (int i = 0; i < n; i++) {
		at_t rgb = take(&f, "rgb", i, AT_U8), mask = take(&f, "mask", i, AT_U8);
		q[i] = (struct color_question) { .rgb = at_data(rgb),
						 .mask = mask ? at_data(mask) : NULL,
						 .h = (int)at_size(rgb, 0),
						 .w = (int)at_size(rgb, 1),
						 .box = at_data(take(&f, "box", i, AT_F64)),
						 .class_name = argv[4 + i],
						 .color = &color[i] };
	}
	if (clip_colors_ask(c, q, n, &e))
		die("%s", e.msg);
	for (int i = 0, w, h; i < n; i++) {
		uint8_t *crop = clip_colors_crop(&q[i], &w, &h);
		if (!crop != !color[i])
			die("a color without a crop, or a crop without a color");
		item[items++] = (struct st_item) { mem_printf("logits.%d", i),
						   at_from(q[i].logit, DIMS(CLIP_COLORS), AT_F32) };
		if (crop)
			item[items++] = (struct st_item) { mem_printf("crop.%d", i),
							   at_from(crop, DIMS(h, w, 3), AT_U8) };
		free(crop);
	}
	if (st_write(argv[3], item, items, NULL, 0, &e))
		die("%s", e.msg);
	clip_colors_close(c);
	st_close(&f);
	at_end(s);
	return 0;
}
