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

/* Its configuration makes a decoder of random weights, whose sizes are what counts. */
static int open_vae(struct parts *p, const char *dir, struct err *e)
{
	char *folder = file_join(dir, "vae"), *path = file_join(folder, "config.json");
	json_t *config = json_read(path, e);
	const char *class = NULL;
	struct vae_conf conf = { 0 };
	int ret = config ? json_get_str(&class, config, "_class_name", "", path, e) : -1;

	if (!ret && !strcmp(class, kl_autoencoder.class_name) && !(ret = vae_read_conf(&conf, folder, e))) {
		vae_new(&p->vae, &conf, 0);
		p->has_vae = true;
	}
	json_decref(config);
	free(path);
	free(folder);
	return ret;
}

static int open_parts(struct parts *p, const struct experiment *c, struct err *e)
{
	if (!file_is_dir(c->model.path))
		return err_set(e,
			       "%s: no such folder: plan needs the model's .json files, but not its weights "
			       "(model_index.json, transformer/config.json, vae/config.json)",
			       c->model.path);
	const struct family *family = pipeline_family(c->model.path, e);
	char *folder = file_join(c->model.path, "transformer");
	int64_t scale = 0, clip = 77;
	enum at_dtype dt;
	int ret = !family || at_dtype_parse(&dt, c->run.dtype, e) ||
			  transformer_describe(&p->net, family->transformer, folder, e) ||
			  lora_init(&p->lora, p->net.net, &c->lora, 0, AT_CPU, e) ||
			  open_vae(p, c->model.path, e)
		      ? -1
		      : 0;

	if (!ret) {
		scale = p->has_vae ? vae_scale(&p->vae) : 4;
		p->h = c->prompts.height ? c->prompts.height / scale : p->net.facts.default_side;
		p->w = c->prompts.width ? c->prompts.width / scale : p->net.facts.default_side;
		p->text_tokens = (c->model.text_length ? c->model.text_length : family->text_length) +
				 (p->net.facts.guided ? 0 : clip);
		p->size = (double)at_dtype_size(dt);
	}
	free(folder);
	return ret;
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
	      const struct plan_loss *loss, int64_t ranks, int64_t test, struct err *e)
{
	struct parts m = { .gemm = gpu->gemm, .copy = gpu->copy };
	int ret = open_parts(&m, c, e);

	*p = (struct plan) { 0 };
	if (!ret) {
		count(p, &m, c, test);
		fit(p, &m, c, gpu, ranks);
		time_parts(p, &m, c, loss);
	}
	release(&m);
	return ret;
}
