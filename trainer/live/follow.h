/*
 * follow.h -- what a run's directory tells while the run goes on, for somebody who only looks: nothing in it
 * is changed, and the run may be on another machine that shares the file system.
 */
#ifndef FOLLOW_H
#define FOLLOW_H
#include "base/err.h"
#include "base/json.h"
#include <stdbool.h>
#include <stdint.h>

enum follow_state {
	FOLLOW_STARTING, /* a process has the directory, and has written nothing yet */
	FOLLOW_RUNNING,
	FOLLOW_ELSEWHERE, /* it seems to run on a host whose lock cannot be seen from this one */
	FOLLOW_FINISHED,
	FOLLOW_STOPPED, /* by a signal or a time that was over; --resume goes on */
	FOLLOW_FAILED,
	FOLLOW_DEAD /* its process is gone without a word */
};

/* A number of the rows, in their order; NAN where a row has null. */
struct series {
	char *name;
	double *v;
	int n, cap;
};

#define FOLLOW_WARNINGS 4
struct follow {
	char *dir, *name;
	json_t *config; /* dotted key: value as text; empty before it is there */
	char **stage;   /* names; n_stages 0: none */
	int n_stages;
	enum follow_state state;
	char who[160];  /* "pid 12 on host, since TIME", "": nobody */
	char what[400]; /* what the log says of its end, "" */
	/* Rows: of steps and of evaluations. */
	struct series *series;
	int n_series, cap_series;
	int steps, evals;
	int bad;            /* lines that are no rows */
	int64_t step;       /* the newest row's, -1: there is none */
	int64_t stage_from; /* the step before the newest stage's first */
	double age;         /* s since the newest row was written, by this machine's clock; NAN: unknown */
	char warning[FOLLOW_WARNINGS][200]; /* the newest of the log, the last one last */
	int warnings;
	/* Where reading goes on. */
	int64_t offset;
	uint64_t file;
};

/* An error where the directory is no run's, and nobody is starting one in it. */
int follow_open(struct follow *w, const char *dir, struct err *e);
/* Reads what has come since. */
int follow_look(struct follow *w, struct err *e);
void follow_close(struct follow *w);

const char *follow_state_name(enum follow_state state);
bool follow_goes_on(const struct follow *w); /* starting, running */
/* NULL: no row has it. */
const struct series *follow_series(const struct follow *w, const char *name);
/* Of its newest values, at most n of them; NAN: there is none. */
double follow_mean(const struct follow *w, const char *name, int n);
double follow_last(const struct follow *w, const char *name);
/* The held-out score's name, as in decisions of the run: "eval/strict" where rows have it. */
const char *follow_score(const struct follow *w);
/* A key of the configuration, the newest stage's where it has its own; `absent` where there is no number. */
double follow_setting(const struct follow *w, const char *key, double absent);
double follow_steps(const struct follow *w); /* of all stages; NAN: unknown */

/* What is left of a run. */
struct eta {
	double step, steps;   /* of the stage: now, at its end */
	double later;         /* steps of the stages after it */
	double step_seconds;  /* a step */
	double trained, most; /* s of training so far, and at most; most 0: no limit */
	double eval_every, eval_seconds, save_every, save_seconds; /* every 0: at the end alone */
};
/* Seconds to the end, evaluations and checkpoints counted; NAN where nothing is known. */
double eta_seconds(const struct eta *x);
double follow_eta(const struct follow *w);

#endif
