/* cmd_compare.c -- contraflow compare: several configurations, the same seeds, side by side. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/version.h"
#include "base/mem.h"
#include "commands/compare/curves.h"
#include "commands/options.h"
#include "dist/startup.h"
#include "trainer/experiment.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CONFIGS = 32, MOST_SEEDS = 64, MOST_THRESHOLDS = 32 };

struct comparison {
	const char *dir, *score, *words;
	const char *config[MOST_CONFIGS];
	char *name[MOST_CONFIGS];
	int64_t seed[MOST_SEEDS];
	double threshold[MOST_THRESHOLDS];
	int configs, seeds, thresholds;
	struct option_list set;
	bool quiet;
};

/* ---- The runs ----------------------------------------------------------------------------------------- */

static char *run_of(const struct comparison *c, int config, int seed)
{
	return mem_printf("%s/%s/seed-%lld", c->dir, c->name[config], (long long)c->seed[seed]);
}

/* Rank 0's: is the run finished, and with these settings? */
static int look(const char *run, const char *config, const struct option_list *set, bool *done, struct err *e)
{
	char *kept = file_join(run, "config.yaml");
	struct experiment x, then;
	int ret = experiment_read(&x, config, set->v, set->n, e);

	*done = false;
	if (!ret && x.ranks.reward)
		ret = err_set(
		    e, "ranks.reward = %lld: compare runs one after the other, and a job is divided once",
		    (long long)x.ranks.reward);
	if (!ret) {
		char *last = x.n_stages ? mem_printf("result-%s.json", x.stage[x.n_stages - 1])
					: mem_str("result.json");

		*done = file_is_in(run, last);
		if (*done && !(ret = experiment_read(&then, kept, NULL, 0, e))) {
			if (experiment_hash(&then) != experiment_hash(&x))
				ret = err_set(
				    e, "%s is finished, with other settings: take another -d, or remove it",
				    run);
			experiment_release(&then);
		}
		free(last);
		experiment_release(&x);
	}
	free(kept);
	return ret;
}

static int run_one(struct dist *d, struct comparison *c, int config, int seed, struct err *e)
{
	char *run = run_of(c, config, seed), *own = mem_printf("run.seed=%lld", (long long)c->seed[seed]);
	struct option_list set = c->set;
	bool done = false;

	set.v[set.n++] = own;
	int ret = dist_agree(d, d->rank == 0 ? look(run, c->config[config], &set, &done, e) : 0, e);
	dist_broadcast(d, &done, sizeof done, 0);
	if (!ret && done && d->rank == 0)
		log_info("%s: done already", run);
	else if (!ret && !done)
		ret = train_one(d, c->config[config], run, &set, c->words, e);
	free(run);
	free(own);
	return ret;
}

/* Seed by seed, so that what there is when it is interrupted can be compared. */
static int run_all(struct dist *d, struct comparison *c, struct err *e)
{
	for (int s = 0; s < c->seeds; s++)
		for (int k = 0; k < c->configs; k++)
			if (run_one(d, c, k, s, e))
				return err_in(e, "%s, seed %lld", c->name[k], (long long)c->seed[s]);
	return 0;
}

/* ---- What they tell ------------------------------------------------------------------------------------ */

/* Mean and range of those that are numbers, of n. */
struct range {
	double mean, least, most;
	int n, of;
};

static void range_add(struct range *r, double v)
{
	r->of++;
	if (isnan(v))
		return;
	r->least = r->n && r->least < v ? r->least : v;
	r->most = r->n && r->most > v ? r->most : v;
	r->mean += (v - r->mean) / ++r->n;
}

static json_t *range_json(const struct range *r)
{
	double none = r->n ? 0 : NAN;

	return json_pack("{s:o, s:o, s:o, s:i, s:i}", "mean", json_number(r->mean + none), "least",
			 json_number(r->least + none), "most", json_number(r->most + none), "seeds", r->n,
			 "of", r->of);
}

static void put_range(struct text *t, const struct range *r, int decimals)
{
	if (r->n < r->of) {
		text_printf(t, "  %26s", r->n ? "not by all seeds" : "not reached");
		return;
	}
	char *all =
	    mem_printf("%.*f (%.*f - %.*f)", decimals, r->mean, decimals, r->least, decimals, r->most);
	text_printf(t, "  %26s", all);
	free(all);
}

