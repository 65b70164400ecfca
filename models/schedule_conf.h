/*
 * schedule_conf.h -- what a model directory says of its noise levels: scheduler/scheduler_config.json of
 * diffusers' FlowMatchEulerDiscreteScheduler, or of DPMSolverMultistepScheduler where it predicts a flow
 * (SANA): its flow_shift is a shift, and how steps are taken is the sampler's affair.  sampler/schedule.h
 * makes the levels of a run from it.
 */
#ifndef SCHEDULE_CONF_H
#define SCHEDULE_CONF_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct schedule_conf {
	double shift; /* where it is fixed, f(u) = shift u / (1 + (shift - 1) u) */
	int64_t num_train_timesteps;

	/* use_dynamic_shifting: the shift depends on the number of image tokens, through mu. */
	bool dynamic;
	bool linear; /* time_shift_type: f(u) = m / (m + 1 / u - 1) with m = mu, else (exponential) m = e^mu
		      */
	double base_shift, max_shift; /* mu at base_image_seq_len and at max_image_seq_len tokens */
	int64_t base_image_seq_len, max_image_seq_len;

	double shift_terminal; /* the last level before 0 is moved here; 0: it stays where it is */
};

/* What a family of models decides and no file says. */
enum schedule_grid {
	GRID_TRAIN, /* from 1 down to one training step, 1 / num_train_timesteps: SD3, SANA */
	GRID_STEPS, /* from 1 down to 1 / steps: FLUX.1, FLUX.2, Qwen-Image, Z-Image */
};
enum schedule_mu {            /* where the file shifts dynamically */
		   MU_LINEAR, /* in the number of tokens, through the file's two points */
		   MU_FLUX2,  /* FLUX.2's fit, which depends on the number of steps as well */
};

/* Whether it is the class of a scheduler whose file can be read; `where` names the class in the error. */
int schedule_conf_class(const char *name, const char *where, struct err *e);
/* A setting that the program does not have (other sigmas, noise in the steps) is an error that names it. */
int schedule_conf_read(struct schedule_conf *c, const char *path, struct err *e);

#endif
