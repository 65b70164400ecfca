/* cmd_train.c -- contraflow train CONFIG */
#include "base/alive.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "commands/options.h"
#include "trainer/reward_ranks.h"
#include "trainer/record/rundir.h"
#include "dist/startup.h"
#include "trainer/trainer.h"
#include <stdlib.h>

/* For a reward rank: the rewards of stage `set`. */
static int open_set(void *ctx, struct mixture **m, int set, struct err *e)
{
	struct experiment stage;

	if (experiment_stage(&stage, ctx, set, e))
		return -1;
	int ret = mixture_open(m, stage.tree, 1, e);
	experiment_release(&stage);
	return ret;
}

static int train(struct dist *d, struct experiment *x, const char *run, bool resume, struct err *e)
{
	struct trainer t;
	int64_t stage = 0;

	if (resume) {
		char *dir = rundir_path(x, run);
		stage = checkpoint_stage(dir, d);
		free(dir);
		stage = stage < 0 || stage >= experiment_stages(x) ? 0 : stage; /* rundir_open refuses it */
	}
	int ret = trainer_open(&t, x, d, stage, e);

	if (!ret) {
		ret = rundir_open(&t, run, resume, e);
		if (!ret)
			ret = trainer_run(&t, e);
		trainer_close(&t);
	}
	reward_ranks_dismiss(d);
	return ret;
}

static int read_and_train(struct dist *d, const char *config, const char *run, bool resume,
			  const struct option_list *set, struct err *e)
{
	struct experiment x;
	int ret;

	if (dist_agree(d, experiment_read(&x, config, set->v, set->n, e), e))
		return -1;
	dist_watch(x.run.timeout);
	stop_open(d->rank == 0);
	stop_after(x.run.max_seconds);
	stop_set_code((int)x.run.requeue_code);
	at_set_deterministic(x.run.deterministic); /* judges as well, wherever they are */
	ret = startup_threads(d, x.run.threads, e) || reward_ranks_split(d, x.ranks.reward, "ranks.reward", e)
		  ? -1
		  : 0;
	alive_advice("--resume goes on from the run's newest checkpoint, if there is one");
	if (!ret && d->serves)
		reward_ranks_serve(d, &(struct remote_sets) { &x, open_set }, x.run.device);
	else if (!ret)
		ret = train(d, &x, run, resume, e);
	experiment_release(&x);
	log_close();
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	const char *config, *dir = NULL;
	bool resume = false, quiet = false;
	struct option_list set = { .n = 0 };
	const struct option_spec spec[] = {
		{ "run", 's', &dir, "DIR", "the run directory (default: runs/NAME of the configuration)" },
		{ "resume", 'f', &resume, NULL, "continue from the run directory's newest checkpoint" },
		{ "set", 'm', &set, "KEY=VALUE", "override a key of the configuration; may be repeated" },
		{ "quiet", 'f', &quiet, NULL, "print only warnings and the result" },
		{ NULL, 0, NULL, NULL, NULL }
	};
	struct dist d;
	int n, ret = options_parse(&cmd_train, spec, argc, argv, &config, 1, &n, e);

	if (ret)
		return ret;
	if (n != 1)
		return err_set(e, "train: name a configuration; usage: contraflow train %s", cmd_train.usage);
	if ((ret = startup_open(&d, STARTUP_RANKS, e)))
		return ret;
	log_quiet(quiet);
	ret = read_and_train(&d, config, dir, resume, &set, e);
	return startup_close(&d, ret, e);
}

const struct command cmd_train = { "train", "CONFIG [--run DIR] [--resume] [--set KEY=VALUE ...]",
				   "train a LoRA adapter with online RL", run };
