/* lib_scorer.c -- the rewards of a configuration, for images of the caller's. */
#include "base/json.h"
#include "base/mem.h"
#include "library/inside.h"
#include "rewards/judges/scoring.h"
#include <stdlib.h>
#include <string.h>

struct contraflow_scorer {
	struct library_state state;
	struct mixture *mixture;
	char *report;
};

/* ---- Open ---------------------------------------------------------------------------------------- */

struct open_call {
	struct contraflow_scorer *s;
	const char *config;
	const char *const *settings;
};

#define DEVICE "device="

static int read_settings(struct conf_node *tree, const char *const *settings, struct err *e)
{
	for (int i = 0; i < library_count(settings); i++) {
		const char *set = settings[i];
		enum at_device dev;

		if (text_starts(set, DEVICE)) {
			const char *name = set + strlen(DEVICE);

			if (!strcmp(name, "auto"))
				continue;
			if (at_device_parse(&dev, name, e))
				return -1;
			at_device_set_auto(dev); /* until it is open */
		} else if (!text_starts(set, "rewards.") && !text_starts(set, "rewards=")) {
			return err_set(e, "%s: only `device` and keys of `rewards` are read", set);
		} else if (conf_set(tree, set, e)) {
			return -1;
		}
	}
	return 0;
}

static int open_scorer(void *ctx, struct err *e)
{
	struct open_call *c = ctx;
	struct conf_node *tree = c->config ? conf_read(c->config, e) : conf_empty();
	int ret = tree ? read_settings(tree, c->settings, e) : -1;

	if (!ret) {
		conf_remove(tree, "eval"); /* rewards of evaluations */
		ret = mixture_open(&c->s->mixture, tree, at_threads(), e) || mixture_load(c->s->mixture, e)
			  ? -1
			  : 0;
	}
	conf_node_free(tree);
	return ret;
}

int contraflow_scorer_open(struct contraflow_scorer **out, const char *config, const char *const *settings,
			   struct contraflow_error *e)
{
	struct contraflow_scorer *s = calloc(1, sizeof *s);
	struct open_call c = { s, config, settings };

	if (!out || !s) {
		free(s);
		return library_refuse(e, out ? "out of memory" : "contraflow_scorer_open: NULL");
	}
	*out = NULL;
	if (!library_open(open_scorer, &c, e)) {
		*out = s;
		return 0;
	}
	contraflow_scorer_close(s);
	return -1;
}

static int release(void *ctx, struct err *e)
{
	(void)e;
	mixture_close(ctx);
	return 0;
}

void contraflow_scorer_close(struct contraflow_scorer *s)
{
	if (!s)
		return;
	if (!s->state.broken) /* else its threads may wait for a lock that nobody gives back */
		library_call(NULL, release, s->mixture, NULL);
	free(s->report);
	free(s);
}

int contraflow_scorer_count(const struct contraflow_scorer *s)
{
	return mixture_count(s->mixture);
}

const char *contraflow_scorer_name(const struct contraflow_scorer *s, int k)
{
	return k < 0 || k >= mixture_count(s->mixture) ? NULL : mixture_at(s->mixture, k)->name;
}

const char *contraflow_scorer_report(const struct contraflow_scorer *s)
{
	return s->report;
}

/* ---- Score --------------------------------------------------------------------------------------- */

struct score_call {
	struct contraflow_scorer *s;
	const struct contraflow_image *images;
	int n;
	double *total, *each;
};

static struct reward_item *items_of(const struct contraflow_image *images, int n)
{
	struct reward_item *item = mem_zero((size_t)n, sizeof *item);

	for (int i = 0; i < n; i++)
		item[i] = (struct reward_item) { .rgb = images[i].rgb,
						 .w = images[i].width,
						 .h = images[i].height,
						 .prompt = images[i].prompt,
						 .meta = images[i].metadata ? images[i].metadata : "{}" };
	return item;
}

static int score(void *ctx, struct err *e)
{
	struct score_call *c = ctx;
	struct mixture *m = c->s->mixture;
	struct reward_item *item = items_of(c->images, c->n);
	struct mixture_scores s;
	int rewards = mixture_count(m);

	(void)e;
	mixture_scores_init(&s, c->n, rewards);
	mixture_scores_keep_reasons(&s);
	s.check = true;
	mixture_begin(m, &s);
	mixture_submit(m, &s, 0, item, c->n);
	mixture_submit_groups(m, &s, item, c->n);
	mixture_wait(m, &s);
	mixture_total(m, &s, NULL, 0);
	for (int i = 0; i < c->n; i++) {
		c->total[i] = s.total[i];
		for (int k = 0; c->each && k < rewards; k++)
			c->each[i * rewards + k] = s.value[k * c->n + i];
	}
	json_t *report = scoring_json(m, &s);
	free(c->s->report);
	c->s->report = json_line(report);
	json_decref(report);
	mixture_scores_free(&s);
	free(item);
	return 0;
}

int contraflow_score(struct contraflow_scorer *s, const struct contraflow_image *images, int n, double *total,
		     double *each, struct contraflow_error *e)
{
	struct score_call c = { s, images, n, total, each };

	if (!s || !images || !total)
		return library_refuse(e, "contraflow_score: NULL");
	if (n < 1)
		return library_refuse(e, "contraflow_score: n must be at least 1");
	for (int i = 0; i < n; i++)
		if (!images[i].rgb || !images[i].prompt || images[i].width < 1 || images[i].height < 1)
			return library_refuse(e, "contraflow_score: an image without pixels, size or prompt");
	return library_call(&s->state, score, &c, e);
}
