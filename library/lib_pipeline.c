/* lib_pipeline.c -- a model with its settings, adapters, and images of prompts. */
#include "base/file.h"
#include "base/machine/share.h"
#include "base/mem.h"
#include "library/inside.h"
#include "models/lora/lora_file.h"
#include "trainer/record/adapters.h"
#include "trainer/sampling.h"
#include <stdlib.h>
#include <string.h>

/* ---- Settings ------------------------------------------------------------------------------------ */

static const struct field model_fields[] = {
	FIELD(struct model_settings, device, .init = "auto", .choices = at_device_names,
	      .doc = "where it runs"),
	FIELD(struct model_settings, dtype, .init = "float32", .choices = at_weight_dtypes,
	      .doc = "type of the weights"),
	FIELD(struct model_settings, vae_dtype, .init = "float32", .choices = at_weight_dtypes,
	      .doc = "type in which images are decoded"),
	FIELD(struct model_settings, vae_batch, .init = "1", .min = 1, .max = 4096,
	      .doc = "images decoded at a time"),
	FIELD(struct model_settings, text_length, .init = "0", .min = 0, .max = 4096,
	      .doc = "tokens of a prompt that are read; 0: the family's"),
	FIELD(struct model_settings, text_cache, .init = "", .doc = "where prompt embeddings are kept"),
	FIELD(struct model_settings, height, .init = "0", .min = 0, .max = 16384,
	      .doc = "0: the model's own"),
	FIELD(struct model_settings, width, .init = "0", .min = 0, .max = 16384, .doc = "0: the model's own"),
	FIELD_END
};

#define MOST_KEYS 32

/* Keys of a table, for conf_fill's `others`. */
static void names_of(const char *name[MOST_KEYS + 1], const struct field *f)
{
	int n = 0;

	for (; f->name && n < MOST_KEYS; f++)
		name[n++] = f->name;
	name[n] = NULL;
}

static int fill(const struct conf_node *tree, struct model_settings *m, struct sampler_conf *c, struct err *e)
{
	const char *of_model[MOST_KEYS + 1], *of_sampler[MOST_KEYS + 1];

	*m = (struct model_settings) { 0 };
	*c = (struct sampler_conf) { 0 };
	names_of(of_model, model_fields);
	names_of(of_sampler, eval_sampler_fields);
	if (!conf_fill(m, model_fields, tree, "", of_sampler, e) &&
	    !conf_fill(c, eval_sampler_fields, tree, "", of_model, e)) {
		c->batch = c->batch ? c->batch : 32; /* auto */
		return sampler_check(c, e);
	}
	return -1;
}

static void forget(struct model_settings *m, struct sampler_conf *c)
{
	conf_release(m, model_fields);
	conf_release(c, eval_sampler_fields);
}

/* ---- Open ---------------------------------------------------------------------------------------- */

struct open_call {
	struct contraflow_pipeline *p;
	const char *dir;
	const char *const *settings;
};

static int load(struct contraflow_pipeline *p, const char *dir, struct err *e)
{
	const struct model_settings *m = &p->settings;
	enum at_device dev;
	enum at_dtype dt, vae;

	if (pipeline_check_size(dir, m->height, m->width, "", e) || at_device_parse(&dev, m->device, e) ||
	    at_dtype_parse(&dt, m->dtype, e) || at_dtype_parse(&vae, m->vae_dtype, e))
		return -1;
	struct pipeline_options o = { .dir = dir,
				      .dtype = dt,
				      .device = dev,
				      .vae_dtype = vae,
				      .vae_batch = m->vae_batch,
				      .text_length = m->text_length,
				      .text_cache = *m->text_cache ? m->text_cache : NULL };
	return pipeline_open(&p->own, &o, e);
}

static int begin_sampler(struct contraflow_pipeline *p, struct err *e)
{
	p->latent_CHW = pipeline_latent_shape(p->model, p->settings.height, p->settings.width);
	return sampler_init(&p->sampler, p->model, &p->conf, p->latent_CHW, e);
}

