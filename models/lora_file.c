/* lora_file.c -- adapters as PEFT keeps them: adapter_config.json and adapter_model.safetensors in one
 * folder. */
#include "models/lora.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX "base_model.model."

static const char *const pair_suffix[2] = { ".lora_A.weight", ".lora_B.weight" };

static const char *module(const struct nn_net *net, int site, int part)
{
	return net->site[site].name[part];
}

/* ---- Saving ---------------------------------------------------------------------------------- */

static json_t *config(const struct lora *l)
{
	json_t *o = json_object(), *targets = json_array();
	double whole = floor(l->alpha);

	/* whole names: PEFT then matches exactly these, whatever else the model has */
	for (int i = 0; i < l->n; i++)
		json_array_append_new(targets, json_string(module(l->net, l->pair[i].site, l->pair[i].part)));
	json_object_set_new(o, "peft_type", json_string("LORA"));
	json_object_set_new(o, "r", json_integer(l->rank));
	json_object_set_new(o, "lora_alpha",
			    l->alpha == whole ? json_integer((json_int_t)whole) : json_real(l->alpha));
	json_object_set_new(o, "target_modules", targets);
	json_object_set_new(o, "init_lora_weights", json_true());
	json_object_set_new(o, "lora_dropout", json_real(0));
	json_object_set_new(o, "bias", json_string("none"));
	json_object_set_new(o, "fan_in_fan_out", json_false());
	json_object_set_new(o, "inference_mode", json_true());
	json_object_set_new(o, "rank_pattern", json_object());
	json_object_set_new(o, "alpha_pattern", json_object());
	json_object_set_new(o, "task_type", json_null());
	json_object_set_new(o, "modules_to_save", json_null());
	json_object_set_new(o, "base_model_name_or_path", json_null());
	return o;
}

static int save_weights(const struct lora *l, const char *path, struct err *e)
{
	struct st_item *item = mem_zero((size_t)(2 * l->n), sizeof *item);
	struct st_meta_item meta = { "format", "pt" };
	char **name = mem_zero((size_t)(2 * l->n), sizeof *name);
	int ret;

	for (int i = 0; i < 2 * l->n; i++) {
		const struct lora_pair *p = &l->pair[i / 2];

		name[i] = mem_printf(PREFIX "%s%s", module(l->net, p->site, p->part), pair_suffix[i % 2]);
		item[i] = (struct st_item) { name[i], i % 2 ? p->b_OR : p->a_RI };
	}
	ret = st_write(path, item, 2 * l->n, &meta, 1, e);
	for (int i = 0; i < 2 * l->n; i++)
		free(name[i]);
	free(name);
	free(item);
	return ret;
}

int lora_save(const struct lora *l, const char *dir, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	char *temp = mem_printf("%s.tmp-%ld", dir, (long)getpid());
	char *config_path = file_join(temp, "adapter_config.json");
	char *weights_path = file_join(temp, "adapter_model.safetensors");
	json_t *o = config(l);
	struct err ignored;
	int ret = -1;

	if (file_exists(dir) || file_is_dir(dir)) {
		err_set(e, "%s is there already: remove it or choose another name", dir);
		goto out;
	}
	ret = file_mkdirs(temp, e) || save_weights(l, weights_path, e) || json_write(config_path, o, e) ||
		      file_sync_tree(temp, e) || file_rename_synced(temp, dir, e)
		  ? -1
		  : 0;
	if (ret)
		file_remove_tree(temp, &ignored);
out:
	if (ret)
		err_in(e, "adapter");
	json_decref(o);
	free(config_path);
	free(weights_path);
	free(temp);
	at_end(s);
	return ret;
}

/* ---- Loading --------------------------------------------------------------------------------- */

static bool is_empty(const json_t *v)
{
	return !v || json_is_null(v) || json_is_false(v) || (json_is_object(v) && !json_object_size(v)) ||
	       (json_is_array(v) && !json_array_size(v)) ||
	       (json_is_string(v) && !strcmp(json_string_value(v), "none"));
}

/* What would change the formula W x + (alpha / r) B A x, or the modules' own weights. */
static int check_features(const json_t *o, const char *path, struct err *e)
{
	static const char *const keys[] = { "rank_pattern",   "alpha_pattern", "bias",           "lora_bias",
					    "fan_in_fan_out", "use_rslora",    "use_dora",       "use_qalora",
					    "use_bdlora",     "arrow_config",  "modules_to_save" };

	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		const json_t *v = json_object_get(o, keys[i]);

		if (!is_empty(v))
			return err_set(
			    e, "%s: %s is set, which is not supported: only plain LoRA with one rank is",
			    path, keys[i]);
	}
	return 0;
}

static int read_config(const char *dir, int64_t *rank, double *alpha, struct err *e)
{
	char *path = file_join(dir, "adapter_config.json");
	json_t *o = json_read(path, e);
	const char *type = NULL;
	int ret = -1;

	if (!o || json_get_str(&type, o, "peft_type", "", path, e) ||
	    json_get_int(rank, o, "r", 0, path, e) || json_get_real(alpha, o, "lora_alpha", 8, path, e) ||
	    check_features(o, path, e))
		goto out;
	if (strcmp(type, "LORA"))
		err_set(e, "%s: peft_type is '%s': only LORA is supported", path, type);
	else if (*rank < 1)
		err_set(e, "%s: r (the rank) must be a whole number above 0", path);
	else
		ret = 0;
out:
	json_decref(o);
	free(path);
	return ret;
}

