/*
 * experiment.h -- everything an experiment's YAML file says, as one struct, and how it is read.
 *
 * Sections of plug-ins (rewards) are read by their owners from `tree`.  Every algorithm has a section, and
 * all that a file has are checked; what is kept is that of the one that train.algorithm names.
 */
#ifndef EXPERIMENT_H
#define EXPERIMENT_H
#include "base/conf/conf.h"
#include "models/lora/lora.h"
#include "sampler/sample.h"
#include "algorithms/advantage.h"
#include "algorithms/algorithm.h"
#include "algorithms/optimizer.h"
#include "algorithms/policies.h"

struct run_conf {
	char *name; /* "": the file's name */
	int64_t seed;
	char *device, *dtype;
	char *memory;    /* fit_parse_memory's */
	int64_t threads; /* a rank; 0: as startup_threads says */
	bool deterministic;
	double timeout;     /* s without a sign of life; 0: none is too long */
	double max_seconds; /* s of this process; 0: no limit */
	int64_t requeue_code;
};
struct ranks_conf {
	int64_t reward; /* the job's last ranks, which score for the others */
};
struct model_conf {
	char *path, *text_cache, *vae_dtype;
	int64_t text_length; /* 0: auto */
	int64_t vae_batch;
};
struct prompts_conf {
	char *train, *test;
	int64_t groups, group_size; /* prompts an epoch, images a prompt */
	int64_t draw;               /* images a prompt that group_size are chosen from; 0: as many */
	bool by_tag;
	int64_t height, width;
};
struct prompt_set_conf;
struct preview_conf {
	int64_t steps; /* 0: no preview */
	char *solver;  /* "": the rollout's */
	bool fp8;
};
struct train_conf {
	char *algorithm;
	int64_t max_steps, steps_per_epoch;
	int64_t micro_batch;            /* 0: auto */
	int64_t gradient_checkpointing; /* blocks; -1: auto */
	double max_seconds, stop_at;
	double timestep_fraction, max_grad_norm;
	char *timesteps; /* "rollout" or "float": what the transformer is told of sigma */
	int64_t max_skipped, max_rollbacks;
	double max_unavailable;
	bool cuda_graphs;
};
struct eval_conf {
	int64_t every, images_per_prompt;
	double max_unavailable;
	char *alarm;
	double alarm_kl;
	struct sampler_conf sampler;
};
struct checkpoint_conf {
	int64_t every, keep;
};
struct log_conf {
	int64_t grid_every, grid_zoom, rollouts_every;
	bool tensorboard;
	int64_t metrics_port; /* -1: none */
	char *metrics_host;
	struct conf_list exec; /* n 0: none */
	double exec_timeout, exec_wait;
};
struct experiment {
	struct run_conf run;
	struct ranks_conf ranks;
	struct model_conf model;
	struct lora_conf lora;
	struct prompts_conf prompts;
	struct sampler_conf rollout;
	struct preview_conf preview;
	struct advantage_conf advantage;
	struct train_conf train;
	struct optimizer_conf optimizer;
	struct policy_conf policy;
	struct eval_conf eval;
	struct checkpoint_conf checkpoint;
	struct log_conf log;
	const struct algorithm_type *algorithm;
	void *algorithm_conf;        /* of its section */
	struct conf_node *tree;      /* the file and --set, for the sections that others own */
	struct prompt_set_conf *set; /* of prompts.sets (prompt_sets.h); n_sets 0: prompts.train alone */
	int n_sets;
	/* Names under `stages`, the tree's; an experiment without them is one stage. */
	const char **stage;
	int n_stages;
};

/* One section of the file: its table and where its struct lies. */
struct experiment_section {
	const char *name, *doc;
	const struct field *fields;
	size_t offset;
};
extern const struct experiment_section experiment_sections[]; /* name NULL ends it */
extern const struct field checkpoint_fields[];
extern const struct field log_fields[]; /* live/log_conf.c */
/* Who is told of a run is told of all its stages: a stage, "stages.NAME", has no such keys of its own, and
 * none are stored with it. */
int log_check_stage(const struct conf_node *tree, const char *section, struct err *e);
void log_store_stage(struct conf_node *out, const struct log_conf *c, const char *section);

/* `set`: n assignments "a.b=c" applied over the file. */
int experiment_read(struct experiment *x, const char *path, const char *const *set, int n, struct err *e);
/* The same from text that stands alone, as a run's own configuration does; `path` names it. */
int experiment_read_text(struct experiment *x, const char *text, size_t size, const char *path,
			 const char *const *set, int n, struct err *e);
/* The same from a tree, which is copied; without stages. */
int experiment_from(struct experiment *x, const struct conf_node *tree, struct err *e);
void experiment_release(struct experiment *x);
/* Stage i as an experiment of its own: the file's keys, and over them the stage's.  A stage's `rewards` and
 * its prompts take the place of the file's; run, ranks, model and lora are the same for all. */
int experiment_stage(struct experiment *out, const struct experiment *x, int i, struct err *e);
/* A message about an unknown key that another section has goes on with "; there is optimizer.lr".  -1. */
int experiment_hint(struct err *e);
int experiment_stages(const struct experiment *x);    /* at least 1 */
uint64_t experiment_hash(const struct experiment *x); /* of all that is set, defaults included */
/* The folder for embeddings and hashes, which outlive runs, and which runs with the same model share; free().
 */
char *experiment_cache(const struct experiment *x);
/* Resolved, every stage with all its sections. */
void experiment_store(const struct experiment *x, struct conf_node *out);

#endif
