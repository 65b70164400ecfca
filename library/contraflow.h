/*
 * contraflow.h -- contraflow as a library: load a text-to-image flow model and adapters, sample, score, train
 * with rewards of your own, save.  Plain C; nothing of libtorch shows.  docs/library.md is the guide,
 * examples/library/ has a program for each call.
 *
 * Errors are values.  A function that can fail returns 0 or -1 and takes a `struct contraflow_error *` last,
 * which is the caller's and may be NULL; it is written on -1 alone.  Nothing is printed, and no call ends the
 * process: a tensor operation that fails (a GPU out of memory, say) and memory that cannot be had are errors,
 * too.  What such a call had allocated may then stay allocated, and its handle is broken: every later call
 * with it fails, but for its close.  What remains fatal, because it is in none of your calls: memory that
 * cannot be had in a thread that the library has started itself (those of rewards), and faults of the machine
 * (SIGSEGV, SIGBUS of a file that was cut under a map, the kernel's OOM killer).
 *
 * Threads.  Handles are independent of each other: two threads may use two of them at the same time, whatever
 * they are.  One handle is one thread's at a time (hand it over as you like).  An adapter counts as a part of
 * its pipeline, and a trainer's pipeline as a part of the trainer.  Opening is done one after the other.
 * Callbacks run in the thread of the call that they are passed to, but for the log's.  Results do not depend
 * on what other handles do; only sizes that are `auto` are found by the memory that is free at that moment.
 *
 * Process-wide, and so for all handles: the log, the number of threads, determinism (below); libtorch's own
 * state; CUDA_VISIBLE_DEVICES.  MPI is never initialised: a handle is one process's, whatever started it.  No
 * signal handler is installed.  The library cannot be unloaded.
 *
 * Settings are texts "KEY=VALUE" in a list that NULL ends (a list that is NULL is empty); values are those of
 * YAML, as on the program's command line.  Paths of models and prompts are looked for as the program does.
 *
 * Versions.  What is here stays: a later version adds functions and keys, and changes nothing that is
 * declared below while the library is libcontraflow.so.0.
 */
#ifndef CONTRAFLOW_H
#define CONTRAFLOW_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum contraflow_code {
	CONTRAFLOW_INVALID = 1, /* an argument, a setting, a file: nothing has changed */
	CONTRAFLOW_FAILED = 2   /* something failed within: the handle is broken */
};
struct contraflow_error {
	int code;
	char message[1024]; /* one line: what, where, what to do */
};

const char *contraflow_version(void); /* "0.1.0" */

/* ---- The process --------------------------------------------------------------------------------- */

/* Where the log goes, a line at a time, without its end; level 0: information, 1: a warning.  `take` may be
 * called in any thread, and in several at once, and must call nothing of this library.  NULL, as at the
 * start: nowhere. */
void contraflow_set_log(void (*take)(void *ctx, int level, const char *line), void *ctx);
/* CPU threads of later operations, of each thread that calls; 0 < n <= 1024.  At the start: libtorch's own
 * (OMP_NUM_THREADS, or the cores). */
int contraflow_set_threads(int n, struct contraflow_error *e);
int contraflow_threads(void);
/* On a GPU, only kernels that give the same bits every time; off at the start. */
void contraflow_set_deterministic(int on);

/* ---- A model ------------------------------------------------------------------------------------- */

struct contraflow_pipeline;
struct contraflow_adapter;

/* A model directory as diffusers writes it.  Settings: device (auto, cpu, cuda), dtype, vae_dtype, vae_batch,
 * text_length, text_cache (a folder; none by default), height, width, and those of sampling: solver, steps,
 * guidance, negative, shift, eta, grid, timesteps, batch, cuda_graphs, which mean what the keys of
 * `eval.sampler` mean in docs/config.md, with the same defaults. */
int contraflow_pipeline_open(struct contraflow_pipeline **out, const char *dir, const char *const *settings,
			     struct contraflow_error *e);
/* One of the settings of sampling, or height or width, from now on. */
int contraflow_pipeline_set(struct contraflow_pipeline *p, const char *setting, struct contraflow_error *e);
/* Of the images that it makes. */
void contraflow_pipeline_size(const struct contraflow_pipeline *p, int *width, int *height);
void contraflow_pipeline_close(struct contraflow_pipeline *p); /* after its adapters; NULL is fine */

/* A LoRA adapter in any layout that the program reads (PEFT, diffusers, kohya), a checkpoint or a run. */
int contraflow_adapter_load(struct contraflow_adapter **out, struct contraflow_pipeline *p, const char *path,
			    struct contraflow_error *e);
/* layout: "peft" (a folder), "diffusers" or "kohya" (a file); dtype NULL: float32.  `path` must not exist. */
int contraflow_adapter_export(const struct contraflow_adapter *a, const char *layout, const char *dtype,
			      const char *path, struct contraflow_error *e);
void contraflow_adapter_free(struct contraflow_adapter *a); /* NULL is fine */

/* An image for each of n prompts, with the adapter or with none (NULL).  Image i begins from noise that seed
 * and first + i name: the same image for any batch size, in any other call, and in `contraflow sample`.  rgb:
 * n images of height x width x 3 bytes, rows from the top. */
int contraflow_sample(struct contraflow_pipeline *p, const struct contraflow_adapter *a,
		      const char *const *prompts, int n, int64_t seed, int64_t first, unsigned char *rgb,
		      struct contraflow_error *e);

