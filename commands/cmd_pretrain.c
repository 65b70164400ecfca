/* cmd_pretrain.c -- contraflow pretrain CONFIG */
#include "base/machine/stop.h"
#include "commands/options.h"
#include "trainer/pretrain/pretrain.h"
#include "dist/startup.h"

static int run(int argc, char **argv, struct err *e)
{
	const char *config;
	struct option_list set = { .n = 0 };
	const struct option_spec spec[] = { { "set", 'm', &set, "KEY=VALUE",
					      "override a key of the configuration; may be repeated" },
					    { NULL, 0, NULL, NULL, NULL } };
	struct pretrain_conf c;
	enum at_device dev;
	struct dist d;
	int n, ret = options_parse(&cmd_pretrain, spec, argc, argv, &config, 1, &n, e);

	if (ret)
		return ret;
	if (n != 1)
		return err_set(e, "pretrain: name a configuration; usage: contraflow pretrain %s",
			       cmd_pretrain.usage);
	stop_open(false); /* MPI may take its time to start */
	if ((ret = startup_open(&d, STARTUP_RANKS, e)))
		return ret;
	stop_open(d.rank == 0);
	ret = dist_agree(&d, pretrain_read(&c, config, set.v, set.n, e), e);
	if (!ret) {
		/* the model is small, and trained on the CPU; so its judges work there as well */
		ret = startup_threads(&d, c.run.threads, e) ||
			      dist_agree(&d, startup_device(&dev, "cpu", &d, e), e) || pretrain(&c, &d, e)
			  ? -1
			  : 0;
		pretrain_release(&c);
	}
	return startup_close(&d, ret, e);
}

const struct command cmd_pretrain = { "pretrain", "CONFIG [--set KEY=VALUE ...]",
				      "make a base model of the shapes world", run };
