/* pipeline.c -- a model directory: which class each part is, and the parts used as one model. */
#include "models/pipeline.h"
#include "models/content_hash.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

/* ---- model_index.json ------------------------------------------------------------------------ */

/* The class in "part": ["library", "Class"], borrowed from o. */
static int class_of(const char **name, const json_t *o, const char *part, const char *path, struct err *e)
{
	const json_t *v = json_object_get(o, part);

	*name = json_string_value(json_array_get(v, 1));
	if (!v)
		return err_set(e, "%s: %s is missing", path, part);
	if (!*name)
		return err_set(e, "%s: %s must be a library and a class", path, part);
	return 0;
}

static int unknown_class(const char *path, const char *part, const char *name, const char *known,
			 struct err *e)
{
	return err_set(e, "%s: %s is of class '%s', which is unknown: there is %s", path, part, name, known);
}

static int require_class(const json_t *o, const char *part, const char *wanted, const char *path,
			 struct err *e)
{
	const char *name;

	if (class_of(&name, o, part, path, e))
		return -1;
	return strcmp(name, wanted) ? unknown_class(path, part, name, wanted, e) : 0;
}

/* Its own file says the rest. */
static int check_scheduler(const json_t *o, const char *path, struct err *e)
{
	const char *name;

	return class_of(&name, o, "scheduler", path, e) || schedule_conf_class(name, path, e) ? -1 : 0;
}

/* What a class's name says of why it is not here. */
static const struct {
	const char *part, *why;
} refused[] = {
	{ "Kontext", "edits images" },
	{ "Edit", "edits images" },
	{ "Omni", "edits images" },
	{ "Fill", "fills parts of images" },
	{ "Inpaint", "fills parts of images" },
	{ "Img2Img", "starts from images" },
	{ "Control", "is steered by images" },
	{ "Redux", "varies images" },
	{ "Layered", "makes layers of images" },
	{ "Flux2Pipeline", "has 32 billion parameters (FLUX.2-dev), more than a GPU of 80 GB trains" },
};

static const char *why_refused(const char *name)
{
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (strstr(name, refused[i].part))
			return refused[i].why;
	return NULL;
}

static int find_family(struct pipeline *p, const json_t *o, const char *path, struct err *e)
{
	struct text known = { 0 };
	const char *name;

	if (json_get_str(&name, o, "_class_name", "", path, e))
		return -1;
	for (int i = 0; families[i]; i++) {
		text_printf(&known, "%s%s", i ? ", " : "", families[i]->class_name);
		if (!strcmp(name, families[i]->class_name))
			p->family = families[i];
	}
	const char *why = why_refused(name);
	if (!p->family && why)
		err_set(e, "%s: a pipeline of class '%s', which %s and is not supported: there is %s", path,
			name, why, known.s);
	else if (!p->family)
		err_set(e, "%s: a pipeline of class '%s', which is unknown: there is %s", path, name,
			known.s);
	text_free(&known);
	return p->family ? 0 : -1;
}

static int find_text(const struct text_encoder_type **type, const struct family *f, const json_t *o,
		     const char *path, struct err *e)
{
	struct text known = { 0 };
	const char *name;
	int ret;

	if (class_of(&name, o, "text_encoder", path, e))
		return -1;
	for (int i = 0; f->text[i]; i++) {
		text_printf(&known, "%s%s", i ? ", " : "", f->text[i]->class_name);
		if (!strcmp(name, f->text[i]->class_name))
			*type = f->text[i];
	}
	ret = *type ? 0 : unknown_class(path, "text_encoder", name, known.s, e);
	text_free(&known);
	return ret;
}

const struct family *pipeline_family(const char *dir, struct err *e)
{
	char *path = file_join(dir, "model_index.json");
	struct pipeline p = { .family = families[0] };
	json_t *o;

	if (file_exists(path)) {
		p.family = NULL;
		if ((o = json_read(path, e)))
			find_family(&p, o, path, e);
		json_decref(o);
	}
	free(path);
	return p.family;
}

