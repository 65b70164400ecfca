/* cmd_replay.c -- contraflow replay CONFIG ARCHIVE ...: training from rollout archives alone. */
#include "commands/options.h"

static int run(int argc, char **argv, struct err *e)
{
	return train_command(&cmd_replay, argc, argv, e);
}

const struct command cmd_replay = {
	"replay", "CONFIG ARCHIVE ... [--run DIR] [--resume[=auto]] [--set KEY=VALUE ...]",
	"train from what was sampled before (log.rollouts_every), an epoch an archive", run
};
