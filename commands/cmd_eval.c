/* cmd_eval.c -- contraflow eval: the score of a model, with or without an adapter, on a prompt file. */
#include "base/log.h"
#include "trainer/evaluation/evaluate.h"
#include "trainer/judging.h"
#include "commands/options.h"
#include "trainer/reward_ranks.h"
#include "commands/session.h"
#include "dist/startup.h"
#include <stdio.h>
#include <string.h>

struct eval_options {
	const char *prompts, *out, *config;
	int64_t per, seed, reward_ranks;
	bool quiet;
};

/* The rewards of --config, or geneval with its defaults. */
static struct conf_node *read_rewards(const struct eval_options *r, struct err *e)
{
	struct conf_node *tree = r->config ? conf_read(r->config, e) : conf_empty();

	if (r->config || !conf_set(tree, "rewards={geneval: {}}", e))
		return tree;
	conf_node_free(tree);
	return NULL;
}

static int open_set(void *ctx, struct mixture **m, int set, struct err *e)
{
	struct conf_node *tree = read_rewards(ctx, e);
	int ret = tree ? mixture_open(m, tree, 1, e) : -1;

	(void)set; /* there is one */
	conf_node_free(tree);
	return ret;
}

static int tell(const struct eval_result *result, const char *out, struct err *e)
{
	json_t *j = eval_json(result);
	int ret = out ? json_write(out, j, e) : 0;

	eval_print(result, NULL, "held-out images");
	json_decref(j);
	return ret;
}

static int score(struct dist *d, struct session *s, const struct session_options *o,
		 const struct eval_options *r, struct err *e)
{
	struct prompts prompts = { 0 };
	struct eval_result result = { 0 };
	struct mixture *m = NULL;
	struct conf_node *tree = read_rewards(r, e);
	int ret = !tree || reward_ranks_open(&m, d, tree, 0, e) || prompts_read(&prompts, r->prompts, e) ||
			  judging_check(m, &prompts, e) || mixture_load(m, e)
		      ? -1
		      : 0;

	conf_node_free(tree);
	ret = dist_agree(d, ret, e);
	if (!ret)
		reward_ranks_agree(d, m);
	if (!ret)
		ret = prepare_prompts(d, &s->pipeline, &prompts, e);
	conditioner_rest(s->pipeline.text);
	if (!ret) {
		struct evaluator v = { .dist = d,
				       .pipeline = &s->pipeline,
				       .sampler = &s->sampler,
				       .mixture = m,
				       .prompts = &prompts,
				       .images_per_prompt = r->per,
				       .batch = o->batch,
				       .height = o->height,
				       .width = o->width,
				       .seed = (uint64_t)r->seed };
		ret = evaluate(&v, &s->pass, &result, e);
	}
	if (!ret)
		ret = dist_agree(d, d->rank == 0 ? tell(&result, r->out, e) : 0, e);
	eval_release(&result);
	prompts_free(&prompts);
	mixture_close(m);
	return ret;
}

static int evaluate_session(struct dist *d, const struct session_options *o, const struct eval_options *r,
			    struct err *e)
{
	struct session s;
	int ret = dist_agree(d, session_open(&s, d, o, "eval", e), e);

	if (!ret) {
		ret = score(d, &s, o, r, e);
		session_close(&s);
	}
	reward_ranks_dismiss(d);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct session_options o = SESSION_DEFAULTS;
	struct eval_options r = { .per = 1 };
	const char *args[1];
	const struct option_spec spec[] = {
		SESSION_OPTIONS(o),
		{ "prompts", 's', &r.prompts, "FILE", "the prompts, .txt or .jsonl" },
		{ "config", 's', &r.config, "FILE",
		  "use the section `rewards` of this file (default: geneval)" },
		{ "images-per-prompt", 'i', &r.per, "N", "images per prompt (default 1)" },
		{ "seed", 'i', &r.seed, "N", "seed of the noise (default 0)" },
		{ "reward-ranks", 'i', &r.reward_ranks, "N",
		  "the last N ranks only score what the others sample (default 0)" },
		{ "quiet", 'f', &r.quiet, NULL, "print no progress" },
		{ "o", 's', &r.out, "FILE.json", "also write the result to this file" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct dist d;
	int n, ret = options_parse(&cmd_eval, spec, argc, argv, args, 0, &n, e);

	if (ret)
		return ret;
	if (!r.prompts)
		return err_set(e, "eval: --prompts FILE is needed");
	if (r.per < 1)
		return err_set(e, "eval: --images-per-prompt must be at least 1");
	if ((ret = startup_open(&d, STARTUP_RANKS, e)))
		return ret;
	log_quiet(r.quiet);
	ret = startup_threads(&d, o.threads, e) ? err_in(e, "eval")
						: reward_ranks_split(&d, r.reward_ranks, "--reward-ranks", e);
	if (!ret && d.serves)
		reward_ranks_serve(&d, &(struct remote_sets) { &r, open_set }, o.device);
	else if (!ret)
		ret = evaluate_session(&d, &o, &r, e);
	return startup_close(&d, ret, e);
}

const struct command cmd_eval = { "eval", "--model DIR [--lora DIR] --prompts FILE [-o FILE.json]",
				  "score a model on held-out prompts", run };