/* Of any family: config.json has "_class_name" here and "architectures" where transformers wrote it. */
static const struct text_encoder_type *text_by_config(const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	const json_t *v = json_object_get(o, "_class_name");
	const char *name = json_string_value(v ? v : json_array_get(json_object_get(o, "architectures"), 0));
	const struct text_encoder_type *found = NULL;

	for (int i = 0; name && families[i]; i++)
		for (int k = 0; families[i]->text[k] && !found; k++)
			if (!strcmp(name, families[i]->text[k]->class_name))
				found = families[i]->text[k];
	if (o && !found)
		err_set(e, "%s: a text encoder of class '%s', which is unknown", path, name ? name : "");
	json_decref(o);
	return found;
}

const struct text_encoder_type *pipeline_text_type(const char *dir, struct err *e)
{
	char *index = file_join(dir, "model_index.json"), *path = file_join(dir, "text_encoder/config.json");
	const struct text_encoder_type *type = NULL;
	struct pipeline p = { 0 };

	if (file_exists(index)) {
		json_t *o = json_read(index, e);

		if (!o || find_family(&p, o, index, e) || find_text(&type, p.family, o, index, e))
			type = NULL;
		json_decref(o);
	} else {
		type = text_by_config(path, e);
	}
	free(index);
	free(path);
	return type;
}

const struct autoencoder_type *pipeline_vae_type(const char *folder, struct err *e)
{
	char *path = file_join(folder, "config.json");
	json_t *o = json_read(path, e);
	const struct autoencoder_type *found = NULL;
	const char *name = NULL;

	if (o && !json_get_str(&name, o, "_class_name", kl_autoencoder.class_name, path, e)) {
		for (int i = 0; families[i]; i++)
			for (int k = 0; families[i]->vae[k] && !found; k++)
				if (!strcmp(name, families[i]->vae[k]->class_name))
					found = families[i]->vae[k];
		if (!found)
			err_set(e, "%s: an autoencoder of class '%s', which is unknown", path, name);
	}
	json_decref(o);
	free(path);
	return found;
}

static int find_vae(struct pipeline *p, const json_t *o, const char *path, struct err *e)
{
	const struct autoencoder_type *const *vae = p->family->vae;
	struct text known = { 0 };
	const char *name;
	int ret;

	if (class_of(&name, o, "vae", path, e))
		return -1;
	for (int i = 0; vae[i]; i++) {
		text_printf(&known, "%s%s", i ? ", " : "", vae[i]->class_name);
		if (!strcmp(name, vae[i]->class_name))
			p->vae_type = vae[i];
	}
	ret = p->vae_type ? 0 : unknown_class(path, "vae", name, known.s, e);
	text_free(&known);
	return ret;
}

static int read_index(struct pipeline *p, const struct text_encoder_type **text, const char *path,
		      struct err *e)
{
	json_t *o = json_read(path, e);
	int ret = !o || find_family(p, o, path, e) ||
			  require_class(o, "transformer", p->family->transformer->class_name, path, e) ||
			  check_scheduler(o, path, e) || find_text(text, p->family, o, path, e) ||
			  find_vae(p, o, path, e)
		      ? -1
		      : 0;

	json_decref(o);
	return ret;
}

int pipeline_write_index(const char *dir, const struct family *f, const char *text_class,
			 const char *vae_class, double shift, struct err *e)
{
	char *index = file_join(dir, "model_index.json"), *folder = file_join(dir, "scheduler");
	char *scheduler = file_join(folder, "scheduler_config.json");
	json_t *o = json_pack("{s:s, s:[s,s], s:[s,s], s:[s,s], s:[s,s]}", "_class_name", f->class_name,
			      "transformer", "diffusers", f->transformer->class_name, "vae", "contraflow",
			      vae_class, "text_encoder", "contraflow", text_class, "scheduler", "diffusers",
			      "FlowMatchEulerDiscreteScheduler");
	json_t *sched = json_pack("{s:s, s:o, s:i}", "_class_name", "FlowMatchEulerDiscreteScheduler",
				  "shift", json_number(shift), "num_train_timesteps", 1000);
	int ret =
	    file_mkdirs(folder, e) || json_write(index, o, e) || json_write(scheduler, sched, e) ? -1 : 0;

	json_decref(o);
	json_decref(sched);
	free(index);
	free(folder);
	free(scheduler);
	return ret;
}

