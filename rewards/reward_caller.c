/* reward_caller.c -- scores that come from the program that trains through the library
 * (library/contraflow.h): the section `rewards` of its runs says so.  Nothing here can score, and whoever
 * wants to goes elsewhere. */
#include "rewards/reward.h"

static int open_nothing(void **state, const void *conf, struct err *e)
{
	(void)state, (void)conf;
	return err_set(e,
		       "the scores come from the program that trains through the library: name rewards that "
		       "can be had here (rewards=...)");
}

static int score(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	(void)state, (void)item;
	reward_fail(out, n, "scored elsewhere");
	(void)e;
	return 0;
}

const struct reward_type reward_caller = {
	.abi = REWARD_ABI,
	.name = "caller",
	.doc = "scores of the program that trains through the library; nothing else can open it",
	.open = open_nothing,
	.score = score,
};
