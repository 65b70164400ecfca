/* main.c -- the commands, and what happens when something goes wrong: one line on stderr, a non-zero exit. */
#include "aten/at.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/version.h"
#include "dist/dist.h"
#include "rewards/mixture/mixture.h"
#include "commands/options.h"
#include "commands/version_git.h"
#include "dist/startup.h"
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command *const commands[] = { &cmd_train,  &cmd_replay,  &cmd_compare,  &cmd_report,
						  &cmd_top,    &cmd_eval,    &cmd_sample,   &cmd_export,
						  &cmd_score,  &cmd_inspect, &cmd_pretrain, &cmd_config,
						  &cmd_shapes, &cmd_probe,   &cmd_bench,    &cmd_serve,
						  &cmd_check,  &cmd_doctor,  &cmd_plan };
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void usage(FILE *out)
{
	fprintf(out,
		"contraflow: online RL post-training of text-to-image flow models (DiffusionNFT)\n\n"
		"usage: contraflow COMMAND ...        (several ranks: mpirun -n N contraflow train ...)\n\n");
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->doc);
	fprintf(out, "\n  see also contraflow COMMAND --help and contraflow --version\n");
}

/* A failed tensor op: a rank that went on would hang the others. */
static void panic(const char *message)
{
	fprintf(stderr, "%s\n", message);
	log_note("ended by: %s", message);
	dist_abort(1);
}

static int unknown(const char *name)
{
	const char *names[N_COMMANDS + 1] = { 0 }, *near;

	for (size_t i = 0; i < N_COMMANDS; i++)
		names[i] = commands[i]->name;
	near = text_nearest(name, names);
	fprintf(stderr, "contraflow: unknown command '%s'%s%s%s; see contraflow --help\n", name,
		near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
	return 2;
}

/* A reward that hangs has a thread inside it, from under which exit handlers would take the libraries;
 * quick_exit runs only those that end its processes. */
static int leave(int code)
{
	if (!mixture_left_behind())
		return code;
	fflush(stdout);
	fflush(stderr);
	quick_exit(code);
}

int main(int argc, char **argv)
{
	struct err e = { "" };

	version_is(*VERSION_GIT ? VERSION "+" VERSION_GIT : VERSION);
	at_set_panic(panic);
	signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of the write that meets it */
	json_set_alloc_funcs(mem_alloc, free); /* jansson makes NULL of what it has no memory for */
	if (argc < 2) {
		usage(stderr);
		return 2;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage(stdout);
		return 0;
	}
	if (text_starts(argv[1], "--help=") &&
	    options_print_program(argv[1] + strlen("--help="), commands, N_COMMANDS))
		return 0;
	if (!strcmp(argv[1], "--version")) {
		printf("contraflow %s (libtorch %s%s)\n", version(), at_version(),
		       at_cuda_built() ? ", CUDA" : "");
		return 0;
	}
	for (size_t i = 0; i < N_COMMANDS; i++) {
		if (strcmp(argv[1], commands[i]->name))
			continue;
		int ret = commands[i]->run(argc - 2, argv + 2, &e);
		if (!ret && (fflush(stdout) || ferror(stdout))) /* what was asked for went there */
			ret = err_set(&e, "cannot write all of standard output: is the disk full?");
		if (ret < 0)
			fprintf(stderr, "contraflow: %s\n", e.msg);
		return leave(ret == STARTUP_STOPPED ? stop_code() : ret < 0 || ret == STARTUP_FAILED);
	}
	return unknown(argv[1]);
}
