#include "commands/session.h"
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include "trainer/record/adapters.h"
#include "dist/startup.h"
#include <stdlib.h>
#include <string.h>

static int check(const struct session_options *o, const char *command, struct err *e)
{
	if (o->steps < 1 || o->steps > 1000)
		return err_set(e, "%s: --steps %lld: must be in [1, 1000]", command, (long long)o->steps);
	if (o->batch < 1)
		return err_set(e, "%s: --batch %lld: must be at least 1", command, (long long)o->batch);
	if (o->vae_batch < 1)
		return err_set(e, "%s: --vae-batch %lld: must be at least 1", command,
			       (long long)o->vae_batch);
	if (o->text_length < 0 || o->text_length > 4096) /* 0: not given */
		return err_set(e, "%s: --text-length %lld: must be in [1, 4096]", command,
			       (long long)o->text_length);
	if (o->height < 0 || o->height > 16384 || o->width < 0 || o->width > 16384)
		return err_set(e, "%s: --height and --width must be in [0, 16384]", command);
	if (o->eta != -1 && !(o->eta >= 0 && o->eta <= 100)) /* -1: not given */
		return err_set(e, "%s: --eta %g: must be in [0, 100]", command, o->eta);
	return 0;
}

/* The adapter in the weights, or beside weights of 16 bits. */
static int add_adapter(struct session *s, const char *lora, struct err *e)
{
	char *path = adapters_find(lora, e);
	struct lora l = { 0 };
	int ret = path ? lora_load(&l, s->pipeline.transformer.net, path, s->pipeline.device, e) : -1;

	if (!ret) {
		lora_ready(&s->merged, &l, LORA_AUTO);
		s->pass.merged = &s->merged;
	}
	lora_release(&l);
	free(path);
	return ret;
}

int session_open(struct session *s, struct dist *d, const struct session_options *o, const char *command,
		 struct err *e)
{
	enum at_device dev;
	enum at_dtype dt, vae;

	*s = (struct session) { 0 };
	struct sampler_conf c = { .solver = (char *)(uintptr_t)o->solver,
				  .steps = o->steps,
				  .guidance = o->guidance,
				  .negative = (char *)(uintptr_t)o->negative,
				  .shift = o->shift,
				  .eta = o->eta,
				  .grid = (char *)(uintptr_t)o->grid,
				  .timesteps = (char *)(uintptr_t)o->timesteps,
				  .batch = o->batch,
				  .cuda_graphs = true };
	if (sampler_check(&c, e))
		return err_in(e, "%s", command);
	if (check(o, command, e) || at_dtype_parse(&dt, o->dtype, e) ||
	    at_dtype_parse(&vae, o->vae_dtype, e) || startup_device(&dev, o->device, d, e))
		return -1;
	if (!o->model && !o->lora)
		return err_set(e, "%s: --model DIR is needed", command);
	char *model = o->model ? mem_str(o->model) : adapters_model(o->lora, e);
	if (!model)
		return err_in(e, "%s", command);
	struct pipeline_options m = { .dir = model,
				      .dtype = dt,
				      .device = dev,
				      .vae_dtype = vae,
				      .vae_batch = o->vae_batch,
				      .text_length = o->text_length,
				      .text_cache = o->text_cache };
	int ret = pipeline_open(&s->pipeline, &m, e);
	free(model);
	if (ret)
		return -1;
	if (o->lora && add_adapter(s, o->lora, e))
		goto out;
	s->latent_CHW = pipeline_latent_shape(&s->pipeline, o->height, o->width);
	if (sampler_init(&s->sampler, &s->pipeline, &c, s->latent_CHW, e))
		goto out;
	return 0;
out:
	session_close(s);
	return -1;
}

void session_close(struct session *s)
{
	sampler_release(&s->sampler);
	lora_merged_release(&s->merged);
	pipeline_close(&s->pipeline);
	*s = (struct session) { 0 };
}