/* ---- Open and close -------------------------------------------------------------------------- */

/* What the parts must agree on. */
static int check_fit(const struct pipeline *p, struct err *e)
{
	const struct transformer_facts *f = &p->transformer.facts;
	int64_t channels = p->vae_type->channels(p->vae);

	if (f->channels != channels || f->channels_out != channels)
		return err_set(e, "%s: the transformer has %lld channels in and %lld out, the vae %lld",
			       p->dir, (long long)f->channels, (long long)f->channels_out,
			       (long long)channels);
	return 0;
}

static struct text_options text_options(const struct pipeline_options *o, int64_t width, const char *hashes)
{
	return (struct text_options) { .dir = o->dir,
				       .text_length = o->text_length,
				       .width = width,
				       .dtype = o->dtype,
				       .device = o->device,
				       .hashes = hashes };
}

/* Where hashes of files are remembered; free(). */
static char *hashes_folder(const struct pipeline_options *o)
{
	return o->text_cache ? file_join(o->text_cache, "hashes") : NULL;
}

static int open_parts(struct pipeline *p, const struct text_encoder_type *type,
		      const struct pipeline_options *o, struct err *e)
{
	char *transformer = file_join(p->dir, "transformer"), *vae = file_join(p->dir, "vae");
	char *hashes = hashes_folder(o);
	int ret =
	    transformer_open(&p->transformer, p->family->transformer, transformer, o->dtype, o->device, e);

	struct text_options text = text_options(o, p->transformer.facts.text_width, hashes);
	if (!ret)
		ret = conditioner_open(&p->text, type, &text, o->text_cache,
				       o->hashes ? &o->hashes->text : NULL, e) ||
			      p->vae_type->open(&p->vae, vae, o->vae_dtype, o->device, e) || check_fit(p, e)
			  ? -1
			  : 0;
	free(transformer);
	free(vae);
	free(hashes);
	return ret;
}

static int check_side(const struct transformer_facts *f, int64_t scale, int64_t pixels, const char *what,
		      const char *name, struct err *e)
{
	int64_t multiple = f->multiple * scale, most = f->most_side * scale;

	if (!pixels || (pixels >= multiple && pixels % multiple == 0 && pixels <= most))
		return 0;
	return err_set(e, "%s%s %lld: must be a multiple of %lld, at most %lld", what, name,
		       (long long)pixels, (long long)multiple, (long long)most);
}

int pipeline_check_size(const char *dir, int64_t height, int64_t width, const char *what, struct err *e)
{
	char *index = file_join(dir, "model_index.json"), *folder = file_join(dir, "transformer"),
	     *vae = file_join(dir, "vae");
	const struct text_encoder_type *type = NULL;
	struct transformer t = { 0 };
	struct pipeline p = { 0 };
	int64_t scale = 1;
	int ret = nn_folder(dir, e) || read_index(&p, &type, index, e) ||
			  transformer_describe(&t, p.family->transformer, folder, e) ||
			  p.vae_type->read_scale(&scale, vae, e) ||
			  check_side(&t.facts, scale, height, what, "height", e) ||
			  check_side(&t.facts, scale, width, what, "width", e)
		      ? -1
		      : 0;

	transformer_close(&t);
	free(index);
	free(folder);
	free(vae);
	return ret;
}

