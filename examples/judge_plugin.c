/*
 * A reward as a shared library: how blue an image is, at least `options`.
 *
 *     cc -shared -fPIC -I. -o blue.so examples/judge_plugin.c
 *     rewards: {plugin: {path: ./blue.so, options: "0.1"}}
 */
#include "rewards/judges/plugin.h"
#include <stdio.h>
#include <stdlib.h>

static int open_blue(void **state, const char *options, char *error, size_t error_size)
{
	double *least = malloc(sizeof *least);
	char *end;

	*least = strtod(options, &end);
	if (*end) {
		snprintf(error, error_size, "options '%s' are not a number", options);
		free(least);
		return -1;
	}
	*state = least;
	return 0;
}

static int score(void *state, const struct contraflow_item *item, int n, struct contraflow_score *out)
{
	for (int i = 0; i < n; i++) {
		size_t pixels = (size_t)item[i].width * (size_t)item[i].height;
		double blue = 0, all = 0;

		for (size_t p = 0; p < 3 * pixels; p++) {
			all += item[i].rgb[p];
			blue += p % 3 == 2 ? item[i].rgb[p] : 0;
		}
		out[i].value = all > 0 ? blue / all : 0;
		out[i].ok = out[i].value >= *(double *)state;
		if (!out[i].ok)
			snprintf(out[i].why, sizeof out[i].why, "there is too little blue in it");
	}
	return 0;
}

static const struct contraflow_reward blue = {
	.abi = CONTRAFLOW_PLUGIN_ABI, .name = "blue", .open = open_blue, .score = score, .close = free
};

const struct contraflow_reward *contraflow_reward(void)
{
	return &blue;
}
