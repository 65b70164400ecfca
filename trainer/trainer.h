/*
 * trainer.h -- the state of a training run, and the parts of an epoch.
 *
 * loop.c reads as the algorithm: prompts, rollout, rewards, advantage, update, old policy.  Each part is a
 * file: rollout.c and update.c here, advantage.c and policies.c in algorithms/.
 */
#ifndef TRAINER_H
#define TRAINER_H
#include "data/prompts.h"
#include "dist/dist.h"
#include "models/pipeline.h"
#include "rewards/mixture/mixture.h"
#include "sampler/sample.h"
#include "trainer/batches.h"
#include "trainer/evaluation/alarm.h"
#include "trainer/evaluation/evaluate.h"
#include "trainer/experiment.h"
#include "trainer/judging.h"
#include "trainer/live/live.h"
#include "trainer/record/archives.h"
#include "trainer/record/metrics.h"
#include "algorithms/optimizer.h"
#include "algorithms/policies.h"

/* Where a run stands: with the three adapters and the optimizer's moments, all that a checkpoint holds. */
struct progress_state {
	int64_t step;              /* optimizer steps taken */
	int64_t stage, stage_step; /* which stage runs, and steps taken in it */
	double stage_seconds;      /* of train_seconds, in this stage */
	double held_out;           /* this stage's newest held-out score; NAN: none yet */
	int64_t epoch;             /* epochs (rollout and update) finished */
	int64_t part;              /* of the epoch that runs: parts that are through */
	int64_t evaluated,
	    drawn;       /* steps after which evaluation and grid were last looked at; -1: none yet */
	int64_t rows;    /* lines of metrics.jsonl, on rank 0; -1: unknown */
	int64_t images;  /* images sampled for training, in whole epochs */
	int64_t skipped; /* steps skipped for non-finite numbers */
	int64_t skipped_in_row;
	int64_t empty_in_row; /* parts of epochs with nothing to learn from */
	int64_t rollbacks;    /* returns to a checkpoint for non-finite numbers */
	int64_t unavailable;  /* images without a reward */
	/* In this stage, groups of each set of prompts: their shares are exact over time (prompts_draw_sets).
	 */
	int64_t dealt[PROMPT_SETS];
	/* Spent in epochs, those that were taken back too, evaluation not counted: CPU time and forwards of
	 * an image (a backward to the adapter counts FORWARDS_OF_BACKWARD) over all ranks that train. */
	double train_seconds, cpu_seconds, forwards;
};

/* Somebody else who scores what is sampled, in place of the section `rewards`, whose entries are not opened.
 */
struct trainer_scorer {
	const struct mixture_backend *backend;
	void *ctx;
};

struct trainer {
	const struct experiment *file; /* the whole configuration; borrowed */
	struct experiment *x;          /* the stage that runs: &stage */
	struct experiment stage;
	int64_t entered;   /* which one that is */
	struct dist *dist; /* borrowed */
	struct pipeline pipeline;
	struct pipeline_hashes hashes;
	struct prompts train, test;
	struct mixture *mixture; /* its judges: loaded but for those of stages that have not begun */
	struct sampler rollout, eval_sampler;
	struct sampler preview; /* pipeline NULL: there is none */
	struct policies policies;
	struct optimizer optimizer;
	struct gradient_replays *gradients; /* NULL: the update has no CUDA graphs */
	at_t grad_P;
	struct progress_state at;
	bool unsaved;           /* all of this is of a finished step, and no checkpoint holds it */
	struct batches batches; /* of the stage that runs */
	struct eval_result before;
	struct alarm alarm;      /* of this stage's evaluations */
	double saved_seconds;    /* of checkpoints since the last row */
	struct metrics *metrics; /* NULL on ranks other than 0 */
	struct live *live;       /* who else gets them; NULL: nobody.  Borrowed */
	char *dir;               /* the run directory */
	json_t *inputs;          /* of inputs.h: of the checkpoint, then of this run; NULL on other ranks */
	/* Borrowed: what was sampled before, in place of sampling (contraflow replay); NULL for a training
	 * run. */
	const struct archives *archives;
	const struct trainer_scorer *scorer; /* borrowed; NULL: the rewards of the configuration */
};

/* Everything of every stage is tried before stage `first` begins: but for judges' weights, of which only that
 * stage's are loaded.  `run`: the directory of a run that goes on, whose checkpoint then says what shape the
 * adapter has that lora.start names; NULL: a new run.  `archives`: trained in
 * place of images of its own, or NULL.  `scorer`: NULL, or of an experiment without stages. */
int trainer_open(struct trainer *t, const struct experiment *x, struct dist *d, int64_t first,
		 const char *run, const struct archives *archives, const struct trainer_scorer *scorer,
		 struct err *e);
/* Closes the prompts, rewards and samplers of the stage that ran, and opens those of stage i; collective.
 * Judges that both stages have stay as they are. */
int trainer_enter(struct trainer *t, int64_t i, struct err *e);
void trainer_close(struct trainer *t);

