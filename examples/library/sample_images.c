/* sample_images.c -- images of prompts, with and without an adapter.
 *
 *     cc sample_images.c -o sample_images $(pkg-config --cflags --libs contraflow)
 *     ./sample_images MODEL ADAPTER OUT.ppm "a red circle" "two blue squares"
 *
 * ADAPTER may be `-`.  The images stand below each other in OUT.ppm. */
#include <contraflow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The library says nothing by itself. */
static int fail(const struct contraflow_error *e)
{
	fprintf(stderr, "sample_images: %s\n", e->message);
	return 1;
}

static int write_ppm(const char *path, const unsigned char *rgb, int width, int height)
{
	FILE *f = fopen(path, "wb");

	if (!f)
		return -1;
	fprintf(f, "P6 %d %d 255\n", width, height);
	fwrite(rgb, 3, (size_t)width * (size_t)height, f);
	return fclose(f);
}

int main(int argc, char **argv)
{
	const char *const settings[] = { "solver=dpm2", "steps=10", NULL };
	struct contraflow_pipeline *p;
	struct contraflow_adapter *a = NULL;
	struct contraflow_error e;
	int width, height, n = argc - 4, ret = 1;

	if (n < 1) {
		fprintf(stderr, "usage: sample_images MODEL ADAPTER|- OUT.ppm PROMPT ...\n");
		return 2;
	}
	if (contraflow_pipeline_open(&p, argv[1], settings, &e))
		return fail(&e);
	contraflow_pipeline_size(p, &width, &height);
	unsigned char *rgb = malloc((size_t)n * (size_t)width * (size_t)height * 3);
	if (!rgb || (strcmp(argv[2], "-") && contraflow_adapter_load(&a, p, argv[2], &e)) ||
	    contraflow_sample(p, a, (const char *const *)argv + 4, n, 7, 0, rgb, &e))
		fail(&e);
	else if (write_ppm(argv[3], rgb, width, n * height))
		perror(argv[3]);
	else
		ret = 0;
	free(rgb);
	contraflow_adapter_free(a);
	contraflow_pipeline_close(p);
	return ret;
}
