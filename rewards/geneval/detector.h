/* detector.h -- what finds the objects that GenEval's rules are about. */
#ifndef DETECTOR_H
#define DETECTOR_H
#include "rewards/geneval/geneval.h"
#include "rewards/reward.h"

/* The reward's keys; all but the first two are detector `script`'s. */
struct geneval_conf {
	char *detector;
	bool reference_scoring;
	char *module, *classes, *clip, *clip_dtype, *device;
	double threshold, counting_threshold, max_overlap;
	int64_t batch;
};

/* What was found in one image. */
struct detection {
	struct geneval_object *v;
	int n;
	char why[160]; /* "" unless this image could not be searched */
};

struct detector {
	const struct detector_type *type;
	void *state; /* the type's own */
	/* What it can name, NULL-terminated, as long as it is open; colors[0] NULL: it tells no colours. */
	const char *const *classes, *const *colors;
};

struct detector_type {
	const char *name, *doc;
	/* Fills state, classes and colors; conf outlives it.  As a reward's, it finds mistakes and loads
	 * nothing. */
	int (*open)(struct detector *d, const struct geneval_conf *conf, struct err *e);
	int (*load)(struct detector *d, struct err *e); /* NULL: nothing is to be loaded */
	/* n images and what is asked of them.  out: n zeroed; free(out[i].v), after an error too.  An error
	 * is one of all of them.  May run in several threads at once. */
	int (*detect)(struct detector *d, const struct reward_item *item, json_t *const *meta, int n,
		      struct detection *out, struct err *e);
	void (*close)(struct detector *d); /* of a detector that is open */
};
extern const struct detector_type detector_blobs, detector_script;

#endif