/* The images of one epoch.  Arrays of n are the same on every rank; x0 holds this rank's share. */
struct samples {
	int64_t n, groups;
	int64_t first, count;    /* this rank's share: samples first .. first + count - 1 */
	int64_t *prompt, *group; /* n */
	int *set;                /* n: which set of prompts; 0 where there are none */
	int64_t *drawn;          /* n: which of the images drawn, whose noise it has; NULL: all are trained */
	double *advantage, *r;   /* n; NAN without a reward */
	struct mixture_scores scores; /* of all n: totals, values, what could not be had */
	at_t x0_NCHW;                 /* count rows, kept, on the pipeline's device */
	int steps;
	/* NEEDS_LAW: x before each of the steps that took noise, and with NEEDS_NEXT after them, as x0; NULL
	 * for others. */
	at_t *state_NCHW;
	/* Replays whose archive says at what it is trained: 1000 t (count, given), float32 on the CPU, and
	 * eps (count, given, C, H, W) or NULL.  given 0: the algorithm chooses. */
	int given;
	at_t given_t_NT, given_noise_NTCHW;
	struct cond cond;    /* of the groups that this rank's share is in; kept */
	int64_t first_group; /* row 0 of cond */
	struct advantage_stats stats;
	struct advantage_stats *of_set; /* of the prompts' sets, NULL where there are none */
	/* For the log. */
	double *strict;    /* n: the "strict" sub-score, NAN where there is none */
	int64_t extra;     /* images drawn to choose from */
	double extra_mean; /* of their total rewards */
	int64_t forwards;  /* of an image, by this rank, for all that it sampled */
	double x0_norm, pixels, pixel_mean, pixel_saturated;
	/* Root mean square of how far the latents are from their group's mean, as a share of x0_norm; NAN:
	 * groups of one. */
	double diversity;
	double rollout_seconds, reward_wait_seconds;
	double own_seconds; /* of this rank's sampling, waiting for nobody */
};
void samples_release(struct samples *s);
/* Room for the states that the algorithm wants, if any; s->count is known. */
void samples_make_states(const struct trainer *t, struct samples *s, struct at_dims chw);
/* Rows of s->cond for samples id[0..n), which are this rank's; of the innermost scope. */
struct cond samples_cond(const struct trainer *t, const struct samples *s, const int64_t *id, int n);

/* Prompts, rollout, rewards, advantages of epoch t->at.epoch. */
int rollout_epoch(struct trainer *t, struct samples *s, struct err *e);
/* The same in two steps, for scores that are made in between (without prompts.draw): after an error of either
 * there is nothing to finish. */
int rollout_begin(struct trainer *t, struct samples *s, struct judging *judging, struct err *e);
int rollout_finish(struct trainer *t, struct samples *s, struct judging *judging, struct err *e);
/* The same from t->archives, which has that epoch (archived.c). */
int archived_epoch(struct trainer *t, struct samples *s, struct err *e);
/* Whether the configuration can train from them; all ranks find the same. */
int archived_check(const struct trainer *t, struct err *e);

/* The numbers for the log of latents and pixels, over all ranks; collective. */
void samples_measure(struct trainer *t, struct samples *s);

/* Parts of an epoch's samples for those two: arrays of s->n, and conditioning of this rank's groups. */
void samples_make(struct samples *s, int64_t n, int64_t groups);
int samples_encode(struct trainer *t, struct samples *s, struct err *e);

#define FORWARDS_OF_BACKWARD 1.135 /* by FLOPs, in Stable Diffusion 3.5 Medium at 512 x 512 */
struct update_stats {
	double policy_loss, kl, grad_norm, lr;
	double old_deviation; /* mean (v - v_old)^2, where has_old */
	bool has_old;
	double metric[ALGORITHM_NOTES]; /* by algorithm_metrics */
	double seconds, reduce_seconds;
	double own_seconds; /* of this rank's forwards and backwards, waiting for nobody */
	bool stopped; /* somebody was asked to stop: nothing was changed, and nothing here is filled in */
	/* Of an image, by all ranks; a backward to the adapter counts FORWARDS_OF_BACKWARD. */
	double forwards;
	bool empty;   /* no pair in its part: no score, or nothing that the algorithm wants */
	bool skipped; /* that, or a non-finite number: nothing was changed */
};
/* The steps of the round that comes which take noise: an algorithm may choose them. */
void trainer_window(struct trainer *t);
/* The laws of the rollout's steps (free the array), or NULL where the algorithm does not need them. */
struct transition *trainer_laws(const struct trainer *t);
/* How many noise levels a sample is trained at. */
int trainer_levels(const struct trainer *t);
/* One optimizer step on part `part` of `parts` of the epoch's shuffled samples. */
void update_step(struct trainer *t, const struct samples *s, int64_t part, int64_t parts,
		 struct update_stats *u);
/* What one micro-batch of n pairs does, for its memory: of made-up samples, all of them this rank's, with the
 * old policy and the base in it and `blocks` computed twice.  Only grad_P is changed. */
void update_try(struct trainer *t, const struct samples *s, int n, int64_t blocks);

/* ---- decisions.c ---- */
/* What an evaluation decides, the same on every rank: the held-out score, unless it is of a remnant, and the
 * alarm. That before a stage's first step only sets the alarm's marks. */
void trainer_take_evaluation(struct trainer *t, const struct eval_result *r);
/* A step in the progress line; `eval` is the newest evaluation, { 0 } before one. */
void trainer_note(const struct trainer *t, const struct samples *s, const struct update_stats *u,
		  const struct eval_result *eval, char *note, size_t size);

/* Runs to train.max_steps, evaluates before and after, writes result.json.  A request to stop
 * (base/machine/stop.h) and every other error that all ranks have leave a checkpoint of the last finished
 * step. */
int trainer_run(struct trainer *t, struct err *e);

/* ---- record/checkpoint.c, checkpoint_read.c: collective ---- */
/* Whole or not at all, in place of one of the same step if there is one. */
int checkpoint_save(struct trainer *t, struct err *e);
/* The stage that the newest checkpoint in run directory `dir` belongs to; 0 where there is none, or none that
 * checkpoint_resume will take. */
int64_t checkpoint_stage(const char *dir, struct dist *d);
/* The newest of the run, if any: rank 0 reads and checks it, and all ranks take what it tells them, *found
 * too.  A run that had another seed, base model or adapter is refused. */
int checkpoint_resume(struct trainer *t, bool *found, struct err *e);

#endif
