/*
 * inside.h -- what the files of this folder share: the handles, and the boundary that every call of the
 * library passes.
 */
#ifndef INSIDE_H
#define INSIDE_H
#include "library/contraflow.h"
#include "base/conf/conf.h"
#include "models/lora/lora.h"
#include "models/pipeline.h"
#include "sampler/sample.h"
#include <stdbool.h>

/* ---- The boundary -------------------------------------------------------------------------------- */

struct library_state {
	bool broken; /* something failed within: only closing is left */
};
/* f(ctx, e) within a scope; its error, or what failed in it, into *error.  `state`: of the handle
 * that it works with, or NULL. */
int library_call(struct library_state *state, int (*f)(void *ctx, struct err *e), void *ctx,
		 struct contraflow_error *error);
/* The same for what opens: one at a time, because the device that `auto` means is the process's meanwhile. */
int library_open(int (*f)(void *ctx, struct err *e), void *ctx, struct contraflow_error *error);
/* For mistakes that need no call. */
int library_refuse(struct contraflow_error *error, const char *message);

/* ---- Models -------------------------------------------------------------------------------------- */

/* What a pipeline is opened with, beside what it samples with. */
struct model_settings {
	char *device, *dtype, *vae_dtype, *text_cache;
	int64_t vae_batch, text_length, height, width;
};
struct contraflow_pipeline {
	struct library_state own_state, *state; /* its own or the trainer's */
	struct pipeline own, *model;            /* likewise */
	struct conf_node *tree;                 /* all that was set */
	struct model_settings settings;
	struct sampler_conf conf;
	struct sampler sampler;
	struct at_dims latent_CHW;
};
struct contraflow_adapter {
	struct contraflow_pipeline *pipeline;
	struct lora lora;
	struct lora_merged merged;
};
/* Over a model that somebody else has open, with the sampler and the size given. */
int library_pipeline_over(struct contraflow_pipeline *p, struct pipeline *model, struct library_state *state,
			  const struct sampler_conf *conf, int64_t height, int64_t width, struct err *e);
void library_pipeline_release(struct contraflow_pipeline *p);
/* A copy of *l, ready to run. */
struct contraflow_adapter *library_adapter_of(struct contraflow_pipeline *p, const struct lora *l);

/* The settings of a list, into a tree. */
int library_set(struct conf_node *tree, const char *const *settings, struct err *e);
int library_count(const char *const *settings);

#endif