static struct range crossing(const struct curve_set *s, double threshold, enum axis a)
{
	struct range r = { 0 };

	for (int k = 0; k < s->n; k++)
		range_add(&r, curve_cross(&s->v[k], threshold, a));
	return r;
}

static struct range score_at(const struct curve_set *s, double seconds)
{
	struct range r = { 0 };

	for (int k = 0; k < s->n; k++)
		range_add(&r, curve_at(&s->v[k], AXIS_SECONDS, seconds));
	return r;
}

/* The device-seconds that every run has had. */
static double common_seconds(const struct curve_set *set, int n)
{
	double least = INFINITY;

	for (int i = 0; i < n; i++)
		for (int k = 0; k < set[i].n; k++)
			least = fmin(least, set[i].v[k].v[set[i].v[k].n - 1].at[AXIS_SECONDS]);
	return least;
}

static json_t *curve_json(const struct curve *c)
{
	json_t *points = json_array();

	for (int i = 0; i < c->n; i++) {
		json_t *p = json_object();

		for (int a = 0; a < AXES; a++)
			json_object_set_new(p, axis_names[a], json_number(c->v[i].at[a]));
		json_object_set_new(p, "score", json_number(c->v[i].score));
		json_array_append_new(points, p);
	}
	return json_pack("{s:I, s:o, s:O}", "seed", (json_int_t)c->seed, "curve", points, "health",
			 c->health);
}

static json_t *set_json(const struct comparison *c, const struct curve_set *s, double seconds)
{
	json_t *runs = json_array(), *thresholds = json_array();
	struct range last = { 0 }, equal = score_at(s, seconds);

	for (int k = 0; k < s->n; k++) {
		json_array_append_new(runs, curve_json(&s->v[k]));
		range_add(&last, s->v[k].v[s->v[k].n - 1].score);
	}
	for (int i = 0; i < c->thresholds; i++) {
		json_t *t = json_pack("{s:o}", "threshold", json_number(c->threshold[i]));

		for (int a = 0; a < AXES; a++) {
			struct range r = crossing(s, c->threshold[i], (enum axis)a);
			json_object_set_new(t, axis_names[a], range_json(&r));
		}
		json_array_append_new(thresholds, t);
	}
	return json_pack("{s:o, s:o, s:o, s:o, s:o}", "name", json_words(s->name), "final", range_json(&last),
			 "at_equal_device_seconds", range_json(&equal), "thresholds", thresholds, "runs",
			 runs);
}

static void table(struct text *t, const struct comparison *c, const struct curve_set *set, double seconds)
{
	text_printf(t, "held-out %s: first reached (mean and range over %d seed%s)\n%-10s%-24s", c->score,
		    c->seeds, c->seeds == 1 ? "" : "s", "", "");
	for (int a = 0; a < AXES; a++)
		text_printf(t, "  %26s", axis_names[a]);
	text_add(t, "\n");
	for (int i = 0; i < c->thresholds; i++)
		for (int k = 0; k < c->configs; k++) {
			text_printf(t, "%-10.4g%-24s", c->threshold[i], c->name[k]);
			for (int a = 0; a < AXES; a++) {
				struct range r = crossing(&set[k], c->threshold[i], (enum axis)a);
				put_range(t, &r, 0);
			}
			text_add(t, "\n");
		}
	text_printf(t, "score at %.0f device-seconds, which all had, and at the end\n", seconds);
	for (int k = 0; k < c->configs; k++) {
		struct range equal = score_at(&set[k], seconds), last = { 0 };

		for (int s = 0; s < set[k].n; s++)
			range_add(&last, set[k].v[s].v[set[k].v[s].n - 1].score);
		text_printf(t, "%-10s%-24s", "", c->name[k]);
		put_range(t, &equal, 3);
		put_range(t, &last, 3);
		text_add(t, "\n");
	}
}

/* ---- What is not the same ------------------------------------------------------------------------------ */

struct differing {
	json_t *out;
	const char *name;
};

static void differ(void *ctx, const char *key, const char *a, const char *b)
{
	struct differing *d = ctx;

	if (strcmp(key, "run.name") && strcmp(key, "run.seed"))
		json_array_append_new(d->out, json_pack("{s:s, s:s, s:s?, s:s?}", "key", key, "config",
							d->name, "first", a, "here", b));
}

