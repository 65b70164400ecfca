/* lora_save.c -- adapters written for PEFT, for diffusers, and for sd-scripts and ComfyUI. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include "models/lora/lora_names.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- PEFT's configuration -------------------------------------------------------------------- */

/* What a file says of pair i.  Folded: the scale is in B, and alpha = rank is what a reader that knows of no
 * alpha takes it for. */
static struct lora_size said(const struct lora *l, int i, bool folded)
{
	struct lora_size s = l->pair[i].size;

	return folded ? (struct lora_size) { s.rank, (double)s.rank } : s;
}

/* The rank and alpha of most pairs (of equals the first), written once; the others get patterns. */
static struct lora_size commonest(const struct lora *l, bool folded)
{
	struct lora_size best = { 0 };
	int most = 0;

	for (int i = 0; i < l->n; i++) {
		struct lora_size s = said(l, i, folded);
		int n = 0;

		for (int k = 0; k < l->n; k++)
			n += said(l, k, folded).rank == s.rank && said(l, k, folded).alpha == s.alpha;
		if (n > most) {
			most = n;
			best = s;
		}
	}
	return best;
}

static json_t *number(double v)
{
	return v == floor(v) && fabs(v) < 1e15 ? json_integer((json_int_t)v) : json_number(v);
}

static json_t *config(const struct lora *l, bool folded)
{
	json_t *o = json_object(), *targets = json_array(), *ranks = json_object(), *alphas = json_object();
	struct lora_size most = commonest(l, folded);

	/* whole names: PEFT then matches exactly these, whatever else the model has */
	for (int i = 0; i < l->n; i++) {
		struct lora_size s = said(l, i, folded);

		json_array_append_new(targets, json_string(lora_module(l, i)));
		if (s.rank != most.rank)
			json_object_set_new(ranks, lora_module(l, i), json_integer(s.rank));
		if (s.alpha != most.alpha)
			json_object_set_new(alphas, lora_module(l, i), number(s.alpha));
	}
	json_object_set_new(o, "peft_type", json_string("LORA"));
	json_object_set_new(o, "r", json_integer(most.rank));
	json_object_set_new(o, "lora_alpha", number(most.alpha));
	json_object_set_new(o, "target_modules", targets);
	json_object_set_new(o, "init_lora_weights", json_true());
	json_object_set_new(o, "lora_dropout", json_number(0));
	json_object_set_new(o, "bias", json_string("none"));
	json_object_set_new(o, "fan_in_fan_out", json_false());
	json_object_set_new(o, "inference_mode", json_true());
	json_object_set_new(o, "rank_pattern", ranks);
	json_object_set_new(o, "alpha_pattern", alphas);
	json_object_set_new(o, "task_type", json_null());
	json_object_set_new(o, "modules_to_save", json_null());
	json_object_set_new(o, "base_model_name_or_path", json_null());
	return o;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

/* A growing list of tensors to write, with names of its own. */
struct items {
	struct st_item *v;
	int n, cap;
};

static void push(struct items *out, char *name, at_t t)
{
	MEM_PUSH(out->v, out->n, out->cap) = (struct st_item) { name, t };
}

static void items_free(struct items *out)
{
	for (int i = 0; i < out->n; i++)
		free((char *)(uintptr_t)out->v[i].name);
	free(out->v);
}

static void push_pairs(struct items *out, const struct lora *l, const char *prefix, bool folded,
		       enum at_dtype dt)
{
	for (int i = 0; i < l->n; i++) {
		struct lora_size s = l->pair[i].size;
		at_t b_OR = l->pair[i].b_OR;

		if (folded && s.alpha != (double)s.rank)
			b_OR = at_mul(b_OR, s.alpha / (double)s.rank);
		push(out, mem_printf("%s%s.lora_A.weight", prefix, lora_module(l, i)),
		     at_cast(l->pair[i].a_RI, dt));
		push(out, mem_printf("%s%s.lora_B.weight", prefix, lora_module(l, i)), at_cast(b_OR, dt));
	}
}

/* diffusers keeps alphas in metadata, which its older versions and ComfyUI do not read: no file of theirs
 * says another scale than 1. */
static int write_diffusers(const struct lora *l, const char *path, enum at_dtype dt, struct err *e)
{
	json_t *from = config(l, true), *to = json_object(), *v;
	struct items out = { 0 };
	const char *key;
	int ret;

	json_object_foreach(from, key, v)
	{
		char *name = mem_printf("transformer.%s", key);

		json_object_set(to, name, v);
		free(name);
	}
	char *text = json_line(to);
	struct st_meta_item meta[] = { { "format", "pt" }, { LORA_DIFFUSERS_META, text } };

	push_pairs(&out, l, "transformer.", true, dt);
	ret = st_write(path, out.v, out.n, meta, 2, e);
	items_free(&out);
	free(text);
	json_decref(from);
	json_decref(to);
	return ret;
}

/* One pair of kohya's layout. */
static void push_pair(struct items *out, const char *name, at_t a_RI, at_t b_OR, double alpha,
		      enum at_dtype dt)
{
	push(out, mem_printf("lora_unet_%s.lora_down.weight", name), at_cast(a_RI, dt));
	push(out, mem_printf("lora_unet_%s.lora_up.weight", name), at_cast(b_OR, dt));
	/* float32 always: 16 bits would round an alpha of, say, 513 */
	push(out, mem_printf("lora_unet_%s.alpha", name), at_scalar(alpha, AT_F32, AT_CPU));
}

/* The pairs of a site whose modules have the same names there. */
static void push_parts(struct items *out, const struct lora *l, int site, enum at_dtype dt)
{
	for (int part = 0; part < l->net->site[site].parts; part++) {
		int i = l->at[site * NN_PARTS + part];

		if (i < 0)
			continue;
		char *name = lora_underscored(lora_module(l, i));
		push_pair(out, name, l->pair[i].a_RI, l->pair[i].b_OR, l->pair[i].size.alpha, dt);
		free(name);
	}
}

/* All parts of an original module as one pair of it, with one alpha. */
static int push_fused(struct items *out, const struct lora *l, const struct lora_run *r, enum at_dtype dt,
		      struct err *e)
{
	at_t a_RI, b_OR;

	if (!l->net->names && l->net->trainer) {
		push_parts(out, l, r->first, dt);
		return 0;
	}
	if (!r->name)
		return err_set(e, "adapter: kohya's layout has no name for %s",
			       l->net->site[r->first].name[0]);
	double scale = lora_stack_run(l, r->first, r->sites, &a_RI, &b_OR);

	push_pair(out, r->name, a_RI, r->swap ? lora_swap_halves(b_OR) : b_OR,
		  scale * (double)at_size(a_RI, 0), dt);
	return 0;
}

static bool touches_any(const struct lora *l, const struct lora_run *r)
{
	for (int i = r->first; i < r->first + r->sites; i++)
		if (lora_touches(l, i))
			return true;
	return false;
}

static int write_kohya(const struct lora *l, const char *path, enum at_dtype dt, struct err *e)
{
	struct items out = { 0 };
	struct lora_size most = commonest(l, false);
	char *dim = mem_printf("%lld", (long long)most.rank), *alpha = mem_printf("%.9g", most.alpha);
	struct st_meta_item meta[] = { { "format", "pt" },
				       { "ss_network_module", l->net->trainer },
				       { "ss_network_dim", dim },
				       { "ss_network_alpha", alpha } };
	int ret = 0;

	for (int i = 0; i < l->net->n_site && !ret;) {
		struct lora_run r = lora_run_of(l->net, i);

		if (touches_any(l, &r))
			ret = push_fused(&out, l, &r, dt, e);
		i += r.sites;
		free(r.name);
	}
	if (!ret)
		ret = st_write(path, out.v, out.n, meta, 4, e);
	items_free(&out);
	free(dim);
	free(alpha);
	return ret;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static int write_peft(const struct lora *l, const char *dir, enum at_dtype dt, struct err *e)
{
	char *temp;

	if (file_begin_tree(&temp, dir, e))
		return -1;
	char *config_path = file_join(temp, LORA_PEFT_CONFIG), *weights = file_join(temp, LORA_PEFT_WEIGHTS);
	struct st_meta_item meta = { "format", "pt" };
	struct items out = { 0 };
	json_t *o = config(l, false);
	struct err ignored;

	push_pairs(&out, l, "base_model.model.", false, dt);
	int ret = st_write(weights, out.v, out.n, &meta, 1, e) || json_write(config_path, o, e) ||
			  file_sync_tree(temp, e) || file_rename_synced(temp, dir, e)
		      ? -1
		      : 0;
	if (ret)
		file_remove_tree(temp, &ignored);
	items_free(&out);
	json_decref(o);
	free(config_path);
	free(weights);
	free(temp);
	return ret;
}

int lora_export(const struct lora *l, enum lora_layout layout, const char *path, enum at_dtype dt,
		struct err *e)
{
	static int (*const write[])(const struct lora *, const char *, enum at_dtype, struct err *) = {
		[LORA_PEFT] = write_peft, [LORA_DIFFUSERS] = write_diffusers, [LORA_KOHYA] = write_kohya
	};
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int ret;

	if (file_exists(path) || file_is_dir(path))
		ret = err_set(e, "%s exists already: remove it or choose another name", path);
	else
		ret = write[layout](l, path, dt, e);
	if (ret)
		err_in(e, "adapter");
	at_end(s);
	return ret;
}

int lora_save(const struct lora *l, const char *dir, struct err *e)
{
	return lora_export(l, LORA_PEFT, dir, AT_F32, e);
}
