#include "trainer/record/inputs.h"
#include "base/alive.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/content_hash.h"
#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What a folder of weights consists of; others (caches, logs) change without meaning. */
static bool is_of_model(const char *name)
{
	static const char *const ends[] = { ".safetensors", ".json", ".txt", ".model", ".pt" };

	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
		if (text_ends(name, ends[i]))
			return true;
	return false;
}

static bool hash_file(uint64_t *hash, const char *path, const char *cache)
{
	struct err why;

	alive_mark("hashing what rewards read");
	if (!content_hash_path(hash, path, cache, &why))
		return true;
	log_warn("%s: a run that is resumed will not notice when it has changed", why.msg);
	return false;
}

/* Independent of the order in which the folder lists its files. */
static bool hash_folder(uint64_t *hash, const char *path, const char *cache)
{
	DIR *d = opendir(path);
	uint64_t one, sum = 0;
	bool some = false;

	for (struct dirent *x; d && (x = readdir(d));) {
		char *inner = file_join(path, x->d_name);
		if (is_of_model(x->d_name) && !file_is_dir(inner) && hash_file(&one, inner, cache)) {
			sum += file_hash(x->d_name, strlen(x->d_name), one);
			some = true;
		}
		free(inner);
	}
	if (d)
		closedir(d);
	*hash = sum;
	return some;
}

struct walk {
	json_t *out;
	struct text settings; /* of rewards */
	char *cache;
};

void inputs_add(json_t *inputs, const char *name, uint64_t hash)
{
	char *hex = mem_printf("%016" PRIx64, hash);

	json_object_set_new(inputs, name, json_string(hex));
	free(hex);
}

/* Of a set of prompts: its files, or what its rewards count. */
static bool is_of_set(const char *key, const char *part)
{
	const char *in =
	    text_starts(key, "prompts.sets.") ? strchr(key + strlen("prompts.sets."), '.') : NULL;

	return in && text_starts(in + 1, part);
}

static void look(void *ctx, const char *key, const char *value)
{
	struct walk *w = ctx;
	const char *in = text_starts(key, "stages.") ? strchr(key + 7, '.') : NULL;
	bool rewards;
	uint64_t hash;

	in = in ? in + 1 : key;
	rewards = text_starts(in, "rewards.");
	if (rewards || is_of_set(in, "rewards."))
		text_printf(&w->settings, "%s=%s\n", key, value);
	if (!*value || !(rewards || !strcmp(in, "prompts.train") || !strcmp(in, "prompts.test") ||
			 is_of_set(in, "train") || is_of_set(in, "test")))
		return;
	if (file_is_dir(value) ? hash_folder(&hash, value, w->cache)
			       : file_exists(value) && hash_file(&hash, value, w->cache))
		inputs_add(w->out, key, hash);
}

json_t *inputs_hash(const struct experiment *x)
{
	struct conf_node *tree = conf_empty();
	struct walk w = { .out = json_object(), .cache = experiment_cache(x) };

	experiment_store(x, tree);
	text_add(&w.settings, "");
	conf_each(tree, look, &w);
	inputs_add(w.out, "rewards", file_hash(w.settings.s, w.settings.n, 0));
	text_free(&w.settings);
	free(w.cache);
	conf_node_free(tree);
	return w.out;
}

void inputs_say(const json_t *then, const json_t *now)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)now, key, v)
	{
		const char *was = json_string_value(json_object_get(then, key));
		if (was && strcmp(was, json_string_value(v)))
			log_warn("%s: %s since the run's checkpoint", key,
				 strcmp(key, "rewards") ? "the file has changed"
							: "their settings have changed");
	}
}
