/*
 * detector_probe.c -- golden_detector MODULE CLASSES DEVICE IMAGE...: what GenEval's detector `script`
 * finds in each image, whatever its score, a line of JSON each: [[class, score, x0, y0, x1, y1], ...].
 */
#include "base/image.h"
#include "base/json.h"
#include "base/mem.h"
#include "rewards/geneval/detector.h"
#include <stdio.h>
#include <stdlib.h>

static void need(int failed, const struct err *e)
{
	if (failed)
		die("%s", e->msg);
}

static void print(const struct detection *found)
{
	printf("[");
	for (int k = 0; k < found->n; k++) {
		const struct geneval_object *o = &found->v[k];
		printf("%s[\"%s\", %.9g", k ? ", " : "", o->class_name, o->score);
		for (int i = 0; i < 4; i++)
			printf(", %.9g", o->box[i]);
		printf("]");
	}
	puts("]");
}

int main(int argc, char **argv)
{
	char none[] = "", type[] = "float32";
	int n = argc - 4;
	struct detector d = { .type = &detector_script };
	struct err e;

	if (n < 1)
		die("golden_detector: MODULE CLASSES DEVICE IMAGE...");
	const struct geneval_conf conf = { .module = argv[1],
					   .classes = argv[2],
					   .device = argv[3],
					   .clip = none,
					   .clip_dtype = type,
					   .counting_threshold = 0.9,
					   .max_overlap = 1,
					   .batch = 3 };
	struct image *im = mem_zero((size_t)n, sizeof *im);
	struct reward_item *item = mem_zero((size_t)n, sizeof *item);
	struct detection *found = mem_zero((size_t)n, sizeof *found);
	json_t **meta = mem_zero((size_t)n, sizeof(json_t *));
	for (int i = 0; i < n; i++) {
		need(image_read(&im[i], argv[4 + i], &e), &e);
		item[i] = (struct reward_item) { .rgb = im[i].rgb, .w = im[i].w, .h = im[i].h };
		meta[i] = json_object();
	}
	need(d.type->open(&d, &conf, &e) || d.type->load(&d, &e), &e);
	need(d.type->detect(&d, item, meta, n, found, &e), &e);
	for (int i = 0; i < n; i++) {
		print(&found[i]);
		free(found[i].v);
		json_decref(meta[i]);
		image_free(&im[i]);
	}
	d.type->close(&d);
	free(im);
	free(item);
	free(found);
	free(meta);
	return 0;
}
