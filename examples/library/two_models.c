/* two_models.c -- two models at the same time, a thread each, with an adapter each.
 *
 *     ./two_models MODEL ADAPTER ADAPTER PROMPT N
 *
 * Each thread makes N images with its adapter; the program says how many bytes the two sets differ in. */
#include <contraflow.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct work {
	const char *model, *adapter, *prompt;
	int n, failed;
	size_t size;
	unsigned char *rgb;
	struct contraflow_error e;
};

static void *run(void *arg)
{
	struct work *w = arg;
	const char *const settings[] = { "solver=dpm2", "steps=4", NULL };
	struct contraflow_pipeline *p;
	struct contraflow_adapter *a;
	int width, height;

	w->failed = 1;
	if (contraflow_pipeline_open(&p, w->model, settings, &w->e))
		return NULL;
	contraflow_pipeline_size(p, &width, &height);
	w->size = (size_t)width * (size_t)height * 3;
	w->rgb = malloc((size_t)w->n * w->size);
	if (w->rgb && !contraflow_adapter_load(&a, p, w->adapter, &w->e)) {
		w->failed = 0;
		for (int i = 0; i < w->n && !w->failed; i++)
			w->failed =
			    contraflow_sample(p, a, &w->prompt, 1, 0, i, w->rgb + (size_t)i * w->size, &w->e);
		contraflow_adapter_free(a);
	}
	contraflow_pipeline_close(p);
	return NULL;
}

int main(int argc, char **argv)
{
	struct work w[2] = { 0 };
	pthread_t thread[2];
	size_t differ = 0;

	if (argc != 6)
		return fprintf(stderr, "usage: two_models MODEL ADAPTER ADAPTER PROMPT N\n"), 2;
	for (int k = 0; k < 2; k++) {
		w[k] = (struct work) {
			.model = argv[1], .adapter = argv[2 + k], .prompt = argv[4], .n = atoi(argv[5])
		};
		if (pthread_create(&thread[k], NULL, run, &w[k]))
			return perror("thread"), 1;
	}
	for (int k = 0; k < 2; k++)
		pthread_join(thread[k], NULL);
	for (int k = 0; k < 2; k++)
		if (w[k].failed)
			return fprintf(stderr, "two_models: %s\n", w[k].e.message), 1;
	for (size_t i = 0; i < (size_t)w[0].n * w[0].size; i++)
		differ += w[0].rgb[i] != w[1].rgb[i];
	printf("%zu of %zu bytes differ\n", differ, (size_t)w[0].n * w[0].size);
	free(w[0].rgb);
	free(w[1].rgb);
	return 0;
}
