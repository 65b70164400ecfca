#include "commands/advice/plan.h"
#include "base/file.h"
#include "base/mem.h"
#include "commands/bench/model_cost.h"
#include "models/encoder.h"
#include "models/pipeline.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GIB 1073741824.0
#define GEMM_SHARE                                                                                           \
	0.77            /* of a data sheet's products (bfloat16, dense), that the H200 reached: 765 of 989   \
			 */
#define COPY_SHARE 0.88 /* and of its bytes: 4.2 of 4.8 TB/s */
#define GPU(n, tflops, tbytes, gib)                                                                          \
	{                                                                                                    \
		n, GEMM_SHARE *(tflops)*1e12, COPY_SHARE *(tbytes)*1e12, (gib)*GIB                           \
	}

const struct plan_gpu plan_gpus[] = {
	GPU("h200", 989, 4.8, 139),
	GPU("h100", 989, 3.35, 79),
	GPU("a100", 312, 2.04, 79),
	GPU("a100-40", 312, 1.555, 39),
	GPU("l40s", 362, 0.864, 44),
	GPU("4090", 165, 1.008, 23.5),
	{ .name = NULL },
};
const char *const plan_parts[PLAN_PARTS] = { "rollout", "old policy", "base",
					     "theta",   "decoding",   "evaluation" };
/* docs/performance.md, batch 24, micro-batch 24: 4.52 ms a forward, 4.4 of the base, 20.2 a pair with
 * both, 13.0 a decode. */
const struct plan_loss plan_measured = { { 1.286, 1.286, 1.300, 1.407, 1.427, 1.286 } };

/* Of the activations that a forward writes and reads, the share that a backward needs kept; what stays where
 * every block is computed twice; and what else a rank has: the decoder, workspaces, graphs. */
#define KEPT       0.355
#define KEPT_TWICE 0.12
#define ALWAYS     (4.6 * GIB)
#define MEMORY     0.9 /* of what there is: the rest is the allocator's */

/* What is known of the model without its weights. */
struct parts {
	struct transformer net;
	struct lora lora;
	struct vae vae;
	bool has_vae;
	int64_t h, w, text_tokens;
	double size; /* bytes of a number */
	double gemm, copy;
};

static void release(struct parts *p)
{
	if (p->has_vae)
		vae_release(&p->vae);
	lora_release(&p->lora);
	transformer_close(&p->net);
}

/* By its configuration.  AutoencoderKL is made, with random weights, for its decoder's sizes; what others
 * take is not known. */
static int open_vae(struct parts *p, const char *dir, int64_t *scale, struct err *e)
{
	char *folder = file_join(dir, "vae");
	const struct autoencoder_type *type = pipeline_vae_type(folder, e);
	struct vae_conf conf = { 0 };
	int ret = type ? type->read_scale(scale, folder, e) : -1;

	if (!ret && type == &kl_autoencoder && !(ret = vae_read_conf(&conf, folder, e))) {
		vae_new(&p->vae, &conf, 0);
		p->has_vae = true;
	}
	free(folder);
	return ret;
}

static const struct family *open_folder(struct parts *p, const char *dir, int64_t *scale, struct err *e)
{
	if (!file_is_dir(dir)) {
		err_set(e,
			"%s: no such folder: plan needs the model's .json files, but not its weights "
			"(model_index.json, transformer/config.json, vae/config.json), or --preset "
			"NAME: " PRESETS,
			dir);
		return NULL;
	}
	const struct family *family = pipeline_family(dir, e);
	char *folder = file_join(dir, "transformer");
	int ret = !family || transformer_describe(&p->net, family->transformer, folder, e) ||
			  open_vae(p, dir, scale, e)
		      ? -1
		      : 0;

	free(folder);
	return ret ? NULL : family;
}

static const struct family *open_preset(struct parts *p, const struct preset *preset, int64_t *scale,
					struct err *e)
{
	json_t *config = preset_config(preset, e);
	const struct family *family = config ? preset_family(config, preset->name, e) : NULL;

	if (family && transformer_lay_out(&p->net, family->transformer, config, preset->name, e))
		family = NULL;
	if (family && preset->vae) {
		vae_new(&p->vae, preset->vae, 0);
		p->has_vae = true;
	}
	*scale = preset->scale;
	json_decref(config);
	return family;
}

static int open_parts(struct parts *p, const struct experiment *c, const struct preset *preset, struct err *e)
{
	int64_t scale = 0;
	const struct family *family =
	    preset ? open_preset(p, preset, &scale, e) : open_folder(p, c->model.path, &scale, e);
	enum at_dtype dt;

	if (!family || at_dtype_parse(&dt, c->run.dtype, e) ||
	    lora_init(&p->lora, p->net.net, &c->lora, 0, AT_CPU, e))
		return -1;
	p->h = c->prompts.height ? c->prompts.height / scale : p->net.facts.default_side;
	p->w = c->prompts.width ? c->prompts.width / scale : p->net.facts.default_side;
	p->text_tokens =
	    (c->model.text_length ? c->model.text_length : family->text_length) + family->text_beside;
	p->size = (double)at_dtype_size(dt);
	return 0;
}

/* One sample's forward or backward, in a batch large enough that weights count little. */
static struct cost pass(const struct parts *p, int64_t batch, enum adapter_cost how, bool backward)
{
	struct cost c = { .gemm = p->gemm, .copy = p->copy, .backward = backward }, one = { 0 };
	struct cost_shape s = { batch, p->h, p->w, p->text_tokens, p->size };

	p->net.type->cost(p->net.m, &c, &s);
	model_cost_adapter(&c, &p->net, &p->lora, &s, how);
	cost_add(&one, &c, 1 / (double)batch);
	return one;
}