static int open_pipeline(void *ctx, struct err *e)
{
	struct open_call *c = ctx;
	struct contraflow_pipeline *p = c->p;
	char *dir = mem_str(c->dir);

	share_replace(&dir);
	p->tree = conf_empty();
	int ret = library_set(p->tree, c->settings, e) || fill(p->tree, &p->settings, &p->conf, e) ||
			  load(p, dir, e)
		      ? -1
		      : 0;
	free(dir);
	if (ret)
		return -1;
	p->model = &p->own;
	return begin_sampler(p, e);
}

int contraflow_pipeline_open(struct contraflow_pipeline **out, const char *dir, const char *const *settings,
			     struct contraflow_error *e)
{
	if (!out || !dir)
		return library_refuse(e, "contraflow_pipeline_open: NULL");
	struct contraflow_pipeline *p = calloc(1, sizeof *p);
	struct open_call c = { p, dir, settings };

	*out = NULL;
	if (!p)
		return library_refuse(e, "out of memory");
	p->state = &p->own_state;
	if (!library_open(open_pipeline, &c, e)) {
		*out = p;
		return 0;
	}
	contraflow_pipeline_close(p);
	return -1;
}

int library_pipeline_over(struct contraflow_pipeline *p, struct pipeline *model, struct library_state *state,
			  const struct sampler_conf *conf, int64_t height, int64_t width, struct err *e)
{
	const struct {
		const char *key;
		int64_t value;
	} size[] = { { "height", height }, { "width", width } };
	int ret = 0;

	p->state = state;
	p->model = model;
	p->tree = conf_empty();
	conf_store(p->tree, conf, eval_sampler_fields, "");
	for (int i = 0; i < 2 && !ret; i++) {
		char *set = mem_printf("%s=%lld", size[i].key, (long long)size[i].value);

		ret = conf_set(p->tree, set, e);
		free(set);
	}
	return ret || fill(p->tree, &p->settings, &p->conf, e) ? -1 : begin_sampler(p, e);
}

void library_pipeline_release(struct contraflow_pipeline *p)
{
	sampler_release(&p->sampler);
	if (p->model == &p->own)
		pipeline_close(&p->own);
	forget(&p->settings, &p->conf);
	conf_node_free(p->tree);
}

static int release(void *ctx, struct err *e)
{
	(void)e;
	library_pipeline_release(ctx);
	return 0;
}

void contraflow_pipeline_close(struct contraflow_pipeline *p)
{
	if (!p || p->state != &p->own_state) /* a trainer's goes with it */
		return;
	library_call(NULL, release, p, NULL);
	free(p);
}

void contraflow_pipeline_size(const struct contraflow_pipeline *p, int *width, int *height)
{
	int64_t scale = p->model->vae_type->scale(p->model->vae);

	*height = (int)(p->latent_CHW.d[1] * scale);
	*width = (int)(p->latent_CHW.d[2] * scale);
}

/* ---- Set ----------------------------------------------------------------------------------------- */

struct set_call {
	struct contraflow_pipeline *p;
	const char *setting;
};

/* Height and width are the only ones of the model's that can change while it is open. */
static int check_key(const char *setting, struct err *e)
{
	size_t n = strcspn(setting, "=");

	for (const struct field *f = model_fields; f->name; f++)
		if (strlen(f->name) == n && !strncmp(f->name, setting, n) && strcmp(f->name, "height") &&
		    strcmp(f->name, "width"))
			return err_set(e, "%s: set when the model is opened", setting);
	return 0;
}

/* Whether a sampler can be made of them. */
static int try_settings(struct contraflow_pipeline *p, const struct model_settings *m,
			const struct sampler_conf *conf, struct err *e)
{
	struct sampler sampler = { 0 };

	if (pipeline_check_size(p->model->dir, m->height, m->width, "", e) ||
	    sampler_init(&sampler, p->model, conf, pipeline_latent_shape(p->model, m->height, m->width), e))
		return -1;
	sampler_release(&sampler);
	return 0;
}