/* Every setting that is not the first configuration's: what makes the comparison, and what spoils it. */
static json_t *differences(const struct comparison *c, struct err *e)
{
	struct differing d = { .out = json_array() };
	struct conf_node *first = NULL;
	int ret = 0;

	for (int k = 0; k < c->configs && !ret; k++) {
		struct experiment x;
		struct conf_node *tree = conf_empty();

		if (!(ret = experiment_read(&x, c->config[k], c->set.v, c->set.n, e))) {
			experiment_store(&x, tree);
			d.name = c->name[k];
			if (first)
				conf_compare(first, tree, differ, &d);
			experiment_release(&x);
		}
		if (!first && !ret)
			first = tree;
		else
			conf_node_free(tree);
	}
	if (first)
		conf_node_free(first);
	if (!ret)
		return d.out;
	json_decref(d.out);
	return NULL;
}

/* Keys that must be the same, or it is no comparison of algorithms; said, not refused.  eval.every may
 * differ: at so many optimizer steps, of which some algorithms make two an epoch. */
static void say_unfair(const json_t *differ)
{
	static const char *const same[] = { "model.",         "prompts.train", "prompts.test", "prompts.sets",
					    "prompts.height", "prompts.width", "rewards.",     "lora.",
					    "eval.",          "run.dtype" };
	const json_t *x;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)differ, i, x)
	{
		const char *key = json_string_value(json_object_get(x, "key"));

		for (size_t k = 0; k < sizeof same / sizeof *same; k++)
			if (text_starts(key, same[k]) && strcmp(key, "eval.every"))
				log_warn(
				    "%s is not the same in %s: what is compared is more than the algorithm",
				    key, json_string_value(json_object_get(x, "config")));
	}
}

/* ---- The report -------------------------------------------------------------------------------------------
 */

static int read_curves(const struct comparison *c, struct curve_set *set, struct err *e)
{
	for (int k = 0; k < c->configs; k++) {
		set[k] = (struct curve_set) { .name = c->name[k],
					      .v = mem_zero((size_t)c->seeds, sizeof *set[k].v) };
		for (int s = 0; s < c->seeds; s++) {
			char *run = run_of(c, k, s);
			int ret = curve_read(&set[k].v[s], run, c->score, e);

			set[k].v[s].seed = c->seed[s];
			set[k].n = s + 1;
			free(run);
			if (ret)
				return -1;
		}
	}
	return 0;
}

static int write_all(const struct comparison *c, const struct curve_set *set, json_t *differ, struct err *e)
{
	double seconds = common_seconds(set, c->configs);
	char *json = file_join(c->dir, "compare.json"), *svg = file_join(c->dir, "compare.svg");
	json_t *configs = json_array();
	struct text picture = { 0 }, lines = { 0 };

	for (int k = 0; k < c->configs; k++)
		json_array_append_new(configs, set_json(c, &set[k], seconds));
	json_t *all = json_pack("{s:s, s:s, s:o, s:O, s:o}", "version", version(), "score", c->score,
				"equal_device_seconds", json_number(seconds), "differences", differ,
				"configs", configs);
	curves_svg(&picture, set, c->configs, c->score);
	table(&lines, c, set, seconds);
	int ret = json_write(json, all, e) || file_write(svg, picture.s, picture.n, e) ? -1 : 0;
	if (!ret)
		printf("%s  %s\n  %s\n", lines.s, json, svg);
	text_free(&picture);
	text_free(&lines);
	json_decref(all);
	free(json);
	free(svg);
	return ret;
}

static int report(const struct comparison *c, struct err *e)
{
	struct curve_set set[MOST_CONFIGS] = { 0 };
	json_t *differ = differences(c, e);
	int ret = differ ? read_curves(c, set, e) : -1;

	if (!ret) {
		say_unfair(differ);
		ret = write_all(c, set, differ, e);
	}
	for (int k = 0; k < c->configs; k++) {
		for (int s = 0; s < set[k].n; s++)
			curve_free(&set[k].v[s]);
		free(set[k].v);
	}
	json_decref(differ);
	return ret;
}

/* ---- The command line
 * --------------------------------------------------------------------------------------- */

