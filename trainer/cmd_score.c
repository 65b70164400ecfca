/* cmd_score.c -- contraflow score: pictures and prompts -> rewards, as JSON. */
#include "base/image.h"
#include "base/json.h"
#include "base/mem.h"
#include "data/prompts.h"
#include "rewards/mixture.h"
#include "trainer/options.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 4096

static json_t *number(double v)
{
	return isfinite(v) ? json_real(v) : json_null();
}

static json_t *report(const struct mixture *m, const struct mixture_scores *s, const char *const *path,
		      const struct prompts *p)
{
	json_t *all = json_array();

	for (int i = 0; i < s->n; i++) {
		json_t *x = json_pack("{s:s, s:s, s:o}", "image", path[i], "prompt",
				      p->v[p->n == 1 ? 0 : i].text, "reward", number(s->total[i]));
		for (int k = 0; k < s->rewards; k++) {
			const struct reward_type *type = mixture_at(m, k)->type;
			json_t *r = json_pack("{s:o}", "score", number(s->value[k * s->n + i]));
			for (int j = 0; j < REWARD_SUBS && type->sub_names[j]; j++)
				json_object_set_new(r, type->sub_names[j],
						    number(s->sub[(k * s->n + i) * REWARD_SUBS + j]));
			json_object_set_new(x, mixture_at(m, k)->name, r);
		}
		json_array_append_new(all, x);
	}
	return all;
}

static int score(struct mixture *m, const char *const *path, int n, const struct prompts *p, const char *out,
		 struct err *e)
{
	struct image *im = mem_zero((size_t)n, sizeof *im);
	struct reward_item *item = mem_zero((size_t)n, sizeof *item);
	struct mixture_scores s;
	int ret = 0;

	for (int i = 0; i < n && !ret; i++) {
		const struct prompt *q = &p->v[p->n == 1 ? 0 : i];
		ret = image_read(&im[i], path[i], e);
		if (!ret && mixture_check(m, q->text, q->meta, e))
			ret = err_in(e, "prompt '%s'", q->text);
		item[i] = (struct reward_item) {
			.rgb = im[i].rgb, .w = im[i].w, .h = im[i].h, .prompt = q->text, .meta = q->meta
		};
	}
	if (!ret) {
		mixture_scores_init(&s, n, mixture_count(m));
		mixture_begin(m, &s);
		mixture_submit(m, &s, 0, item, n);
		mixture_submit_groups(m, &s, item, n);
		mixture_wait(m, &s);
		mixture_total(m, &s, NULL, 0);
		json_t *j = report(m, &s, path, p);
		if (out) {
			ret = json_write(out, j, e);
		} else {
			char *text = json_text(j, JSON_INDENT(2));
			puts(text);
			free(text);
		}
		if (!ret && s.unavailable)
			ret = err_set(e, "score: %lld of %d pictures could not be scored: %s",
				      (long long)s.unavailable, n, s.why);
		json_decref(j);
		mixture_scores_free(&s);
	}
	for (int i = 0; i < n; i++)
		image_free(&im[i]);
	free(im);
	free(item);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	const char *file = NULL, *config = NULL, *out = NULL, *args[MOST];
	const struct option_spec spec[] = {
		{ "prompts", 's', &file, "FILE",
		  "a prompt a picture, in order, or one for all; .txt or .jsonl" },
		{ "config", 's', &config, "FILE",
		  "take the section `rewards` of this file (default: geneval)" },
		{ "o", 's', &out, "FILE.json", "where the scores go (default: standard output)" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct prompts p = { 0 };
	struct mixture *m = NULL;
	int n, ret = options_parse(&cmd_score, spec, argc, argv, args, MOST, &n, e);

	if (ret)
		return ret;
	if (!n || !file)
		return err_set(e, "score: usage: contraflow score %s", cmd_score.usage);
	struct conf_node *tree = config ? conf_read(config, e) : conf_empty();
	if (!tree)
		return -1;
	if (!config)
		ret = conf_set(tree, "rewards={geneval: {}}", e);
	if (!ret)
		ret = mixture_open(&m, tree, 1, e) || prompts_read(&p, file, e) ? -1 : 0;
	if (!ret && p.n != 1 && p.n != n)
		ret =
		    err_set(e, "score: %d pictures but %lld prompts in %s; give one prompt, or one a picture",
			    n, (long long)p.n, file);
	if (!ret)
		ret = score(m, args, n, &p, out, e);
	prompts_free(&p);
	mixture_close(m);
	conf_node_free(tree);
	return ret;
}

const struct command cmd_score = { "score", "--prompts FILE PICTURE ... [--config FILE] [-o FILE.json]",
				   "score pictures with the configured rewards", run };
