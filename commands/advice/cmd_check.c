/* cmd_check.c -- contraflow check: all that a run opens, and one image of it; nothing is trained. */
#include "commands/advice/examine.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "commands/options.h"
#include "dist/startup.h"
#include "trainer/evaluation/captions.h"
#include "trainer/prompt_sets.h"
#include "trainer/record/adapters.h"
#include "trainer/sampling.h"
#include <stdlib.h>
#include <string.h>

/* What has been opened. */
struct opened {
	struct pipeline pipeline;
	struct policies policies;
	struct sampler sampler;
	struct prompts train, none;
	struct mixture *rewards;
	struct image image;
};

static int open_pipeline(struct opened *o, const struct experiment *c, struct dist *d, struct err *e)
{
	enum at_device dev;
	enum at_dtype dt, vae;
	const struct family *family = pipeline_family(c->model.path, e);

	if (!family || startup_device(&dev, c->run.device, d, e) || at_dtype_parse(&dt, c->run.dtype, e) ||
	    at_dtype_parse(&vae, c->model.vae_dtype, e))
		return -1;
	char *cache = experiment_cache(c);
	struct pipeline_options p = { .dir = c->model.path,
				      .dtype = dt,
				      .device = dev,
				      .vae_dtype = vae,
				      .vae_batch = c->model.vae_batch,
				      .text_length =
					  c->model.text_length ? c->model.text_length : family->text_length,
				      .text_cache = cache };
	int ret = pipeline_open(&o->pipeline, &p, e);
	free(cache);
	return ret;
}

static int open_adapter(struct opened *o, const struct experiment *c, struct err *e)
{
	char *start = *c->lora.start ? adapters_find(c->lora.start, e) : NULL;
	int ret = *c->lora.start && !start
		      ? -1
		      : policies_init(&o->policies, &c->policy, o->pipeline.transformer.net, &c->lora, start,
				      (uint64_t)c->run.seed, o->pipeline.device, e);

	free(start);
	return ret;
}

static int first_prompt(void *ctx, const int64_t *id, int n, struct cond *out, struct err *e)
{
	const struct opened *o = ctx;

	(void)id;
	return encode_prompts(&o->pipeline, &o->train, &(int64_t) { 0 }, n, out, e);
}

static int take(void *ctx, int64_t at, at_t rgb_BHW3, struct err *e)
{
	struct opened *o = ctx;
	size_t bytes = (size_t)at_numel(rgb_BHW3);

	(void)at, (void)e;
	o->image = (struct image) { .w = (int)at_size(rgb_BHW3, 2),
				    .h = (int)at_size(rgb_BHW3, 1),
				    .rgb = mem_alloc(bytes) };
	memcpy(o->image.rgb, at_data(rgb_BHW3), bytes);
	return 0;
}

/* One image of the old policy, as a rollout samples it. */
static int sample(struct opened *o, const struct experiment *c, struct err *e)
{
	struct pass pass = policies_sampling_pass(&o->policies, c->rollout.fp8);
	struct at_dims chw = pipeline_latent_shape(&o->pipeline, c->prompts.height, c->prompts.width);
	struct sampling s = { .pipeline = &o->pipeline,
			      .sampler = &o->sampler,
			      .pass = &pass,
			      .chw = chw,
			      .batch = 1,
			      .seed = (uint64_t)c->run.seed,
			      .purpose = RNG_USER,
			      .steps = RNG_USER_SOLVER,
			      .cond = first_prompt,
			      .cond_ctx = o,
			      .take = take,
			      .take_ctx = o };
	int64_t id = 0;

	return sampler_init(&o->sampler, &o->pipeline, &c->rollout, chw, e) || sampling_run(&s, &id, 1, e)
		   ? -1
		   : 0;
}

static void score(struct examination *x, struct opened *o)
{
	const struct prompt *p = &o->train.v[0];
	struct reward_item item = {
		.rgb = o->image.rgb, .w = o->image.w, .h = o->image.h, .prompt = p->text, .meta = p->meta
	};
	struct sheet_tile tile = { 0 };

	captions_score(o->rewards, &item, 1, &tile, NULL);
	examined(x, text_starts(tile.note, "no score") ? EXAMINED_FAIL : EXAMINED_OK, "score", "'%s': %s",
		 p->text, tile.note);
	captions_free(&tile, 1);
}

