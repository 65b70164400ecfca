/* model_files.c -- one st_file from the files of a model folder. */
#include "aten/safetensors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TYPE ".safetensors"

struct layout {
	char *name, *variant; /* variant "": none */
	bool index;
};

/* What stands between prefix and suffix of s, when it may be a variant's name: a copy, or NULL.  Shards have
 * a
 * '-' there. */
static char *between(const char *s, const char *prefix, const char *suffix)
{
	size_t n = strlen(s), p = strlen(prefix), q = strlen(suffix);

	if (n <= p + q || !text_starts(s, prefix) || !text_ends(s, suffix))
		return NULL;
	char *v = mem_printf("%.*s", (int)(n - p - q), s + p);
	if (!strpbrk(v, ".-"))
		return v;
	free(v);
	return NULL;
}

/* Is the file `name` the weights of `stem`, or an index of them? */
static bool read_layout(struct layout *l, const char *name, const char *stem)
{
	static const struct {
		const char *prefix, *suffix;
		bool index;
	} form[] = { { ".", TYPE, false },
		     { TYPE ".index.", ".json", true },
		     { ".", TYPE ".index.json", true } };
	const char *rest = name + strlen(stem);

	*l = (struct layout) { 0 };
	if (!text_starts(name, stem))
		return false;
	if (!strcmp(rest, TYPE) || !strcmp(rest, TYPE ".index.json")) {
		l->variant = mem_str("");
		l->index = strcmp(rest, TYPE) != 0;
	}
	for (size_t i = 0; i < sizeof form / sizeof *form && !l->variant; i++)
		if ((l->variant = between(rest, form[i].prefix, form[i].suffix)))
			l->index = form[i].index;
	if (!l->variant)
		return false;
	l->name = mem_str(name);
	return true;
}

/* Of several layouts of one variant: the index, as diffusers, or the single file, as transformers. */
static void keep_better(struct layout *best, struct layout *l, bool index_first)
{
	bool better = !best->name || (best->index != l->index && l->index == index_first);
	struct layout drop = better ? *best : *l;

	if (better)
		*best = *l;
	free(drop.name);
	free(drop.variant);
}

/* The stem that diffusers saves under; transformers' is "model". */
static bool of_diffusers(const char *stem)
{
	return text_starts(stem, "diffusion_");
}

static int find_layout(struct layout *out, const char *dir, const char *stem, const char *variant,
		       struct err *e)
{
	DIR *d = opendir(dir);
	struct layout plain = { 0 }, other = { 0 }, l;
	bool several = false;
	int ret = 0;

	*out = plain;
	if (!d)
		return err_set(e, "cannot open %s: %s", dir, strerror(errno));
	for (struct dirent *x; (x = readdir(d));) {
		if (!read_layout(&l, x->d_name, stem))
			continue;
		if (variant ? !strcmp(l.variant, variant) : !*l.variant) {
			keep_better(&plain, &l, of_diffusers(stem));
			continue;
		}
		several |= other.name && strcmp(other.variant, l.variant) != 0;
		keep_better(&other, &l, of_diffusers(stem));
	}
	closedir(d);
	if (plain.name || (!variant && other.name && !several))
		*out = plain.name ? plain : other;
	else if (variant)
		ret = err_set(e, "%s: no weights of variant '%s'%s%s%s", dir, variant,
			      other.name ? "; there is " : "", other.name ? other.name : "",
			      other.name ? "" : " (" TYPE " files)");
	else if (several)
		ret = err_set(e, "%s: several variants of the weights and no plain %s" TYPE "; name one", dir,
			      stem);
	else
		ret = err_set(e, "%s: no %s" TYPE " and no index of shards", dir, stem);
	if (out->name != other.name) {
		free(other.name);
		free(other.variant);
	}
	return ret;
}

/* ---- Shards -------------------------------------------------------------------------------------- */

static int open_shard(struct st_file *f, const char *dir, const char *name, const char *index, struct err *e)
{
	struct st_file shard;
	char *path;
	int ret;

	if (!*name || strchr(name, '/') || name[0] == '.')
		return err_set(e, "%s: '%s' is not a file of this folder", index, name);
	path = file_join(dir, name);
	ret = st_open(&shard, path, e);
	free(path);
	if (ret)
		return -1;
	ret = st_merge(f, &shard, e);
	st_close(&shard);
	return ret;
}

/* weight_map of the index: tensor -> file.  Each file once, in the order of first mention. */
static int open_shards(struct st_file *f, const char *dir, const json_t *map, const char *index,
		       struct err *e)
{
	const char *tensor;
	json_t *seen = json_object(), *file;
	int ret = 0;

	json_object_foreach((json_t *)map, tensor, file)
	{
		const char *name = json_string_value(file);
		if (!name)
			ret = err_set(e, "%s: tensor '%s' has no file name", index, tensor);
		else if (!json_object_get(seen, name)) {
			json_object_set_new(seen, name, json_true());
			ret = open_shard(f, dir, name, index, e);
		}
		if (ret)
			break;
	}
	json_decref(seen);
	for (int i = 0; i < f->n && !ret; i++)
		if (!json_object_get(map, f->entry[i].name))
			ret = err_set(e, "%s: tensor '%s' of a shard is not in the index", index,
				      f->entry[i].name);
	json_object_foreach((json_t *)map, tensor, file)
	{
		if (!ret && !st_find(f, tensor))
			ret = err_set(e, "%s: tensor '%s' is not in %s", index, tensor,
				      json_string_value(file));
	}
	return ret;
}

static int open_index(struct st_file *f, const char *dir, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	const json_t *map = json_object_get(o, "weight_map");
	int ret = -1;

	*f = (struct st_file) { .path = mem_str(path) };
	if (o && !json_is_object(map))
		err_set(e, "%s: weight_map is missing", path);
	else if (o)
		ret = open_shards(f, dir, map, path, e);
	json_decref(o);
	if (ret)
		st_close(f);
	return ret;
}

int st_open_model(struct st_file *f, const char *dir, const char *stem, const char *variant, struct err *e)
{
	struct layout l;
	char *path;
	int ret;

	*f = (struct st_file) { 0 };
	if (find_layout(&l, dir, stem, variant, e))
		return -1;
	path = file_join(dir, l.name);
	ret = l.index ? open_index(f, dir, path, e) : st_open(f, path, e);
	free(path);
	free(l.name);
	free(l.variant);
	return ret;
}
