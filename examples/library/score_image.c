/* score_image.c -- an image of the caller's, scored by the rewards of a configuration.
 *
 *     ./score_image CONFIG "a red circle" '{"tag": "single_object", ...}' < IMAGE.ppm
 *
 * CONFIG may be `-`: how well the image compresses, then. */
#include <contraflow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const struct contraflow_error *e)
{
	fprintf(stderr, "score_image: %s\n", e->message);
	return 1;
}

static int score(struct contraflow_scorer *s, const struct contraflow_image *image)
{
	int rewards = contraflow_scorer_count(s);
	double total, *each = malloc((size_t)rewards * sizeof *each);
	struct contraflow_error e;

	if (!each || contraflow_score(s, image, 1, &total, each, &e)) {
		free(each);
		return fail(&e);
	}
	printf("total %g\n", total);
	for (int k = 0; k < rewards; k++)
		printf("%s %g\n", contraflow_scorer_name(s, k), each[k]);
	printf("%s\n", contraflow_scorer_report(s));
	free(each);
	return 0;
}

int main(int argc, char **argv)
{
	const char *const jpeg[] = { "rewards={jpeg_compressibility: {weight: 2}}", NULL };
	struct contraflow_image image = { 0 };
	struct contraflow_scorer *s;
	struct contraflow_error e;

	if (argc != 4 || scanf("P6 %d %d 255%*c", &image.width, &image.height) != 2)
		return fprintf(stderr, "usage: score_image CONFIG|- PROMPT METADATA < IMAGE.ppm\n"), 2;
	size_t size = (size_t)image.width * (size_t)image.height * 3;
	unsigned char *rgb = malloc(size);
	if (!rgb || fread(rgb, 1, size, stdin) != size)
		return fprintf(stderr, "score_image: the image is cut short\n"), 1;
	image.rgb = rgb;
	image.prompt = argv[2];
	image.metadata = argv[3];
	int own = !strcmp(argv[1], "-");
	if (contraflow_scorer_open(&s, own ? NULL : argv[1], own ? jpeg : NULL, &e))
		return free(rgb), fail(&e);
	int ret = score(s, &image);
	contraflow_scorer_close(s);
	free(rgb);
	return ret;
}
