/*
 * tensorboard_probe.c -- writes one event file into DIR for a run that continues after STEP, as standard
 * input says: scalar TAG STEP VALUE | image TAG STEP W H BYTES_IN_HEX | histogram TAG STEP N VALUE...
 */
#include "base/mem.h"
#include "trainer/record/tensorboard.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void image(struct tensorboard *tb, const char *tag, int64_t step)
{
	int w, h;

	if (scanf("%d %d", &w, &h) != 2)
		die("image: W H");
	uint8_t *rgb = mem_zero((size_t)w * (size_t)h, 3);
	for (int i = 0; i < w * h * 3; i++)
		if (scanf(" %2hhx", &rgb[i]) != 1)
			die("image: byte %d", i);
	tb_image(tb, tag, step, w, h, rgb);
	free(rgb);
}

static void histogram(struct tensorboard *tb, const char *tag, int64_t step)
{
	int n;

	if (scanf("%d", &n) != 1)
		die("histogram: N");
	double *v = mem_zero((size_t)n, sizeof *v);
	for (int i = 0; i < n; i++)
		if (scanf("%lf", &v[i]) != 1)
			die("histogram: value %d", i);
	tb_histogram(tb, tag, step, v, n);
	free(v);
}

int main(int argc, char **argv)
{
	struct tensorboard *tb;
	struct err e;
	char verb[16], tag[64];
	long long step;
	double v;

	if (argc != 3)
		die("usage: golden_tensorboard DIR STEP");
	if (tb_open(&tb, argv[1], atoll(argv[2]), &e))
		die("%s", e.msg);
	while (scanf("%15s %63s %lld", verb, tag, &step) == 3) {
		if (!strcmp(verb, "scalar") && scanf("%lf", &v) == 1)
			tb_scalar(tb, tag, step, v, NULL);
		else if (!strcmp(verb, "image"))
			image(tb, tag, step);
		else if (!strcmp(verb, "histogram"))
			histogram(tb, tag, step);
		else
			die("unknown: %s", verb);
	}
	if (tb_flush(tb, &e))
		die("%s", e.msg);
	tb_close(tb);
	return 0;
}
