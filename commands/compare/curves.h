/*
 * curves.h -- the held-out score of a run over what it took, from its metrics.jsonl.
 */
#ifndef CURVES_H
#define CURVES_H
#include "base/err.h"
#include "base/text.h"
#include <jansson.h>
#include <stdint.h>

/* What a run takes, evaluations left out: optimizer steps, images sampled, forwards of an image (a backward
 * counts FORWARDS_OF_BACKWARD), and seconds summed over the devices: GPUs, or on a CPU the cores' busy time.
 */
enum axis { AXIS_STEPS, AXIS_IMAGES, AXIS_FORWARDS, AXIS_SECONDS, AXES };
extern const char *const axis_names[AXES];

struct curve {
	int64_t seed;
	struct curve_point {
		double at[AXES], score;
	} * v; /* an evaluation each, in order */
	int n, cap;
	json_t *health; /* the last value of each number that tells of a run's health: NAME: number */
};
/* `score`: which of the evaluation's numbers, "strict" of "eval/strict".  An error where the run has none. */
int curve_read(struct curve *c, const char *run, const char *score, struct err *e);
void curve_free(struct curve *c);
/* Where the score first reaches `threshold`, on a line between evaluations; NAN: it does not. */
double curve_cross(const struct curve *c, double threshold, enum axis a);
/* The score where the run had taken so much, likewise; NAN beyond its ends. */
double curve_at(const struct curve *c, enum axis a, double taken);

/* A line of the picture: the curves of one configuration, a seed each. */
struct curve_set {
	const char *name;
	struct curve *v;
	int n;
};
/* Score over forwards and over device-seconds, the mean of the seeds as a line and their range as a band. */
void curves_svg(struct text *out, const struct curve_set *set, int n, const char *score);

#endif
