/* cmd_eval.c -- contraflow eval: the score of a model, with or without an adapter, on a prompt file, alone or
 * against another. */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/version.h"
#include "trainer/evaluation/evaluate.h"
#include "trainer/judging.h"
#include "commands/keep.h"
#include "commands/options.h"
#include "trainer/prompt_sets.h"
#include "trainer/reward_ranks.h"
#include "commands/session.h"
#include "dist/startup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct eval_options {
	const char *prompts, *out, *config, *against;
	int64_t per, seed, reward_ranks;
	double max_unavailable;
	bool quiet;
	struct keep keep;
	const struct session_settings *used;
};

/* The rewards of --config, else those of the run, else geneval with its defaults. */
static struct conf_node *read_rewards(const struct eval_options *r, struct err *e)
{
	bool own = r->used->from && (!r->config || !strcmp(r->used->from, r->config));
	struct conf_node *tree = own         ? conf_copy(r->used->x.tree, "")
				 : r->config ? conf_read(r->config, e)
					     : conf_empty();

	if (tree && (!own || r->prompts))
		conf_remove(tree, "prompts"); /* its sets are of other prompts */
	if (own || r->config || !conf_set(tree, "rewards={geneval: {}}", e))
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

/* What --against names, and its evaluation. */
struct other {
	struct eval_result result, difference;
	const char *prompts; /* the files of both */
};

static const char *name_of(const struct eval_options *r)
{
	return r->used->o.lora ? r->used->o.lora : "base";
}

static json_t *report(const struct session *s, const struct eval_options *r, const struct eval_result *result,
		      const struct other *other)
{
	json_t *j = eval_json(result), *how = session_json(s, r->used);

	json_object_set_new(how, "version", json_string(version()));
	json_object_set_new(how, "prompts", json_words(other->prompts));
	json_object_set_new(how, "images_per_prompt", json_integer(r->per));
	json_object_set_new(how, "seed", json_integer(r->seed));
	json_object_set_new(j, "protocol", how);
	if (r->against) {
		json_t *o = json_object();

		json_object_set_new(o, "lora", json_words(r->against));
		json_object_set_new(o, "result", eval_json(&other->result));
		json_object_set_new(o, "difference", eval_json(&other->difference));
		json_object_set_new(j, "against", o);
	}
	return j;
}

static int tell(const struct session *s, const struct eval_options *r, const struct eval_result *result,
		const struct other *other, struct err *e)
{
	json_t *j = report(s, r, result, other);
	int ret = r->out ? json_write(r->out, j, e) : 0;

	json_decref(j);
	if (!r->against) {
		eval_print(result, NULL, "held-out images");
		return ret;
	}
	printf("\n  before: %s   after: %s\n", r->against, name_of(r));
	eval_print(&other->result, result, "held-out images");
	eval_print_difference(&other->difference, name_of(r), r->against);
	return ret;
}

/* The other adapter, or the model alone, on the same prompts and noise. */
static int evaluate_other(struct other *o, struct session *s, const struct evaluator *v,
			  const struct eval_options *r, const struct eval_result *own, struct err *e)
{
	struct lora_merged merged = { 0 };
	struct pass pass;
	bool base = !strcmp(r->against, "base");
	struct evaluator plain = *v; /* the album is of the first alone */
	int ret = dist_agree(v->dist, session_adapter(s, base ? NULL : r->against, &merged, &pass, e), e);

	if (!ret)
		ret = dist_agree(v->dist, session_restart(s, r->used, e), e);
	if (!ret)
		ret = evaluate(&plain, &pass, &o->result, e);
	if (!ret)
		ret = eval_difference(&o->difference, own, &o->result, e);
	lora_merged_release(&merged);
	return ret;
}

/* Too few scores to speak of are told, and are an error. */
static int check_lacking(const struct eval_result *result, const struct eval_options *r, struct err *e)
{
	double lacking = eval_lacking(result);

	if (lacking <= r->max_unavailable && eval_held_out(result)->n)
		return 0;
	return err_set(e, "eval: %.0f %% of the images have no %s score (--max-unavailable is %g)%s%s",
		       100 * lacking, eval_held_out_name(result), r->max_unavailable,
		       *result->why ? ": " : "", result->why);
}

static int score(struct dist *d, struct session *s, const struct eval_options *r, struct err *e)
{
	struct prompts prompts = { 0 };
	struct eval_result result = { 0 };
	struct other other = { 0 };
	struct album album = { 0 };
	struct mixture *m = NULL;
	struct conf_node *tree = read_rewards(r, e);
	int ret = !tree || reward_ranks_open(&m, d, tree, 0, e) ||
			  (r->prompts ? prompts_read(&prompts, r->prompts, e)
				      : prompts_read_test(&prompts, &r->used->x, e)) ||
			  judging_check(m, &prompts, e) || mixture_load(m, e)
		      ? -1
		      : 0;

	other.prompts = prompts.path;
	conf_node_free(tree);
	ret = dist_agree(d, ret, e);
	if (!ret)
		reward_ranks_agree(d, m);
	if (!ret)
		ret = prepare_prompts(d, &s->pipeline, &prompts, e);
	conditioner_rest(s->pipeline.text);
	if (!ret && r->keep.dir)
		ret = keep_open(&album, d, &r->keep, s, r->used, &prompts, r->per, r->seed, "eval", e);
	struct evaluator v = { .dist = d,
			       .pipeline = &s->pipeline,
			       .sampler = &s->sampler,
			       .mixture = m,
			       .prompts = &prompts,
			       .images_per_prompt = r->per,
			       .batch = r->used->o.batch,
			       .height = r->used->o.height,
			       .width = r->used->o.width,
			       .seed = (uint64_t)r->seed,
			       .album = album.dir ? &album : NULL };
	if (!ret)
		ret = evaluate(&v, &s->pass, &result, e);
	if (!ret && r->against)
		ret = evaluate_other(&other, s, &v, r, &result, e);
	if (!ret)
		ret = dist_agree(d, d->rank == 0 ? tell(s, r, &result, &other, e) : 0, e);
	if (!ret && album.dir && d->rank == 0)
		keep_say(&album);
	if (!ret)
		ret = check_lacking(&result, r, e);
	if (!ret && r->against)
		ret = check_lacking(&other.result, r, e);
	album_close(&album);
	eval_release(&other.difference);
	eval_release(&other.result);
	eval_release(&result);
	prompts_free(&prompts);
	mixture_close(m);
	return ret;
}

static int evaluate_session(struct dist *d, const struct eval_options *r, struct err *e)
{
	struct session s;
	int ret = dist_agree(d, session_open(&s, d, r->used, "eval", e), e);

	if (!ret) {
		ret = score(d, &s, r, e);
		session_close(&s);
	}
	reward_ranks_dismiss(d);
	return ret;
}

/* What was not given is the run's. */
static int settle(struct eval_options *r, struct err *e)
{
	const struct experiment *x = r->used->from ? &r->used->x : NULL;

	if (!r->prompts && x && *x->prompts.test)
		r->prompts = x->prompts.test;
	if (r->per == OPTION_UNSET)
		r->per = x ? x->eval.images_per_prompt : 1;
	if (r->seed == OPTION_UNSET)
		r->seed = x ? x->run.seed : 0;
	if (isnan(r->max_unavailable))
		r->max_unavailable = x ? x->eval.max_unavailable : 0.5;
	if (!r->prompts && !(x && x->n_sets && prompts_have_test(x)))
		return err_set(e, "eval: --prompts FILE is needed");
	if (r->per < 1)
		return err_set(e, "eval: --images-per-prompt must be at least 1");
	if (!(r->max_unavailable >= 0 && r->max_unavailable <= 1))
		return err_set(e, "eval: --max-unavailable %g: must be in [0, 1]", r->max_unavailable);
	return 0;
}

static int work(struct dist *d, const struct session_options *o, struct eval_options *r, struct err *e)
{
	struct session_settings used;

	if (dist_agree(d, session_settle(&used, o, r->config, "eval", e), e))
		return -1;
	r->used = &used;
	int ret = dist_agree(d, settle(r, e), e) ? -1
		  : startup_threads(d, o->threads, e)
		      ? err_in(e, "eval")
		      : reward_ranks_split(d, r->reward_ranks, "--reward-ranks", e);
	if (!ret && d->serves)
		reward_ranks_serve(d, &(struct remote_sets) { r, open_set }, used.o.device);
	else if (!ret)
		ret = evaluate_session(d, r, e);
	session_settings_release(&used);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct session_options o = SESSION_DEFAULTS;
	struct eval_options r = { .per = OPTION_UNSET, .seed = OPTION_UNSET, .max_unavailable = NAN };
	const char *args[1];
	const struct option_spec spec[] = {
		SESSION_OPTIONS(o),
		{ "prompts", 's', &r.prompts, "FILE",
		  "the prompts, .txt or .jsonl (default: the run's test prompts)" },
		{ "config", 's', &r.config, "FILE",
		  "use the section `rewards` of this file, and if it is an experiment, its settings instead "
		  "of the "
		  "run's (default: the run's rewards, or geneval)" },
		{ "against", 's', &r.against, "PATH",
		  "also evaluate this adapter, or `base`, on the same prompts and noise: how far is it from "
		  "this "
		  "one?" },
		{ "images-per-prompt", 'i', &r.per, "N", "images per prompt (default: the run's, or 1)" },
		{ "seed", 'i', &r.seed, "N", "seed of the noise (default: the run's, or 0)" },
		{ "max-unavailable", 'r', &r.max_unavailable, "X",
		  "fail when more than this share of the images has no score (default: the run's, or 0.5)" },
		{ "reward-ranks", 'i', &r.reward_ranks, "N",
		  "the last N ranks only score what the others sample (default 0)" },
		KEEP_OPTIONS(
		    r.keep, "save",
		    "keep the images (not those of --against) in this folder; those that are there are "
		    "scored as they are"),
		{ "quiet", 'f', &r.quiet, NULL, "print no progress" },
		{ "o", 's', &r.out, "FILE.json", "also write the result to this file" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct dist d;
	int n, ret = options_parse(&cmd_eval, spec, argc, argv, args, 0, &n, e);

	if (ret)
		return ret;
	if (keep_check(&r.keep, "eval", e))
		return -1;
	if ((ret = startup_open(&d, STARTUP_RANKS, e)))
		return ret;
	log_quiet(r.quiet);
	ret =
	    d.rank == 0 && (file_can_write(r.out, e) || file_can_fill(r.keep.dir, e)) ? err_in(e, "eval") : 0;
	ret = dist_agree(&d, ret, e) ? -1 : work(&d, &o, &r, e);
	return startup_close(&d, ret, e);
}

const struct command cmd_eval = { "eval",
				  "--model DIR|--lora RUN [--prompts FILE] [--against PATH] [-o FILE.json]",
				  "score a model on held-out prompts", run };
