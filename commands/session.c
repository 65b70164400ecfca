#include "commands/session.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/family.h"
#include "models/lora/lora_file.h"
#include "trainer/record/adapters.h"
#include "dist/startup.h"
#include <stdlib.h>
#include <string.h>

/* ---- Settings ------------------------------------------------------------------------------------ */

/* The stage that is the last, or that of the checkpoint. */
static int read_stage(struct experiment *x, const char *path, int64_t stage, struct err *e)
{
	struct experiment file;
	int n;

	if (experiment_read(&file, path, NULL, 0, e))
		return -1;
	n = experiment_stages(&file);
	int ret = experiment_stage(x, &file, stage >= 0 && stage < n ? (int)stage : n - 1, e);
	experiment_release(&file);
	return ret;
}

/* 1 where the file says which model it is for; -1 on error. */
static int is_experiment(const char *config, struct err *e)
{
	struct conf_node *tree = conf_read(config, e);
	int is = tree ? *conf_where(tree, "model.path") != 0 : -1;

	conf_node_free(tree);
	return is;
}

/* Reads s->from and s->x, where there is one. */
static int find_source(struct session_settings *s, const struct session_options *given, const char *config,
		       struct err *e)
{
	int64_t stage = -1;
	int is = config ? is_experiment(config, e) : 0;

	if (is < 0)
		return -1;
	if (is)
		s->from = mem_str(config);
	else if (given->lora)
		s->from = adapters_run(given->lora, &stage);
	if (!s->from || !read_stage(&s->x, s->from, stage, e))
		return 0;
	if (!is && given->model) { /* what is above an adapter may be somebody else's */
		log_warn("%s: its settings are not used", e->msg);
		free(s->from);
		s->from = NULL;
		return 0;
	}
	return is ? -1 : err_in(e, "cannot find the model of %s (give --model DIR)", given->lora);
}

static const char *text(const char *given, const char *run, const char *otherwise)
{
	return given ? given : run ? run : otherwise;
}

static void fill(struct session_options *o, const struct experiment *x, int64_t usual_length)
{
	struct sampler_conf plain = { .solver = (char *)(uintptr_t) "euler",
				      .steps = 40,
				      .guidance = 1,
				      .eta = -1,
				      .grid = (char *)(uintptr_t) "diffusers",
				      .timesteps = (char *)(uintptr_t) "float" };
	const struct sampler_conf *c = x ? &x->eval.sampler : &plain;
	const struct {
		int64_t *value, otherwise;
	} whole[] = {
		{ &o->steps, c->steps },
		{ &o->batch, c->batch ? c->batch : 32 },
		{ &o->text_length, x && x->model.text_length ? x->model.text_length : usual_length },
		{ &o->vae_batch, x ? x->model.vae_batch : 1 },
		{ &o->height, x ? x->prompts.height : 0 },
		{ &o->width, x ? x->prompts.width : 0 },
	};

	o->solver = text(o->solver, c->solver, NULL);
	o->negative = text(o->negative, c->negative, NULL);
	o->grid = text(o->grid, c->grid, NULL);
	o->timesteps = text(o->timesteps, c->timesteps, NULL);
	o->dtype = text(o->dtype, x ? x->run.dtype : NULL, "float32");
	o->vae_dtype = text(o->vae_dtype, x ? x->model.vae_dtype : NULL, "float32");
	o->device = text(o->device, x ? x->run.device : NULL, "auto");
	o->text_cache = text(o->text_cache, x && *x->model.text_cache ? x->model.text_cache : NULL, NULL);
	for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
		if (*whole[i].value == OPTION_UNSET)
			*whole[i].value = whole[i].otherwise;
	o->guidance = isnan(o->guidance) ? c->guidance : o->guidance;
	o->shift = isnan(o->shift) ? c->shift : o->shift;
	o->eta = isnan(o->eta) ? c->eta : o->eta;
}

static int check(const struct session_options *o, const char *command, struct err *e)
{
	if (o->steps < 1 || o->steps > 1000)
		return err_set(e, "%s: --steps %lld: must be in [1, 1000]", command, (long long)o->steps);
	if (o->batch < 1)
		return err_set(e, "%s: --batch %lld: must be at least 1", command, (long long)o->batch);
	if (o->vae_batch < 1)
		return err_set(e, "%s: --vae-batch %lld: must be at least 1", command,
			       (long long)o->vae_batch);
	if (o->text_length < 0 || o->text_length > 4096) /* 0: the family's */
		return err_set(e, "%s: --text-length %lld: must be in [1, 4096]", command,
			       (long long)o->text_length);
	if (o->eta != -1 && !(o->eta >= 0 && o->eta <= 100)) /* -1: the solver's own */
		return err_set(e, "%s: --eta %g: must be in [0, 100]", command, o->eta);
	return 0;
}

static struct sampler_conf sampler_of(const struct session_settings *s)
{
	const struct session_options *o = &s->o;

	return (struct sampler_conf) { .solver = (char *)(uintptr_t)o->solver,
				       .steps = o->steps,
				       .guidance = o->guidance,
				       .negative = (char *)(uintptr_t)o->negative,
				       .shift = o->shift,
				       .eta = o->eta,
				       .grid = (char *)(uintptr_t)o->grid,
				       .timesteps = (char *)(uintptr_t)o->timesteps,
				       .batch = o->batch,
				       .cuda_graphs = s->cuda_graphs };
}

/* Of the model that the settings name: before anything is loaded. */
static int check_size(const struct session_options *o, const char *command, struct err *e)
{
	char *what = mem_printf("%s: --", command);
	int ret = pipeline_check_size(o->model, o->height, o->width, what, e);

	free(what);
	return ret;
}