/* A part that can fail: what to say of it. */
static int tell(struct examination *x, int ret, const char *what, const struct err *e, const char *fine)
{
	return examined(x, ret ? EXAMINED_FAIL : EXAMINED_OK, what, "%s", ret ? e->msg : fine);
}

static int open_and_sample(struct examination *x, struct opened *o, const struct experiment *c,
			   struct dist *d)
{
	struct err e;
	char *said;

	int ret = open_pipeline(o, c, d, &e);
	said = ret ? NULL
		   : mem_printf("open: %.4g G parameters, %s, %s",
				(double)nn_count(o->pipeline.transformer.net) / 1e9, c->run.dtype,
				at_device_text(o->pipeline.device));
	ret = tell(x, ret, "model", &e, said);
	free(said);
	if (ret)
		return -1;
	ret = open_adapter(o, c, &e);
	said = ret ? NULL
		   : mem_printf("%lld parameters on %d modules", (long long)o->policies.theta.numel,
				o->policies.theta.n);
	ret = tell(x, ret, "adapter", &e, said);
	free(said);
	if (ret)
		return -1;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct cond cond;
	ret = tell(x, first_prompt(o, NULL, 1, &cond, &e), "text", &e, "the first prompt is encoded");
	at_end(sc);
	if (ret)
		return -1;
	ret = sample(o, c, &e);
	said = ret ? NULL
		   : mem_printf("an image of %d x %d by %lld steps of %s", o->image.w, o->image.h,
				(long long)c->rollout.steps, c->rollout.solver);
	ret = tell(x, ret, "sampling", &e, said);
	free(said);
	return ret;
}

static void close_all(struct opened *o)
{
	image_free(&o->image);
	mixture_close(o->rewards);
	sampler_release(&o->sampler);
	policies_release(&o->policies);
	pipeline_close(&o->pipeline);
	prompts_free(&o->train);
}

/* The first stage, with an image of it. */
static int check_first(struct examination *x, const struct experiment *c, struct dist *d)
{
	struct opened o = { 0 };
	struct err e;
	int ret = prompts_read_train(&o.train, c, &e) ? -1 : open_and_sample(x, &o, c, d);

	if (!ret) {
		o.rewards = examine_rewards(x, c, &o.none, &o.none);
		ret = o.rewards ? 0 : -1;
	}
	if (!ret)
		score(x, &o);
	close_all(&o);
	return x->failures ? -1 : ret;
}

static int check(const struct experiment *x, struct dist *d, struct err *e)
{
	struct examination all = { .began = clock_now() };
	struct experiment stage;
	int n = experiment_stages(x), ret = 0;

	for (int i = 0; i < n && !ret; i++) {
		if (experiment_stage(&stage, x, i, e))
			return -1;
		ret = examine_stage(&all, &stage, x->n_stages ? x->stage[i] : NULL);
		experiment_release(&stage);
	}
	if (!ret && !(ret = experiment_stage(&stage, x, 0, e))) {
		ret = check_first(&all, &stage, d);
		experiment_release(&stage);
	}
	return all.failures ? err_set(e, "check: this configuration would not run: see FAIL above") : ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct option_list set = { .n = 0 };
	const char *args[1];
	const struct option_spec spec[] = {
		{ "set", 'm', &set, "KEY=VALUE", "override a key; may be repeated" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct experiment x;
	struct dist d;
	int n, ret = options_parse(&cmd_check, spec, argc, argv, args, 1, &n, e);

	if (ret)
		return ret;
	if (n != 1)
		return err_set(e, "check: usage: contraflow check %s", cmd_check.usage);
	if ((ret = startup_open(&d, STARTUP_ALONE, e)))
		return ret;
	if (experiment_read(&x, args[0], set.v, set.n, e))
		return -1;
	ret = startup_threads(&d, x.run.threads, e) ? err_in(e, "check") : check(&x, &d, e);
	experiment_release(&x);
	return ret;
}

const struct command cmd_check = { "check", "CONFIG [--set KEY=VALUE ...]",
				   "open all that a run needs, make and score one image, train nothing",
				   run };
