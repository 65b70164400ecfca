/* lora_raw.c -- the layouts of adapter files, taken apart: prefixes, halves, ranks and alphas. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "models/lora/lora_raw.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* ---- Names of tensors ------------------------------------------------------------------------ */

static const struct prefix {
	const char *s, *layout;
} prefixes[] = {
	{ "base_model.model.", "PEFT" },  { "transformer.", "diffusers" }, { "lora_unet_", "kohya" },
	{ "lora_transformer_", "kohya" }, { "diffusion_model.", "kohya" }, { NULL, NULL },
};

enum part { PART_A, PART_B, PART_ALPHA };
static const struct suffix {
	const char *s;
	enum part part;
} suffixes[] = {
	{ ".lora_A.weight", PART_A },    { ".lora_B.weight", PART_B },
	{ ".lora_down.weight", PART_A }, { ".lora_up.weight", PART_B },
	{ ".lora.down.weight", PART_A }, { ".lora.up.weight", PART_B },
	{ ".alpha", PART_ALPHA },        { NULL, PART_A },
};

static int not_ours(const struct lora_raw *r, const char *name, struct err *e)
{
	const char *why = "is no tensor of a LoRA pair";

	if (text_starts(name, "text_encoder") || text_starts(name, "lora_te"))
		why = "changes a text encoder, and only adapters of the transformer are supported";
	else if (text_ends(name, ".dora_scale") || strstr(name, "lora_magnitude_vector"))
		why = "belongs to DoRA, and only plain LoRA is supported";
	return err_set(e, "adapter %s: '%s' %s", r->file.path, name, why);
}

static struct lora_raw_pair *pair_of(struct lora_raw *r, const char *module, size_t n)
{
	for (int i = r->n - 1; i >= 0; i--) /* names are sorted: it is near the end */
		if (strlen(r->pair[i].module) == n && !strncmp(r->pair[i].module, module, n))
			return &r->pair[i];
	MEM_PUSH(r->pair, r->n, r->cap) =
	    (struct lora_raw_pair) { .module = mem_printf("%.*s", (int)n, module), .size = { 0, NAN } };
	return &r->pair[r->n - 1];
}

static bool is_float(const struct st_entry *x)
{
	return x->dtype == AT_F32 || x->dtype == AT_F64 || x->dtype == AT_F16 || x->dtype == AT_BF16;
}

static int read_alpha(double *alpha, const struct lora_raw *r, const struct st_entry *x, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t t = st_get(x);
	int ret = at_numel(t) == 1 ? 0 : -1;

	if (ret)
		err_set(e, "adapter %s: '%s' is not a single number", r->file.path, x->name);
	else
		*alpha = at_item(at_sum(at_cast(t, AT_F64)));
	at_end(s);
	return ret;
}

static int add(struct lora_raw *r, const struct st_entry *x, struct err *e)
{
	const struct prefix *p = prefixes;
	const struct suffix *k = suffixes;

	while (p->s && !text_starts(x->name, p->s))
		p++;
	while (k->s && !text_ends(x->name, k->s))
		k++;
	if (!p->s || !k->s || strlen(x->name) <= strlen(p->s) + strlen(k->s))
		return not_ours(r, x->name, e);
	if (r->layout && strcmp(r->layout, p->layout))
		return err_set(e, "adapter %s: '%s' is named as %s does, the tensors before it as %s does",
			       r->file.path, x->name, p->layout, r->layout);
	r->layout = p->layout;

	struct lora_raw_pair *pair =
	    pair_of(r, x->name + strlen(p->s), strlen(x->name) - strlen(p->s) - strlen(k->s));
	if (k->part == PART_ALPHA)
		return read_alpha(&pair->size.alpha, r, x, e);
	const struct st_entry **slot = k->part == PART_A ? &pair->a : &pair->b;
	if (*slot)
		return err_set(e, "adapter %s: '%s' and '%s' are the same half of one pair", r->file.path,
			       (*slot)->name, x->name);
	if (!is_float(x))
		return err_set(e, "adapter %s: '%s' is %s: a weight must be a floating-point number",
			       r->file.path, x->name, at_dtype_name(x->dtype));
	*slot = x;
	return 0;
}

