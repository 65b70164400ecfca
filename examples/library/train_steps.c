/* train_steps.c -- steps of training with a reward of one's own: here, how red an image is.
 *
 *     ./train_steps CONFIG STEPS RUN ADAPTER KEY=VALUE ...
 *
 * saves a checkpoint in RUN, and the averaged adapter in ADAPTER, in PEFT's layout.  A RUN that has a
 * checkpoint goes on. */
#include <contraflow.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const struct contraflow_error *e)
{
	fprintf(stderr, "train_steps: %s\n", e->message);
	return 1;
}

static double redness(const struct contraflow_image *image)
{
	long n = (long)image->width * image->height;
	double sum = 0;

	for (long i = 0; i < n; i++)
		sum += image->rgb[3 * i] - 0.5 * image->rgb[3 * i + 1] - 0.5 * image->rgb[3 * i + 2];
	return sum / (double)n / 255;
}

static int red(void *ctx, const struct contraflow_image *images, int n, double *reward)
{
	double *mean = ctx;

	*mean = 0;
	for (int i = 0; i < n; i++)
		*mean += (reward[i] = redness(&images[i])) / n;
	return 0;
}

static int train(struct contraflow_trainer *t, int steps, const char *run, const char *out)
{
	struct contraflow_adapter *a;
	struct contraflow_error e;
	double mean;

	if (contraflow_trainer_resume(t, run, &e))
		printf("a new run: %s\n", e.message);
	for (int i = 0; i < steps; i++) {
		if (contraflow_trainer_step(t, red, &mean, &e))
			return fail(&e);
		printf("step %lld: mean reward %.4f\n", (long long)contraflow_trainer_steps(t), mean);
	}
	printf("%s\n", contraflow_trainer_metrics(t));
	if (contraflow_trainer_save(t, run, &e) || contraflow_trainer_adapter(t, CONTRAFLOW_EMA, &a, &e))
		return fail(&e);
	int ret = contraflow_adapter_export(a, "peft", NULL, out, &e) ? fail(&e) : 0;
	contraflow_adapter_free(a);
	return ret;
}

int main(int argc, char **argv)
{
	struct contraflow_trainer *t;
	struct contraflow_error e;

	if (argc < 5)
		return fprintf(stderr, "usage: train_steps CONFIG STEPS RUN ADAPTER KEY=VALUE ...\n"), 2;
	if (contraflow_trainer_open(&t, argv[1], (const char *const *)argv + 5, &e))
		return fail(&e);
	int ret = train(t, atoi(argv[2]), argv[3], argv[4]);
	contraflow_trainer_close(t);
	return ret;
}