/* The entry of one half of a module's pair, or NULL. */
static const struct st_entry *find_half(const struct st_file *f, const char *name, int half)
{
	char *key = mem_printf(PREFIX "%s%s", name, pair_suffix[half]);
	const struct st_entry *x = st_find(f, key);

	free(key);
	return x;
}

static int check_half(const struct st_file *f, const struct st_entry *x, const char *name, int64_t rank,
		      int64_t out, int64_t in, int half, struct err *e)
{
	const struct at_dims *d = &x->shape;

	if (d->n != 2)
		return err_set(e, "adapter %s: '%s' has %d dimensions, not 2", f->path, x->name, d->n);
	if (d->d[half] != rank)
		return err_set(e,
			       "adapter %s has rank %lld for %s of shape [%lld, %lld], and "
			       "adapter_config.json says r = %lld",
			       f->path, (long long)d->d[half], name, (long long)out, (long long)in,
			       (long long)rank);
	if (d->d[1 - half] != (half ? out : in))
		return err_set(
		    e, "adapter %s has rank %lld for %s of shape [%lld, %lld], but its '%s' is [%lld, %lld]",
		    f->path, (long long)rank, name, (long long)out, (long long)in, x->name,
		    (long long)d->d[0], (long long)d->d[1]);
	if (x->dtype != AT_F32 && x->dtype != AT_F64 && x->dtype != AT_F16 && x->dtype != AT_BF16)
		return err_set(e, "adapter %s: '%s' is %s: a weight must be a floating-point number", f->path,
			       x->name, at_dtype_name(x->dtype));
	return 0;
}

/* Is `key` one half of the pair of this module? */
static bool is_half_of(const char *key, const char *name)
{
	size_t n = strlen(name);

	if (!text_starts(key, PREFIX) || strncmp(key + strlen(PREFIX), name, n) != 0)
		return false;
	key += strlen(PREFIX) + n;
	return !strcmp(key, pair_suffix[0]) || !strcmp(key, pair_suffix[1]);
}

/* Every tensor belongs to a module that can have a pair. */
static int check_names(const struct nn_net *net, const struct st_file *f, struct err *e)
{
	if (!f->n)
		return err_set(e, "adapter %s: it holds no tensors", f->path);
	for (int i = 0; i < f->n; i++) {
		bool ours = false;

		for (int k = 0; k < net->n_site && !ours; k++)
			for (int part = 0; part < net->site[k].parts && !ours; part++)
				ours = is_half_of(f->entry[i].name, module(net, k, part));
		if (!ours)
			return err_set(e, "adapter %s: '%s' is for no linear module of this transformer",
				       f->path, f->entry[i].name);
	}
	return 0;
}

/* Which modules the file has pairs for, all complete and of the right shape. */
static int choose(bool *chosen, const struct nn_net *net, const struct st_file *f, int64_t rank,
		  struct err *e)
{
	for (int i = 0; i < net->n_site * NN_PARTS; i++) {
		const struct nn_site *site = &net->site[i / NN_PARTS];
		int part = i % NN_PARTS;
		const char *name = part < site->parts ? site->name[part] : NULL;

		for (int h = 0; h < 2 && name; h++) {
			const struct st_entry *x = find_half(f, name, h), *other = find_half(f, name, 1 - h);

			if (!x && other)
				return err_set(e, "adapter %s: '" PREFIX "%s%s' is missing", f->path, name,
					       pair_suffix[h]);
			if (x && check_half(f, x, name, rank, site->row[part + 1] - site->row[part], site->in,
					    h, e))
				return -1;
			chosen[i] = x != NULL;
		}
	}
	return 0;
}

static void fill(struct lora *l, const struct st_file *f)
{
	for (int i = 0; i < l->n; i++) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		const char *name = module(l->net, l->pair[i].site, l->pair[i].part);

		at_copy_(l->pair[i].a_RI, st_get(find_half(f, name, 0)));
		at_copy_(l->pair[i].b_OR, st_get(find_half(f, name, 1)));
		at_end(s);
	}
}

int lora_load(struct lora *l, const struct nn_net *net, const char *dir, enum at_device dev, struct err *e)
{
	bool *chosen = mem_zero((size_t)(net->n_site * NN_PARTS), sizeof *chosen);
	char *path = file_join(dir, "adapter_model.safetensors");
	struct st_file f = { 0 };
	bool open = false;
	int64_t rank = 0;
	double alpha = 0;
	int ret = -1;

	*l = (struct lora) { 0 };
	if (read_config(dir, &rank, &alpha, e) || st_open(&f, path, e))
		goto out;
	open = true;
	if (check_names(net, &f, e) || choose(chosen, net, &f, rank, e))
		goto out;
	lora_lay_out(l, net, chosen, rank, alpha, dev);
	fill(l, &f);
	ret = 0;
out:
	if (open)
		st_close(&f);
	free(path);
	free(chosen);
	return ret;
}