static int settle(struct session_settings *s, const char *command, struct err *e)
{
	const struct experiment *x = s->from ? &s->x : NULL;
	const struct family *family = NULL;

	if (s->o.lora && !file_exists(s->o.lora))
		return err_set(e, "%s: --lora %s: no such file or folder", command, s->o.lora);
	if (!s->o.model && !x)
		return s->o.lora ? err_set(e, "%s: %s does not belong to a run: give --model DIR", command,
					   s->o.lora)
				 : err_set(e, "%s: --model DIR is needed", command);
	s->o.model = text(s->o.model, x ? x->model.path : NULL, NULL);
	if (x && !(family = pipeline_family(s->o.model, e)))
		return -1;
	fill(&s->o, x, family ? family->text_length : 0);
	s->cuda_graphs = x ? x->eval.sampler.cuda_graphs : true;
	struct sampler_conf c = sampler_of(s);
	if (check(&s->o, command, e) || check_size(&s->o, command, e))
		return -1;
	return sampler_check(&c, e) ? err_in(e, "%s", command) : 0;
}

int session_settle(struct session_settings *s, const struct session_options *given, const char *config,
		   const char *command, struct err *e)
{
	*s = (struct session_settings) { .o = *given };
	if (!find_source(s, given, config, e) && !settle(s, command, e))
		return 0;
	session_settings_release(s);
	return -1;
}

void session_settings_release(struct session_settings *s)
{
	if (s->x.tree)
		experiment_release(&s->x);
	free(s->from);
	*s = (struct session_settings) { 0 };
}

json_t *session_json(const struct session *s, const struct session_settings *o)
{
	const struct pipeline *p = &s->pipeline;
	const struct {
		const char *key, *value;
	} words[] = { { "model", o->o.model },
		      { "lora", o->o.lora },
		      { "solver", o->o.solver },
		      { "negative", o->o.negative ? o->o.negative : "" },
		      { "grid", o->o.grid },
		      { "timesteps", o->o.timesteps },
		      { "dtype", o->o.dtype },
		      { "vae_dtype", o->o.vae_dtype },
		      { "device", at_device_text(p->device) },
		      { "settings_of", o->from } };
	json_t *j = json_object();
	int64_t scale = p->vae_type->scale(p->vae);

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		json_object_set_new(j, words[i].key,
				    words[i].value ? json_words(words[i].value) : json_null());
	json_object_set_new(j, "steps", json_integer(o->o.steps));
	json_object_set_new(j, "guidance", json_number(o->o.guidance));
	json_object_set_new(j, "shift",
			    o->o.shift > 0 ? json_number(o->o.shift) : json_string("the model's"));
	json_object_set_new(j, "eta", o->o.eta < 0 ? json_string("the solver's") : json_number(o->o.eta));
	json_object_set_new(j, "height", json_integer(s->latent_CHW.d[1] * scale));
	json_object_set_new(j, "width", json_integer(s->latent_CHW.d[2] * scale));
	json_object_set_new(j, "text_length",
			    o->o.text_length ? json_integer(o->o.text_length) : json_string("the family's"));
	return j;
}

/* ---- The session ----------------------------------------------------------------------------------- */

int session_adapter(struct session *s, const char *lora, struct lora_merged *merged, struct pass *pass,
		    struct err *e)
{
	char *path = lora ? adapters_find(lora, e) : NULL;
	struct lora l = { 0 };

	*pass = (struct pass) { 0 };
	if (!lora)
		return 0;
	/* in the weights, or beside weights of 16 bits */
	int ret = path ? lora_load(&l, s->pipeline.transformer.net, path, s->pipeline.device, e) : -1;
	if (!ret) {
		lora_ready(merged, &l, LORA_AUTO);
		pass->merged = merged;
	}
	lora_release(&l);
	free(path);
	return ret;
}

int session_open(struct session *s, struct dist *d, const struct session_settings *settings,
		 const char *command, struct err *e)
{
	const struct session_options *o = &settings->o;
	struct sampler_conf c = sampler_of(settings);
	enum at_device dev;
	enum at_dtype dt, vae;

	*s = (struct session) { 0 };
	if (at_dtype_parse(&dt, o->dtype, e) || at_dtype_parse(&vae, o->vae_dtype, e) ||
	    startup_device(&dev, o->device, d, e))
		return err_in(e, "%s", command);
	struct pipeline_options m = { .dir = o->model,
				      .dtype = dt,
				      .device = dev,
				      .vae_dtype = vae,
				      .vae_batch = o->vae_batch,
				      .text_length = o->text_length,
				      .text_cache = o->text_cache };
	if (pipeline_open(&s->pipeline, &m, e))
		return -1;
	if (session_adapter(s, o->lora, &s->merged, &s->pass, e))
		goto out;
	s->latent_CHW = pipeline_latent_shape(&s->pipeline, o->height, o->width);
	if (sampler_init(&s->sampler, &s->pipeline, &c, s->latent_CHW, e)) {
		err_in(e, "%s", command);
		goto out;
	}
	return 0;
out:
	session_close(s);
	return -1;
}

int session_restart(struct session *s, const struct session_settings *o, struct err *e)
{
	struct sampler_conf c = sampler_of(o);

	sampler_release(&s->sampler);
	s->sampler = (struct sampler) { 0 };
	return sampler_init(&s->sampler, &s->pipeline, &c, s->latent_CHW, e);
}

void session_close(struct session *s)
{
	sampler_release(&s->sampler);
	lora_merged_release(&s->merged);
	pipeline_close(&s->pipeline);
	*s = (struct session) { 0 };
}