int pipeline_hash(struct pipeline_hashes *h, const struct pipeline_options *o, struct err *e)
{
	char *index = file_join(o->dir, "model_index.json"), *folder = file_join(o->dir, "transformer");
	char *hashes = hashes_folder(o);
	const struct text_encoder_type *type = NULL;
	struct transformer t = { 0 };
	struct pipeline p = { 0 };
	struct st_file f;
	int ret = nn_folder(o->dir, e) || read_index(&p, &type, index, e) ||
			  transformer_describe(&t, p.family->transformer, folder, e) ||
			  st_open_model(&f, folder, NN_DIFFUSERS, NULL, e)
		      ? -1
		      : 0;

	*h = (struct pipeline_hashes) { 0 };
	if (!ret) {
		h->transformer = content_hash(&f, hashes);
		st_close(&f);
		struct text_options text = text_options(o, t.facts.text_width, hashes);
		if (type->hash)
			ret = type->hash(&h->text, &text, e);
	}
	transformer_close(&t);
	free(index);
	free(folder);
	free(hashes);
	return ret;
}

int pipeline_open(struct pipeline *p, const struct pipeline_options *o, struct err *e)
{
	char *index = file_join(o->dir, "model_index.json"), *folder = file_join(o->dir, "scheduler");
	char *scheduler = file_join(folder, "scheduler_config.json");
	const struct text_encoder_type *text = NULL;
	int ret;

	*p = (struct pipeline) { .dir = mem_str(o->dir),
				 .device = o->device,
				 .dtype = o->dtype,
				 .vae_batch = o->vae_batch ? o->vae_batch : 1 };
	ret = nn_folder(o->dir, e) || read_index(p, &text, index, e) ||
		      schedule_conf_read(&p->schedule, scheduler, e) || open_parts(p, text, o, e)
		  ? -1
		  : 0;
	if (ret)
		pipeline_close(p);
	free(index);
	free(folder);
	free(scheduler);
	return ret;
}

void pipeline_close(struct pipeline *p)
{
	transformer_close(&p->transformer);
	conditioner_close(p->text);
	if (p->vae)
		p->vae_type->close(p->vae);
	free(p->dir);
	*p = (struct pipeline) { 0 };
}

/* ---- Use ------------------------------------------------------------------------------------- */

struct at_dims pipeline_latent_shape(const struct pipeline *p, int64_t height, int64_t width)
{
	const struct transformer_facts *f = &p->transformer.facts;
	int64_t scale = p->vae_type->scale(p->vae);

	return DIMS(f->channels, height ? height / scale : f->default_side,
		    width ? width / scale : f->default_side);
}

int64_t pipeline_tokens(const struct pipeline *p, struct at_dims latent_CHW)
{
	const struct transformer *t = &p->transformer;

	return t->type->tokens(t->m, latent_CHW.d[1], latent_CHW.d[2]);
}

int pipeline_encode(const struct pipeline *p, const char *const *prompts, int n, struct cond *out,
		    struct err *e)
{
	return conditioner_encode(p->text, prompts, n, out, e);
}

int pipeline_encode_negative(const struct pipeline *p, const char *prompt, struct cond *out, struct err *e)
{
	return conditioner_encode_negative(p->text, prompt, out, e);
}

at_t pipeline_velocity(const struct pipeline *p, const struct pass *pass, at_t x_BCHW, at_t t_B,
		       const struct cond *c, at_t guidance_B)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	struct cond cond = cond_cast(c, p->dtype);
	at_t v_BCHW = p->transformer.type->velocity(p->transformer.m, pass, at_cast(x_BCHW, p->dtype), t_B,
						    &cond, guidance_B);

	return at_return(s, at_cast(v_BCHW, AT_F32));
}

at_t pipeline_pixels(const struct pipeline *p, at_t latents_BChw)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x_B3HW = at_cast(p->vae_type->decode(p->vae, latents_BChw, p->vae_batch), AT_F32);
	at_t unit = at_clamp(at_add(at_mul(x_B3HW, 0.5), 0.5), 0, 1);
	at_t level = at_floor(at_add(at_mul(unit, 255.0), 0.5)); /* nearest: never negative */

	return at_return(s, at_contiguous(at_cast(at_permute(level, DIMS(0, 2, 3, 1)), AT_U8)));
}

at_t pipeline_images(const struct pipeline *p, at_t latents_BChw)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);

	return at_return(s, at_to(pipeline_pixels(p, latents_BChw), AT_U8, AT_CPU));
}
