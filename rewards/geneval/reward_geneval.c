#include "rewards/geneval/detector.h"
#include "aten/at.h"
#include "base/json.h"
#include "base/mem.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct detector_type *const detectors[] = { &detector_blobs, &detector_script, NULL };
static const char *const detector_names[] = { "blobs", "script", NULL };
static const struct field fields[] = {
	FIELD(struct geneval_conf, detector, .init = "blobs", .choices = detector_names,
	      .doc = "what finds the objects: blobs is for the shapes world, script is a network in a file"),
	FIELD(struct geneval_conf, reference_scoring, .init = "false",
	      .doc = "score like the public training reward, faults included (a wrong position scores 1, "
		     "terms have no lower bound)"),
	FIELD(struct geneval_conf, module, .init = "",
	      .doc = "script: the network's file, TorchScript or an AOTInductor package (.pt2); "
		     "tools/export_mask2former.py makes one"),
	FIELD(struct geneval_conf, classes, .init = "",
	      .doc = "script: file with one class name per line; empty: COCO's 80 as GenEval spells them"),
	FIELD(struct geneval_conf, device, .init = "auto", .choices = at_device_names,
	      .doc = "script: where the network and CLIP run; auto: on the run's device, or on the CPU of a "
		     "reward rank without a GPU"),
	FIELD(struct geneval_conf, batch, .init = "8", .min = 1, .max = 4096, .unit = "images",
	      .doc = "script: images per forward pass, all of one size"),
	FIELD(struct geneval_conf, threshold, .init = "0.3", .max = 1,
	      .doc = "script: candidates with a score above this count as objects"),
	FIELD(struct geneval_conf, counting_threshold, .init = "0.9", .max = 1,
	      .doc = "script: the threshold for prompts with the tag counting"),
	FIELD(
	    struct geneval_conf, max_overlap, .init = "1", .max = 1,
	    .doc =
		"script: if two objects of a class overlap by at least this (intersection over union), only "
		"the better one counts; 1: both count"),
	FIELD(struct geneval_conf, clip, .init = "",
	      .doc =
		  "script: folder of the CLIP model that recognises colors (ViT-L/14); empty: prompts with "
		  "colors are refused"),
	FIELD(struct geneval_conf, clip_dtype, .init = "float32", .choices = at_weight_dtypes,
	      .doc = "script: type of CLIP's weights"),
	FIELD_END
};

struct geneval_state {
	const struct geneval_conf *conf;
	struct detector detector;
};

static int geneval_open(void **state, const void *conf, struct err *e)
{
	const struct geneval_conf *c = conf;
	struct geneval_state s = { .conf = c };

	for (int i = 0; detectors[i]; i++)
		if (!strcmp(detectors[i]->name, c->detector))
			s.detector.type = detectors[i];
	if (!s.detector.type)
		return err_set(e, "no detector is called '%s'", c->detector);
	if (s.detector.type->open(&s.detector, c, e))
		return err_in(e, "detector %s", c->detector);
	*state = memcpy(mem_alloc(sizeof s), &s, sizeof s);
	return 0;
}

static int geneval_load(void *state, struct err *e)
{
	struct geneval_state *s = state;
	const struct detector_type *type = s->detector.type;

	return type->load && type->load(&s->detector, e) ? err_in(e, "detector %s", type->name) : 0;
}

static void geneval_close(void *state)
{
	struct geneval_state *s = state;

	if (!s)
		return;
	s->detector.type->close(&s->detector);
	free(s);
}

static int check(void *state, const char *prompt, const char *meta, struct err *e)
{
	struct geneval_state *s = state;
	json_t *o = json_parse(meta, strlen(meta), "metadata", e);

	(void)prompt;
	if (!o)
		return -1;
	int ret = geneval_check(o, &s->detector, e);
	json_decref(o);
	return ret;
}

static void judge(struct reward_score *out, const struct geneval_conf *c, const json_t *meta,
		  const struct detection *found)
{
	struct geneval_result r;
	struct err why;

	if (found->why[0]) {
		reward_fail(out, 1, found->why);
	} else if (geneval_judge(&r, meta, found->v, found->n, c->reference_scoring, &why)) {
		reward_fail(out, 1, why.msg);
	} else {
		reward_put(out, 1, &r.reward, "the rules'");
		out->sub[0] = r.strict;
		out->sub[1] = r.correct;
		snprintf(out->why, sizeof out->why, "%s", r.why);
	}
}

static int geneval_score(void *state, const struct reward_item *item, int n, struct reward_score *out,
			 struct err *e)
{
	struct geneval_state *s = state;
	json_t **meta = mem_zero((size_t)n, sizeof(json_t *));
	struct detection *found = mem_zero((size_t)n, sizeof *found);
	int ret = 0;

	for (int i = 0; i < n && !ret; i++) {
		meta[i] = json_parse(item[i].meta, strlen(item[i].meta), "metadata", e);
		ret = meta[i] ? 0 : -1;
	}
	if (!ret)
		ret = s->detector.type->detect(&s->detector, item, meta, n, found, e);
	for (int i = 0; i < n; i++) {
		if (!ret)
			judge(&out[i], s->conf, meta[i], &found[i]);
		free(found[i].v);
		json_decref(meta[i]);
	}
	free(found);
	free(meta);
	return ret;
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
	.load = geneval_load,
	.check = check,
	.score = geneval_score,
	.close = geneval_close,
};