/* ---- PEFT's configuration -------------------------------------------------------------------- */

static bool is_empty(const json_t *v)
{
	return !v || json_is_null(v) || json_is_false(v) || (json_is_object(v) && !json_object_size(v)) ||
	       (json_is_array(v) && !json_array_size(v)) ||
	       (json_is_string(v) && !strcmp(json_string_value(v), "none"));
}

/* What would change the formula W x + (alpha / r) B A x, or the modules' own weights. */
static int check_features(const json_t *o, const char *what, struct err *e)
{
	static const char *const keys[] = { "bias",       "lora_bias",  "fan_in_fan_out", "use_dora",
					    "use_qalora", "use_bdlora", "arrow_config",   "modules_to_save" };

	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (!is_empty(json_object_get(o, keys[i])))
			return err_set(e, "%s: %s is set, which is not supported: only plain LoRA is", what,
				       keys[i]);
	return 0;
}

/* As PEFT matches: the whole name, or what follows one of its dots, against a regular expression. */
static int pattern_matches(bool *yes, const char *pattern, const char *module, const char *what,
			   struct err *e)
{
	char *full = mem_printf("(.*\\.)?(%s)$", pattern);
	int code;
	PCRE2_SIZE at;
	pcre2_code *re =
	    pcre2_compile((PCRE2_SPTR)full, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED, &code, &at, NULL);

	free(full);
	if (!re)
		return err_set(e, "%s: '%s' is not a regular expression", what, pattern);
	pcre2_match_data *match = pcre2_match_data_create_from_pattern(re, NULL);
	*yes = pcre2_match(re, (PCRE2_SPTR)module, PCRE2_ZERO_TERMINATED, 0, 0, match, NULL) > 0;
	pcre2_match_data_free(match);
	pcre2_code_free(re);
	return 0;
}

/* The module's value in {regular expression: number, ...}; *out stays where none matches. */
static int from_pattern(double *out, json_t *o, const char *key, const char *module, const char *what,
			struct err *e)
{
	json_t *patterns = json_object_get(o, key), *v;
	const char *pattern;
	bool yes = false;

	if (!is_empty(patterns) && !json_is_object(patterns))
		return err_set(e, "%s: %s is not an object", what, key);
	json_object_foreach(patterns, pattern, v)
	{
		if (!json_is_number(v))
			return err_set(e, "%s: %s: the value of '%s' is not a number", what, key, pattern);
		if (pattern_matches(&yes, pattern, module, what, e))
			return -1;
		if (yes) {
			*out = json_number_value(v);
			return 0;
		}
	}
	return 0;
}

/* Ranks and alphas by PEFT's configuration `o`, said to be in `what`. */
static int configure(struct lora_raw *r, json_t *o, const char *what, struct err *e)
{
	int64_t rank;
	double alpha;
	bool stable;

	if (json_get_int(&rank, o, "r", 0, what, e) || json_get_real(&alpha, o, "lora_alpha", 8, what, e) ||
	    json_get_bool(&stable, o, "use_rslora", false, what, e) || check_features(o, what, e))
		return -1;
	if (rank < 1)
		return err_set(e, "%s: r (the rank) must be a whole number above 0", what);
	for (int i = 0; i < r->n; i++) {
		struct lora_raw_pair *p = &r->pair[i];
		double own_rank = (double)rank, own_alpha = alpha;

		if (from_pattern(&own_rank, o, "rank_pattern", p->module, what, e) ||
		    from_pattern(&own_alpha, o, "alpha_pattern", p->module, what, e))
			return -1;
		if (!(own_rank >= 1) || own_rank != floor(own_rank) || own_rank > 1e6)
			return err_set(e, "%s: rank_pattern: the rank of %s is %g", what, p->module,
				       own_rank);
		/* rank-stabilised: the scale is alpha / sqrt(r) */
		p->size =
		    (struct lora_size) { (int64_t)own_rank, stable ? own_alpha * sqrt(own_rank) : own_alpha };
	}
	return 0;
}

