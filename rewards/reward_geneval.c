#include "rewards/geneval.h"
#include "rewards/reward.h"
#include "base/json.h"
#include "base/mem.h"
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct detector_type *const detectors[] = { &detector_blobs, NULL };
static const char *const detector_names[] = { "blobs", NULL };

struct geneval_conf {
	char *detector;
	bool reference_scoring;
};

static const struct field fields[] = { FIELD(struct geneval_conf, detector, .init = "blobs",
					     .choices = detector_names,
					     .doc = "What finds the objects: blobs sees the shapes world"),
				       FIELD(struct geneval_conf, reference_scoring, .init = "false",
					     .doc = "Score as the public training reward does, with its "
						    "faults (position 1 even when wrong, terms "
						    "unbounded below)"),
				       FIELD_END };

struct geneval_state {
	const struct geneval_conf *conf;
	const struct detector_type *detector;
	void *detector_state;
};

static int geneval_open(void **state, const void *conf, struct err *e)
{
	const struct geneval_conf *c = conf;
	struct geneval_state s = { .conf = c };

	for (int i = 0; detectors[i]; i++)
		if (!strcmp(detectors[i]->name, c->detector))
			s.detector = detectors[i];
	if (!s.detector)
		return err_set(e, "no detector is called '%s'", c->detector);
	if (s.detector->open(&s.detector_state, e))
		return err_in(e, "detector %s", c->detector);
	*state = memcpy(mem_alloc(sizeof s), &s, sizeof s);
	return 0;
}

static void geneval_close(void *state)
{
	struct geneval_state *s = state;

	if (!s)
		return;
	s->detector->close(s->detector_state);
	free(s);
}

static int check(void *state, const char *prompt, const char *meta, struct err *e)
{
	struct geneval_state *s = state;
	json_t *o = json_parse(meta, strlen(meta), "metadata", e);

	(void)prompt;
	if (!o)
		return -1;
	int ret = geneval_check(o, s->detector, e);
	json_decref(o);
	return ret;
}

static int judge(struct geneval_result *r, struct geneval_state *s, const struct reward_item *item,
		 struct err *e)
{
	struct geneval_object *obj = NULL;
	int n, ret = -1;
	json_t *meta = json_parse(item->meta, strlen(item->meta), "metadata", e);

	if (!meta)
		return -1;
	if (!s->detector->detect(s->detector_state, item->rgb, item->w, item->h, &obj, &n, e))
		ret = geneval_judge(r, meta, obj, n, s->conf->reference_scoring, e);
	free(obj);
	json_decref(meta);
	return ret;
}

static int geneval_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			 struct err *e)
{
	(void)e;
	for (int i = 0; i < n; i++) {
		struct geneval_result r;
		struct err why;
		out[i] = (struct reward_score) { .sub = { NAN, NAN, NAN, NAN } };
		if (judge(&r, state, &item[i], &why)) {
			snprintf(out[i].why, sizeof out[i].why, "%.150s", why.msg);
			continue;
		}
		out[i].ok = true;
		out[i].value = r.reward;
		out[i].sub[0] = r.strict;
		out[i].sub[1] = r.correct;
	}
	return 0;
}

const struct reward_type reward_geneval = {
	.abi = REWARD_ABI,
	.name = "geneval",
	.doc = "GenEval's rules over detected objects: the mean partial score of the prompt's clauses",
	.sub_names = { "strict", "correct" },
	.flags = REWARD_THREAD_SAFE,
	.fields = fields,
	.conf_size = sizeof(struct geneval_conf),
	.open = geneval_open,
	.check = check,
	.score = geneval_score,
	.close = geneval_close,
};
