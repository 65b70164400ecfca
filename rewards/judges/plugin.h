/*
 * plugin.h -- a reward as a shared library; it needs this file alone and nothing of contraflow's.
 *
 *     cc -shared -fPIC -o mine.so mine.c        # examples/judge_plugin.c
 *     rewards: {plugin: {path: ./mine.so, options: "anything"}}
 *
 * The library exports contraflow_reward().  score() may be called from another thread than open(), by one at
 * a time.  A library of version 1, whose struct ends with close, is taken as well.
 */
#ifndef CONTRAFLOW_PLUGIN_H
#define CONTRAFLOW_PLUGIN_H
#include <stddef.h>

#define CONTRAFLOW_PLUGIN_ABI 2

/* For `flags`: every call of score() gets all images of one prompt, in order, and nothing else.  The key
 * `group: true` of the configuration asks for the same, of any library. */
#define CONTRAFLOW_GROUP 1u

struct contraflow_item {
	const unsigned char *rgb; /* height x width x 3, rows from the top */
	int width, height;
	const char *prompt, *meta; /* UTF-8; meta is a JSON object */
};
struct contraflow_score {
	double value;
	int ok;        /* 0: it cannot be had, and `why` says why; then value does not count */
	char why[160]; /* NUL-terminated */
};
struct contraflow_reward {
	int abi; /* CONTRAFLOW_PLUGIN_ABI */
	const char *name;
	/* 0, or -1 with one line in error. */
	int (*open)(void **state, const char *options, char *error, size_t error_size);
	/* Fills n scores, all zero before; 0, or -1 when none of them can be had. */
	int (*score)(void *state, const struct contraflow_item *item, int n, struct contraflow_score *out);
	void (*close)(void *state);
	unsigned flags; /* since version 2; others are to be 0 */
};

const struct contraflow_reward *contraflow_reward(void);

#endif
