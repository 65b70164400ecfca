/*
 * options.h -- the command line: "--name value", "--name=value", flags and positional arguments, from a
 * table.
 */
#ifndef OPTIONS_H
#define OPTIONS_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

#define OPTION_REPEAT 64
#define OPTION_UNSET  INT64_MIN /* an integer that was not given */

struct option_spec {
	const char *name; /* without the dashes; "o" is -o */
	/* 's' text, 'i' integer, 'r' real, 'f' flag, 'm' text that may be given many times, 'v' a flag that
	 * may have a text: "" for --name alone, and what is behind --name= */
	char kind;
	void *out; /* const char **, int64_t *, double *, bool *, struct option_list * */
	const char *arg, *doc;
};
struct option_list {
	const char *v[OPTION_REPEAT];
	int n;
};
struct command {
	const char *name, *usage, *doc;
	/* -1: main() prints the error; STARTUP_FAILED: that has been done; 1: --help was all */
	int (*run)(int argc, char **argv, struct err *e);
};

/* Fills the table's variables; positional arguments go to args (at most `most`), their number to *n. 1:
 * --help was asked for and printed. */
int options_parse(const struct command *c, const struct option_spec *spec, int argc, char **argv,
		  const char **args, int most, int *n, struct err *e);

/* --help=FORM: a manual page (man), or a shell's completion of this command (bash, zsh, fish); false: no such
 * form.  options_print.c. */
bool options_print(const char *form, const struct command *c, const struct option_spec *spec);
/* The same of the program, with its commands; `names`: theirs, a line each. */
bool options_print_program(const char *form, const struct command *const *commands, int n);

/* The commands: each has a file cmd_NAME.c. */
extern const struct command cmd_bench, cmd_check, cmd_compare, cmd_config, cmd_doctor, cmd_plan, cmd_eval,
    cmd_export, cmd_inspect, cmd_pretrain, cmd_probe, cmd_replay, cmd_report, cmd_sample, cmd_score,
    cmd_serve, cmd_shapes, cmd_top, cmd_train;

/* train, and what replay and compare share with it (cmd_train.c). */
struct dist;
int train_command(const struct command *c, int argc, char **argv, struct err *e);
/* A run in its directory, begun or taken up again; collective.  `words`: for its log. */
int train_one(struct dist *d, const char *config, const char *dir, const struct option_list *set,
	      const char *words, struct err *e);
/* Version and command line; free(). */
char *train_words(const char *command, int argc, char **argv);

#endif