static int peft_config(struct lora_raw *r, struct err *e)
{
	char *dir = file_dir(r->file.path), *path = file_join(dir, LORA_PEFT_CONFIG);
	json_t *o = json_read(path, e);
	const char *type = NULL;
	int ret = -1;

	if (o && !json_get_str(&type, o, "peft_type", "", path, e)) {
		if (strcmp(type, "LORA"))
			err_set(e, "%s: peft_type is '%s': only LORA is supported", path, type);
		else
			ret = configure(r, o, path, e);
	}
	json_decref(o);
	free(dir);
	free(path);
	return ret;
}

/* diffusers keeps the same keys in the file's metadata, each behind "transformer.". */
static int diffusers_config(struct lora_raw *r, const char *text, struct err *e)
{
	static const char prefix[] = "transformer.";
	char *what = mem_printf("%s: " LORA_DIFFUSERS_META, r->file.path);
	json_t *all = json_parse(text, strlen(text), what, e), *o = json_object(), *v;
	const char *key;
	int ret = all ? 0 : -1;

	json_object_foreach(all, key, v)
	{
		if (text_starts(key, prefix))
			json_object_set(o, key + strlen(prefix), v);
	}
	if (!ret)
		ret = configure(r, o, what, e);
	json_decref(all);
	json_decref(o);
	free(what);
	return ret;
}

/* Ranks as the tensors have them, and alpha = rank where the file says nothing: a scale of 1. */
static void guess(struct lora_raw *r)
{
	for (int i = 0; i < r->n; i++) {
		struct lora_raw_pair *p = &r->pair[i];
		const struct st_entry *x = p->a ? p->a : p->b;

		if (!p->size.rank && x && x->shape.n)
			p->size.rank = x->shape.d[p->a ? 0 : x->shape.n - 1];
		if (isnan(p->size.alpha))
			p->size.alpha = (double)p->size.rank;
	}
}

/* ---- Opening --------------------------------------------------------------------------------- */

bool lora_raw_is(const char *path)
{
	return file_is_dir(path)
		   ? file_is_in(path, LORA_PEFT_CONFIG) || file_is_in(path, LORA_DIFFUSERS_WEIGHTS)
		   : text_ends(path, ".safetensors") && file_exists(path);
}

int lora_raw_open(struct lora_raw *r, const char *path, struct err *e)
{
	bool diffusers = file_is_in(path, LORA_DIFFUSERS_WEIGHTS) && !file_is_in(path, LORA_PEFT_CONFIG);
	char *file = !file_is_dir(path)
			 ? mem_str(path)
			 : file_join(path, diffusers ? LORA_DIFFUSERS_WEIGHTS : LORA_PEFT_WEIGHTS);
	int ret;

	*r = (struct lora_raw) { 0 };
	ret = st_open(&r->file, file, e);
	free(file);
	if (ret)
		return err_in(e, "adapter");
	if (!r->file.n)
		ret = err_set(e, "adapter %s: it holds no tensors", r->file.path);
	for (int i = 0; i < r->file.n && !ret; i++)
		ret = add(r, &r->file.entry[i], e);
	const char *meta = st_meta(&r->file, LORA_DIFFUSERS_META);
	if (!ret && !strcmp(r->layout, "PEFT"))
		ret = peft_config(r, e);
	else if (!ret && !strcmp(r->layout, "diffusers") && meta)
		ret = diffusers_config(r, meta, e);
	if (ret)
		lora_raw_close(r);
	else
		guess(r);
	return ret;
}

void lora_raw_close(struct lora_raw *r)
{
	for (int i = 0; i < r->n; i++)
		free(r->pair[i].module);
	free(r->pair);
	st_close(&r->file);
	*r = (struct lora_raw) { 0 };
}