/* "0,1,2" into at most `most` numbers; -1: something else. */
static int parse_list(double *out, int most, const char *s)
{
	int n = 0;

	for (char *end; n < most; s = end + 1) {
		out[n++] = strtod(s, &end);
		if (end == s || !isfinite(out[n - 1]))
			return -1;
		if (!*end)
			return n;
		if (*end != ',')
			return -1;
	}
	return -1;
}

static int name_configs(struct comparison *c, struct err *e)
{
	for (int k = 0; k < c->configs; k++) {
		const char *base = file_base(c->config[k]), *dot = strrchr(base, '.');

		c->name[k] = mem_printf("%.*s", dot ? (int)(dot - base) : (int)strlen(base), base);
		for (int i = 0; i < k; i++)
			if (!strcmp(c->name[i], c->name[k]))
				return err_set(
				    e, "compare: two configurations are called %s: their runs would be one",
				    c->name[k]);
	}
	return 0;
}

static int parse(struct comparison *c, int argc, char **argv, struct err *e)
{
	const char *seeds = "0", *thresholds = "0.5,0.6,0.75,0.85,0.9";
	double seed[MOST_SEEDS];
	const struct option_spec spec[] = {
		{ "d", 's', &c->dir, "DIR",
		  "where the runs go, DIR/NAME/seed-S, and compare.json and compare.svg" },
		{ "seeds", 's', &seeds, "S,S,...", "a run of every configuration for each (default: 0)" },
		{ "thresholds", 's', &thresholds, "X,X,...",
		  "held-out scores whose first reaching is told (default: 0.5,0.6,0.75,0.85,0.9)" },
		{ "score", 's', &c->score, "NAME",
		  "which: strict, geneval, soft, reward, reward/NAME (default: strict)" },
		{ "set", 'm', &c->set, "KEY=VALUE",
		  "override a key of every configuration; may be repeated" },
		{ "quiet", 'f', &c->quiet, NULL, "print only warnings and the result" },
		{ NULL, 0, NULL, NULL, NULL }
	};
	int ret = options_parse(&cmd_compare, spec, argc, argv, c->config, MOST_CONFIGS, &c->configs, e);

	if (ret)
		return ret;
	if (c->configs < 1 || !c->dir)
		return err_set(e,
			       "compare: name configurations and a directory; usage: contraflow compare %s",
			       cmd_compare.usage);
	if ((c->seeds = parse_list(seed, MOST_SEEDS, seeds)) < 1)
		return err_set(e, "compare: --seeds %s: wanted numbers with commas between", seeds);
	for (int i = 0; i < c->seeds; i++) {
		c->seed[i] = (int64_t)seed[i];
		if (seed[i] < 0 || (double)c->seed[i] < seed[i] || (double)c->seed[i] > seed[i])
			return err_set(e, "compare: --seeds %s: a seed is a whole number", seeds);
	}
	if ((c->thresholds = parse_list(c->threshold, MOST_THRESHOLDS, thresholds)) < 1)
		return err_set(e, "compare: --thresholds %s: wanted numbers with commas between", thresholds);
	if (c->set.n == OPTION_REPEAT)
		return err_set(e, "compare: at most %d --set", OPTION_REPEAT - 1);
	return name_configs(c, e);
}

static int run(int argc, char **argv, struct err *e)
{
	struct comparison c = { .score = "strict" };
	struct dist d;
	int ret = parse(&c, argc, argv, e);

	if (!ret)
		stop_open(false); /* MPI may take its time to start */
	if (!ret && !(ret = startup_open(&d, STARTUP_RANKS, e))) {
		stop_open(d.rank == 0);
		char *words = train_words("compare", argc, argv);

		log_quiet(c.quiet);
		c.words = words;
		ret = dist_agree(&d, d.rank == 0 && file_can_fill(c.dir, e) ? err_in(e, "compare") : 0, e);
		if (!ret)
			ret = run_all(&d, &c, e);
		if (!ret)
			ret = dist_agree(&d, d.rank == 0 ? report(&c, e) : 0, e);
		free(words);
		ret = startup_close(&d, ret, e);
	}
	for (int k = 0; k < c.configs; k++)
		free(c.name[k]);
	return ret;
}

const struct command cmd_compare = { "compare", "CONFIG ... -d DIR [--seeds S,S,...] [--thresholds X,X,...]",
				     "train several configurations on the same seeds, side by side", run };
