/*
 * reward_script.c -- any network as a judge: a TorchScript file or an AOTInductor package.
 *
 * forward(images (N, 3, H, W) float32 in [0, 1]) or, with a tokenizer, forward(images, ids (N, L) int64)
 * returns N scores, (N) or (N, 1).  With `group` the N are all images of one prompt.
 */
#include "aten/script.h"
#include "base/mem.h"
#include "models/text/tokenizer.h"
#include "rewards/image_batch.h"
#include <stdlib.h>
#include <string.h>

struct script_conf {
	char *module, *tokenizer, *device;
	int64_t size, text_length, batch;
	bool group;
};

static const struct field fields[] = {
	FIELD(struct script_conf, module, .init = NULL,
	      .doc = "the network's file: TorchScript, or an AOTInductor package if it ends in .pt2"),
	FIELD(struct script_conf, size, .init = "0", .min = 0, .max = 8192, .unit = "pixels",
	      .doc =
		  "images are first resized to a square of this side (bicubic, as PIL does); 0: not resized"),
	FIELD(
	    struct script_conf, tokenizer, .init = "",
	    .doc =
		"folder of a tokenizer (CLIP's, T5's or BERT's, known by its files), whose token ids of the "
		"prompts are passed to forward; empty: images only"),
	FIELD(struct script_conf, text_length, .init = "77", .min = 2, .max = 4096, .unit = "tokens",
	      .doc = "token ids per prompt, padding included"),
	FIELD(struct script_conf, device, .init = "auto", .choices = at_device_names,
	      .doc =
		  "where it runs; auto: on the run's device, or on the CPU of a reward rank without a GPU"),
	FIELD(struct script_conf, batch, .init = "16", .min = 1, .max = 4096, .unit = "images",
	      .doc = "images scored at a time, all of one size"),
	FIELD(struct script_conf, group, .init = "false",
	      .doc = "pass all images of a prompt at once, so that the network can compare them; `batch` is "
		     "then ignored"),
	FIELD_END
};

struct script_judge {
	const struct script_conf *conf;
	struct at_script *script;
	struct tokenizer *tokenizer;
	enum at_device device;
};

static void close_script(void *state)
{
	struct script_judge *j = state;

	if (!j)
		return;
	at_script_close(j->script);
	tokenizer_close(j->tokenizer);
	free(j);
}

static int open_script(void **state, const void *conf, struct err *e)
{
	const struct script_conf *c = conf;
	struct script_judge *j = mem_zero(1, sizeof *j);

	j->conf = c;
	if (!at_device_parse(&j->device, c->device, e) && !at_script_check(c->module, e) &&
	    (!*c->tokenizer || !tokenizer_open(&j->tokenizer, c->tokenizer, e))) {
		*state = j;
		return 0;
	}
	close_script(j);
	return -1;
}

static int load_script(void *state, struct err *e)
{
	struct script_judge *j = state;

	return at_script_open(&j->script, j->conf->module, j->device, e);
}

static int ids(const struct script_judge *j, const struct reward_item *item, int n, at_t *out_NL,
	       struct err *e)
{
	int64_t L = j->conf->text_length;

	*out_NL = at_zeros(DIMS(n, L), AT_I64, AT_CPU);
	for (int i = 0; i < n; i++)
		if (tokenizer_encode(j->tokenizer, item[i].prompt, L, at_i64(*out_NL) + i * L, e))
			return -1;
	return 0;
}

static int score_some(const struct script_judge *j, const struct reward_item *item, int n,
		      struct reward_score *out, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t in[2] = { at_to(image_batch_tensor(item, n, j->conf->size), AT_F32, j->device), NULL }, result;
	double *v = mem_zero((size_t)n, sizeof *v);
	int ret = 0;

	if (j->tokenizer && !(ret = ids(j, item, n, &in[1], e)))
		in[1] = at_to(in[1], AT_I64, j->device);
	if (!ret)
		ret = at_script_run(j->script, j->tokenizer ? 2 : 1, in, &result, e);
	if (!ret && at_numel(result) != n)
		ret = err_set(e, "%s: it returns %lld numbers for %d images", j->conf->module,
			      (long long)at_numel(result), n);
	if (!ret) {
		at_copy_out(result, v, AT_F64);
		reward_put(out, n, v, "the network's");
	}
	free(v);
	at_end(s);
	return ret;
}

static int score(void *state, const struct reward_item *item, int n, struct reward_score *out, struct err *e)
{
	const struct script_judge *j = state;
	int ret = 0;

	for (int at = 0, k; at < n && !ret; at += k) {
		int most = j->conf->group || n - at < j->conf->batch ? n - at : (int)j->conf->batch;
		k = j->conf->size ? most : images_alike(item + at, most, most);
		if (j->conf->group && k < n)
			ret = err_set(e, "the group's images have several sizes: set `size`");
		else
			ret = score_some(j, item + at, k, out + at, e);
	}
	return ret;
}

static int check_prompt(void *state, const char *prompt, const char *meta, struct err *e)
{
	const struct script_judge *j = state;
	struct reward_item item = { .prompt = prompt };
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t unused;
	int ret = j->tokenizer ? ids(j, &item, 1, &unused, e) : 0;

	(void)meta;
	at_end(s);
	return ret;
}

const struct reward_type reward_script = {
	.abi = REWARD_ABI,
	.name = "script",
	.doc = "Any network as a reward model, from TorchScript or AOTInductor",
	.fields = fields,
	.conf_size = sizeof(struct script_conf),
	.open = open_script,
	.load = load_script,
	.check = check_prompt,
	.score = score,
	.close = close_script,
};
