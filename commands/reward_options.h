/* reward_options.h -- the rewards that a command line names: of a configuration, one of them, or one alone.
 */
#ifndef REWARD_OPTIONS_H
#define REWARD_OPTIONS_H
#include "dist/dist.h"
#include "rewards/mixture/mixture.h"
#include "commands/options.h"

struct reward_options {
	const char *config, *reward;
	struct option_list set;
	int64_t threads;
};
/* Rows of a command's table; `config` is its own affair. */
#define REWARD_OPTIONS(o)                                                                                    \
	{ "reward", 's', &(o).reward, "NAME",                                                                \
	  "only this entry of the file; without a file: this reward with its defaults" },                    \
	    { "set", 'm', &(o).set, "KEY=VALUE", "override a key of `rewards`; may be repeated" },           \
	{                                                                                                    \
		"threads", 'i', &(o).threads, "N",                                                           \
		    "CPU threads, and batches scored at a time (default: OMP_NUM_THREADS, or the cores it "  \
		    "may use)"                                                                               \
	}

/* After startup_open: settles threads and device, and opens.  `config` or `reward` must be there.  Errors
 * name the command.  *m must be NULL before; the caller closes it, after an error, too. */
int reward_options_open(struct mixture **m, const struct reward_options *o, struct dist *d,
			const char *command, struct err *e);

#endif