/* ---- Scores -------------------------------------------------------------------------------------- */

struct contraflow_image {
	const unsigned char *rgb; /* height x width x 3, rows from the top */
	int width, height;
	const char *prompt;
	const char *metadata; /* a JSON object as text, with what a reward needs to know of the prompt; NULL:
				 "{}" */
	int64_t group;        /* of a trainer's images: those of one number are of one prompt; else unused */
};

struct contraflow_scorer;
/* The rewards of a configuration file's section `rewards`; `config` may be NULL, and the settings say all.
 * Settings: device (auto, cpu, cuda: what rewards take whose own is auto), and keys of `rewards`, such as
 * "rewards.ocr.weight=2" or "rewards={ocr: {}, aesthetic: {weight: 0.1}}". */
int contraflow_scorer_open(struct contraflow_scorer **out, const char *config, const char *const *settings,
			   struct contraflow_error *e);
int contraflow_scorer_count(const struct contraflow_scorer *s);               /* rewards */
const char *contraflow_scorer_name(const struct contraflow_scorer *s, int k); /* NULL: there is no k-th */
/* total[i]: the weighted sum, NaN where a reward could not score image i.  each, unless NULL: n rows of
 * contraflow_scorer_count() scores.  An image without a score is no error. */
int contraflow_score(struct contraflow_scorer *s, const struct contraflow_image *images, int n, double *total,
		     double *each, struct contraflow_error *e);
/* The newest call's scores and sub-scores with their reasons, as JSON (rewards/judges/scoring.h has the
 * form); until the next call.  NULL before the first. */
const char *contraflow_scorer_report(const struct contraflow_scorer *s);
void contraflow_scorer_close(struct contraflow_scorer *s); /* NULL is fine */

/* ---- Training ------------------------------------------------------------------------------------ */

/*
 * A step is what the program makes of an epoch: it samples prompts.groups x prompts.group_size images, gets a
 * reward for each, updates the adapter train.steps_per_epoch times, and lets the old policy follow.  With the
 * same configuration and rewards it has the same bits as `contraflow train`.
 *
 *     contraflow_trainer_step(t, my_rewards, my_data, &e);
 * or
 *     contraflow_trainer_sample(t, &images, &n, &e);
 *     ... reward[i] for images[i] ...
 *     contraflow_trainer_learn(t, reward, n, &e);
 */
struct contraflow_trainer;
enum contraflow_policy {
	CONTRAFLOW_EMA = 0, /* averaged: what the program evaluates and exports */
	CONTRAFLOW_OLD = 1, /* sampled with */
	CONTRAFLOW_THETA = 2
};

/* A configuration as `contraflow train` reads it; settings are keys of it.  Its section `rewards` may be
 * missing, and is not looked at.  Not read: run.threads, run.deterministic, run.timeout, run.max_seconds, and
 * all that is about a run directory, its logs and its evaluations; refused: stages, ranks.reward,
 * prompts.draw and prompts.sets. */
int contraflow_trainer_open(struct contraflow_trainer **out, const char *config, const char *const *settings,
			    struct contraflow_error *e);
/* The images of the next step, the same ones until it is made; the trainer's, until learn or close. */
int contraflow_trainer_sample(struct contraflow_trainer *t, const struct contraflow_image **images, int *n,
			      struct contraflow_error *e);
/* reward: n numbers, for the images of contraflow_trainer_sample; NaN: it could not be had. */
int contraflow_trainer_learn(struct contraflow_trainer *t, const double *reward, int n,
			     struct contraflow_error *e);
/* Both.  `reward` fills n rewards, NaN at first, and returns 0; anything else is an error of the step, which
 * can then be made again, with the same images. */
int contraflow_trainer_step(struct contraflow_trainer *t,
			    int (*reward)(void *ctx, const struct contraflow_image *images, int n,
					  double *reward),
			    void *ctx, struct contraflow_error *e);
/* What the newest step measured: the line of metrics.jsonl, as docs/metrics.md explains it, until the next
 * one; NULL before the first.  A step that changed nothing, because a number was not finite or no image had a
 * reward, says so in "skipped" or has the step number of the one before. */
const char *contraflow_trainer_metrics(const struct contraflow_trainer *t);
int64_t contraflow_trainer_steps(const struct contraflow_trainer *t); /* optimizer steps so far */
/* The model that is trained, to sample with as eval.sampler says; the trainer's. */
struct contraflow_pipeline *contraflow_trainer_pipeline(struct contraflow_trainer *t);
/* A policy as it is now; contraflow_adapter_free it before the trainer is closed. */
int contraflow_trainer_adapter(struct contraflow_trainer *t, enum contraflow_policy which,
			       struct contraflow_adapter **out, struct contraflow_error *e);
/* A checkpoint in the run directory `dir`, made if need be, and its configuration: what contraflow_trainer_
 * resume goes on from, and what the program samples with and exports (--lora DIR).  Not between sample and
 * learn. */
int contraflow_trainer_save(struct contraflow_trainer *t, const char *dir, struct contraflow_error *e);
/* The newest checkpoint there, of this library or of the program, of the same seed, model and adapter. */
int contraflow_trainer_resume(struct contraflow_trainer *t, const char *dir, struct contraflow_error *e);
void contraflow_trainer_close(struct contraflow_trainer *t); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