static int set(void *ctx, struct err *e)
{
	struct set_call *c = ctx;
	struct contraflow_pipeline *p = c->p;
	struct conf_node *tree = conf_copy(p->tree, "");
	struct model_settings m = { 0 };
	struct sampler_conf conf = { 0 };

	if (!tree) /* nothing has been set until now */
		tree = conf_empty();
	if (check_key(c->setting, e) || conf_set(tree, c->setting, e) || fill(tree, &m, &conf, e) ||
	    try_settings(p, &m, &conf, e)) {
		forget(&m, &conf);
		conf_node_free(tree);
		return -1;
	}
	sampler_release(&p->sampler);
	p->sampler = (struct sampler) { 0 };
	forget(&p->settings, &p->conf);
	conf_node_free(p->tree);
	p->tree = tree;
	p->settings = m;
	p->conf = conf;
	return begin_sampler(p, e);
}

int contraflow_pipeline_set(struct contraflow_pipeline *p, const char *setting, struct contraflow_error *e)
{
	struct set_call c = { p, setting };

	if (!p || !setting)
		return library_refuse(e, "contraflow_pipeline_set: NULL");
	return library_call(p->state, set, &c, e);
}

/* ---- Adapters ------------------------------------------------------------------------------------ */

struct adapter_call {
	struct contraflow_pipeline *p;
	const char *path;
	struct contraflow_adapter *a;
};

static int load_adapter(void *ctx, struct err *e)
{
	struct adapter_call *c = ctx;
	struct pipeline *m = c->p->model;
	char *path = adapters_find(c->path, e);

	if (!path)
		return -1;
	c->a = mem_zero(1, sizeof *c->a);
	c->a->pipeline = c->p;
	int ret = lora_load(&c->a->lora, m->transformer.net, path, m->device, e);
	free(path);
	if (ret) {
		free(c->a);
		return -1;
	}
	lora_ready(&c->a->merged, &c->a->lora, LORA_AUTO); /* in the weights, or beside weights of 16 bits */
	return 0;
}

int contraflow_adapter_load(struct contraflow_adapter **out, struct contraflow_pipeline *p, const char *path,
			    struct contraflow_error *e)
{
	struct adapter_call c = { .p = p, .path = path };

	if (!out || !p || !path)
		return library_refuse(e, "contraflow_adapter_load: NULL");
	*out = NULL;
	if (library_call(p->state, load_adapter, &c, e))
		return -1;
	*out = c.a;
	return 0;
}

struct contraflow_adapter *library_adapter_of(struct contraflow_pipeline *p, const struct lora *l)
{
	struct contraflow_adapter *a = mem_zero(1, sizeof *a);

	a->pipeline = p;
	lora_copy_init(&a->lora, l);
	lora_ready(&a->merged, &a->lora, LORA_AUTO);
	return a;
}

static int release_adapter(void *ctx, struct err *e)
{
	struct contraflow_adapter *a = ctx;

	(void)e;
	lora_merged_release(&a->merged);
	lora_release(&a->lora);
	return 0;
}

void contraflow_adapter_free(struct contraflow_adapter *a)
{
	if (!a)
		return;
	library_call(NULL, release_adapter, a, NULL);
	free(a);
}

struct export_call {
	const struct contraflow_adapter *a;
	const char *layout, *dtype, *path;
};

static int export_adapter(void *ctx, struct err *e)
{
	static const char *const layouts[] = { "peft", "diffusers", "kohya", NULL };
	const struct export_call *c = ctx;
	enum at_dtype dt = AT_F32;
	int layout = 0;

	while (layouts[layout] && strcmp(layouts[layout], c->layout))
		layout++;
	if (!layouts[layout])
		return err_set(e, "layout '%s': must be peft, diffusers or kohya", c->layout);
	if (c->dtype && at_dtype_parse(&dt, c->dtype, e))
		return -1;
	if (file_exists(c->path) || file_is_dir(c->path))
		return err_set(e, "%s exists already: remove it or choose another name", c->path);
	if (layout == LORA_PEFT ? file_can_fill(c->path, e) : file_can_write(c->path, e))
		return -1;
	return lora_export(&c->a->lora, (enum lora_layout)layout, c->path, dt, e);
}

