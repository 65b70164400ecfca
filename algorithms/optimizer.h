/*
 * optimizer.h -- AdamW (arXiv 1711.05101, as PyTorch computes it) over one flat float32 vector.
 */
#ifndef OPTIMIZER_H
#define OPTIMIZER_H
#include "aten/at.h"
#include "base/conf/conf.h"

struct optimizer_conf {
	double lr, beta1, beta2, eps, weight_decay;
	int64_t warmup; /* steps of linear warm-up */
	char *decay;    /* constant, linear, cosine: over max_steps */
};
extern const struct field optimizer_fields[];

struct optimizer {
	const struct optimizer_conf *conf;
	int64_t step; /* steps taken */
	int64_t numel;
	at_t m_P, v_P; /* kept */
};
void optimizer_init(struct optimizer *o, const struct optimizer_conf *c, int64_t numel, enum at_device dev);
void optimizer_release(struct optimizer *o);

/* The learning rate of step `step` (from 1) of `total`. */
double optimizer_rate(const struct optimizer_conf *c, int64_t step, int64_t total);
/* One step at rate lr: theta, m and v change in place. */
void optimizer_update(struct optimizer *o, at_t theta_P, at_t grad_P, double lr);
/* Scales grad to a Euclidean norm of at most max (0: no clipping).  Returns the norm before, NAN or INF
 * included. */
double optimizer_clip(at_t grad_P, double max);

#endif