static double decode(const struct parts *p, const struct experiment *c)
{
	enum at_dtype dt;
	struct err ignored;
	struct cost one = { .gemm = p->gemm, .copy = p->copy };

	if (!p->has_vae || at_dtype_parse(&dt, c->model.vae_dtype, &ignored))
		return 0;
	struct cost_shape s = { 1, p->h, p->w, 0, (double)at_dtype_size(dt) };
	if (dt == AT_F32) /* TF32 products, at half the rate of 16 bits */
		one.gemm /= 2;
	vae_decode_cost(&p->vae, &one, &s);
	return one.seconds;
}

static double passes(const struct parts *p, const struct sampler_conf *s)
{
	double branches = s->guidance == 1 || p->net.facts.guided ? 1 : 2;

	return (double)s->steps * branches * (strcmp(s->solver, "heun") ? 1 : 2);
}

static void count(struct plan *p, const struct parts *m, const struct experiment *c, int64_t test)
{
	const struct prompts_conf *q = &c->prompts;
	struct demands d = c->algorithm->demands(c->algorithm_conf, &c->advantage);
	double every = (double)(d.kl_every > 1 ? d.kl_every : 1);
	int64_t steps = c->train.steps_per_epoch > 0 ? c->train.steps_per_epoch : 1;

	p->images = q->groups * q->group_size / steps;
	p->drawn = (q->draw ? q->groups * q->draw : q->groups * q->group_size) / steps;
	p->levels = (int64_t)((double)c->rollout.steps * c->train.timestep_fraction);
	p->levels = p->levels > 1 ? p->levels : 1;
	p->pairs = p->images * p->levels;
	p->count[PLAN_ROLLOUT] = (double)(c->preview.steps ? p->images : p->drawn) * passes(m, &c->rollout) +
				 (double)(p->drawn * c->preview.steps);
	p->count[PLAN_THETA] = (double)p->pairs;
	p->count[PLAN_OLD] = d.needs & NEEDS_OLD ? (double)p->pairs : 0;
	p->count[PLAN_REFERENCE] = d.needs & NEEDS_REFERENCE ? (double)p->pairs
				   : d.kl > 0                ? (double)p->pairs / every
							     : 0;
	p->count[PLAN_DECODE] = (double)p->drawn;
	p->count[PLAN_EVAL] = c->eval.every && test ? (double)(test * c->eval.images_per_prompt) *
							  passes(m, &c->eval.sampler) / (double)c->eval.every
						    : 0;
}

static void time_parts(struct plan *p, const struct parts *m, const struct experiment *c,
		       const struct plan_loss *loss)
{
	const int64_t batch = 24;
	double beside = pass(m, batch, ADAPTER_PRODUCTS, false).seconds;
	double base = pass(m, batch, ADAPTER_NONE, false).seconds;
	double back = pass(m, batch, ADAPTER_PRODUCTS, true).seconds;
	double again = fmin((double)p->blocks / (double)m->net.facts.blocks, 1);
	double each[PLAN_PARTS] = { [PLAN_ROLLOUT] = beside,      [PLAN_OLD] = beside,
				    [PLAN_REFERENCE] = base,      [PLAN_THETA] = beside * (1 + again) + back,
				    [PLAN_DECODE] = decode(m, c), [PLAN_EVAL] = beside };

	for (int i = 0; i < PLAN_PARTS; i++) {
		p->seconds[i] = p->count[i] * each[i] * loss->of[i];
		p->sum += p->seconds[i];
	}
}

static double memory_of(const struct plan *p, const struct parts *m, int64_t micro, int64_t blocks)
{
	double twice = fmin((double)blocks / (double)m->net.facts.blocks, 1);

	return p->fixed + (double)micro * p->pair * ((1 - twice) + KEPT_TWICE * twice);
}

/* As `auto` finds them, or as they are given. */
static void fit(struct plan *p, const struct parts *m, const struct experiment *c, const struct plan_gpu *gpu,
		int64_t ranks)
{
	struct cost one = pass(m, 1, ADAPTER_PRODUCTS, false), two = pass(m, 2, ADAPTER_PRODUCTS, false);
	int64_t most = (p->pairs + ranks - 1) / ranks, layers = m->net.facts.blocks;
	double params = (double)nn_count(m->net.net), room = MEMORY * gpu->memory;

	p->fixed = params * m->size + 6 * 4 * (double)m->lora.numel + ALWAYS;
	p->pair = KEPT * (2 * two.bytes - one.bytes);
	p->blocks = c->train.gradient_checkpointing < 0 ? 0 : c->train.gradient_checkpointing;
	p->micro = c->train.micro_batch ? c->train.micro_batch : 24;
	p->micro = p->micro < most ? p->micro : most;
	while (c->train.gradient_checkpointing < 0 && p->blocks < layers &&
	       memory_of(p, m, p->micro, p->blocks) > room)
		p->blocks++;
	while (!c->train.micro_batch && p->micro > 1 && memory_of(p, m, p->micro, p->blocks) > room)
		p->micro--;
	p->memory = memory_of(p, m, p->micro, p->blocks);
	p->fits = p->memory <= room;
}

int plan_make(struct plan *p, const struct experiment *c, const struct plan_gpu *gpu,
	      const struct plan_loss *loss, const struct preset *preset, int64_t ranks, int64_t test,
	      struct err *e)
{
	struct parts m = { .gemm = gpu->gemm, .copy = gpu->copy };
	int ret = open_parts(&m, c, preset, e);

	*p = (struct plan) { 0 };
	if (!ret) {
		count(p, &m, c, test);
		fit(p, &m, c, gpu, ranks);
		time_parts(p, &m, c, loss);
	}
	release(&m);
	return ret;
}