int contraflow_adapter_export(const struct contraflow_adapter *a, const char *layout, const char *dtype,
			      const char *path, struct contraflow_error *e)
{
	struct export_call c = { a, layout, dtype, path };

	if (!a || !layout || !path)
		return library_refuse(e, "contraflow_adapter_export: NULL");
	return library_call(a->pipeline->state, export_adapter, &c, e);
}

/* ---- Samples ------------------------------------------------------------------------------------- */

struct sample_call {
	struct contraflow_pipeline *p;
	const struct contraflow_adapter *a;
	const char *const *prompts;
	int n;
	int64_t seed, first;
	unsigned char *rgb;
};

/* Each text once: a prompt is often asked for several images. */
static int condition(void *ctx, const int64_t *id, int n, struct cond *out, struct err *e)
{
	const struct sample_call *c = ctx;
	const char **text = mem_zero((size_t)n, sizeof *text);
	at_t row_B = at_empty(DIMS(n), AT_I64, AT_CPU);
	int64_t *row = at_data(row_B);
	struct cond each;
	int texts = 0;

	for (int i = 0; i < n; i++) {
		const char *prompt = c->prompts[id[i] - c->first];

		for (row[i] = 0; row[i] < texts && strcmp(text[row[i]], prompt);)
			row[i]++;
		if (row[i] == texts)
			text[texts++] = prompt;
	}
	int ret = pipeline_encode(c->p->model, text, texts, &each, e);
	if (!ret)
		*out = cond_rows(&each, at_to(row_B, AT_I64, c->p->model->device));
	free(text);
	return ret;
}

static int take(void *ctx, int64_t at, at_t rgb_BHW3, struct err *e)
{
	struct sample_call *c = ctx;
	size_t size = (size_t)at_numel(rgb_BHW3), each = size / (size_t)at_size(rgb_BHW3, 0);

	(void)e;
	memcpy(c->rgb + (size_t)at * each, at_data(rgb_BHW3), size);
	return 0;
}

static int sample(void *ctx, struct err *e)
{
	struct sample_call *c = ctx;
	struct contraflow_pipeline *p = c->p;
	struct pass pass = { .merged = c->a ? &c->a->merged : NULL };
	struct sampling how = { .pipeline = p->model,
				.sampler = &p->sampler,
				.pass = &pass,
				.chw = p->latent_CHW,
				.batch = p->conf.batch,
				.seed = (uint64_t)c->seed,
				.purpose = RNG_USER,
				.steps = RNG_USER_SOLVER,
				.cond = condition,
				.cond_ctx = c,
				.take = take,
				.take_ctx = c };
	int64_t *id = mem_zero((size_t)c->n, sizeof *id);

	for (int i = 0; i < c->n; i++)
		id[i] = c->first + i;
	int ret = sampling_run(&how, id, c->n, e);
	free(id);
	return ret;
}

int contraflow_sample(struct contraflow_pipeline *p, const struct contraflow_adapter *a,
		      const char *const *prompts, int n, int64_t seed, int64_t first, unsigned char *rgb,
		      struct contraflow_error *e)
{
	struct sample_call c = { p, a, prompts, n, seed, first, rgb };

	if (!p || !prompts || !rgb)
		return library_refuse(e, "contraflow_sample: NULL");
	if (n < 1 || first < 0)
		return library_refuse(e, "contraflow_sample: n must be at least 1, first at least 0");
	for (int i = 0; i < n; i++)
		if (!prompts[i])
			return library_refuse(e, "contraflow_sample: a prompt is NULL");
	if (a && a->pipeline != p)
		return library_refuse(e, "contraflow_sample: the adapter is another pipeline's");
	return library_call(p->state, sample, &c, e);
}
