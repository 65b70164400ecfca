#include "commands/keep.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/version.h"
#include "models/content_hash.h"
#include "trainer/record/adapters.h"
#include "trainer/record/inputs.h"
#include <stdio.h>
#include <stdlib.h>

int keep_check(struct keep *k, const char *command, struct err *e)
{
	int at = k->layout ? text_index(k->layout, album_layouts) : ALBUM_FLAT;

	if (k->layout && !k->dir)
		return err_set(e, "%s: --layout is of a folder of images, and none was asked for", command);
	if (at < 0)
		return err_set(e, "%s: --layout '%s' is neither flat nor geneval", command, k->layout);
	k->as = (enum album_layout)at;
	return 0;
}

static int add_adapter(json_t *how, const char *lora, struct err *e)
{
	char *path = adapters_find(lora, e);
	uint64_t hash;
	int ret = path ? adapters_hash(&hash, path, e) : -1;

	if (!ret) {
		json_object_set_new(how, "adapter", json_words(path));
		inputs_add(how, "adapter_hash", hash);
	}
	free(path);
	return ret;
}

/* The weights of a part of the model. */
static int add_part(json_t *how, const struct session_settings *o, const char *part, const char *stem,
		    const char *folder, struct err *e)
{
	char *dir = file_join(o->o.model, part), *key = mem_printf("%s_hash", part);
	struct st_file f;
	int ret = st_open_model(&f, dir, stem, NULL, e);

	if (!ret) {
		inputs_add(how, key, content_hash(&f, folder));
		st_close(&f);
	}
	free(key);
	free(dir);
	return ret;
}

/* All of its weights are read, once: hashes are remembered where prompts' embeddings are. */
static int add_model(json_t *how, const struct session_settings *o, struct err *e)
{
	struct experiment none = { .model.text_cache =
				       (char *)(uintptr_t)(o->o.text_cache ? o->o.text_cache : "") };
	char *cache = experiment_cache(o->o.text_cache || !o->from ? &none : &o->x);
	char *folder = file_join(cache, "hashes");
	struct pipeline_options p = { .dir = o->o.model,
				      .text_length = o->o.text_length,
				      .text_cache = cache };
	struct pipeline_hashes hashes;
	int ret = pipeline_hash(&hashes, &p, e);

	if (!ret)
		inputs_add(how, "transformer_hash", hashes.transformer);
	if (!ret && hashes.text)
		inputs_add(how, "text_hash", hashes.text);
	else if (!ret) /* of encoders whose embeddings are not kept: nobody has looked at it */
		ret = add_part(how, o, "text_encoder", NN_TRANSFORMERS, folder, e);
	if (!ret)
		ret = add_part(how, o, "vae", NN_DIFFUSERS, folder, e);
	free(folder);
	free(cache);
	return ret;
}

json_t *keep_how(const struct session_settings *o, const struct session *s, int64_t seed, bool hashes,
		 struct err *e)
{
	/* where it ran and what options were taken from is not what an image is of */
	static const char *const beside[] = { "model", "lora", "device", "settings_of" };
	json_t *how = json_object(), *settings = session_json(s, o);

	for (size_t i = 0; i < sizeof beside / sizeof *beside; i++)
		json_object_del(settings, beside[i]);
	json_object_set_new(how, "version", json_string(version()));
	json_object_set_new(how, "model", json_words(o->o.model));
	json_object_set_new(how, "adapter", json_null());
	json_object_set_new(how, "adapter_hash", json_null());
	json_object_set_new(how, "seed", json_integer(seed));
	json_object_set_new(how, "settings", settings);
	if ((!o->o.lora || !add_adapter(how, o->o.lora, e)) && (!hashes || !add_model(how, o, e)))
		return how;
	json_decref(how);
	return NULL;
}

int keep_open(struct album *a, struct dist *d, const struct keep *k, const struct session *s,
	      const struct session_settings *o, const struct prompts *p, int64_t per, int64_t seed,
	      const char *noise, struct err *e)
{
	json_t *how = d->rank == 0 ? keep_how(o, s, seed, true, e) : NULL;
	int64_t scale = s->pipeline.vae_type->scale(s->pipeline.vae);
	struct album_plan plan = { .dir = k->dir,
				   .layout = k->as,
				   .prompts = p,
				   .per = per,
				   .h = (int)(s->latent_CHW.d[1] * scale),
				   .w = (int)(s->latent_CHW.d[2] * scale),
				   .how = how };

	if (how)
		json_object_set_new(how, "noise", json_string(noise));
	int ret = dist_agree(d, how || d->rank ? 0 : -1, e);
	if (!ret)
		ret = album_open(a, d, &plan, e);
	json_decref(how);
	return ret;
}

void keep_say(const struct album *a)
{
	char *first = album_path(a, 0), *last = album_path(a, a->n - 1);

	printf("%lld images (%lld prompts, %lld each) in %s: %lld made, %lld were there\n", (long long)a->n,
	       (long long)a->prompts->n, (long long)a->per, a->dir, (long long)(a->n - a->found),
	       (long long)a->found);
	printf("  first  %s\n  last   %s\n  how    %s/album.json\n", first, last, a->dir);
	free(first);
	free(last);
}
