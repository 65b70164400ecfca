/* lora_raw.c -- the layouts of adapter files, taken apart: prefixes, halves, ranks and alphas. */
#include "models/lora/lora_raw.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Names of tensors ------------------------------------------------------------------------ */

#define PEFT_PREFIX "base_model.model."

/* The first that fits; the last fits all: diffusers' save_lora_adapter() writes module names as they are. */
static const struct prefix {
	const char *s, *layout;
} prefixes[] = {
	{ "transformer." PEFT_PREFIX, "diffusers" },
	{ PEFT_PREFIX, "PEFT" },
	{ "transformer.", "diffusers" },
	{ "diffusion_model.", "ComfyUI" },
	{ "lora_unet_", "kohya" },
	{ "lora_transformer_", "kohya" },
	{ "lycoris_", "kohya" },
	{ "", "diffusers" },
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

static const struct prefix *prefix_of(const char *name)
{
	const struct prefix *p = prefixes;

	while (!text_starts(name, p->s))
		p++;
	return p;
}

/* What a name that is not a plain pair's tells of its file. */
static const struct {
	const char *part, *what;
} others[] = {
	{ "dora_scale", "belongs to DoRA" },
	{ "lora_magnitude_vector", "belongs to DoRA" },
	{ ".magnitude", "belongs to DoRA" },
	{ ".lokr_", "belongs to LoKr" },
	{ ".hada_", "belongs to LoHa" },
	{ ".oft_", "belongs to OFT" },
	{ ".boft_", "belongs to BOFT" },
	{ ".lora_mid", "belongs to LoCon with Tucker's core" },
	{ ".lora_B.bias", "is a bias of LoRA" },
	{ ".lora_bias", "is a bias of LoRA" },
	{ ".diff", "is a change of a whole weight" },
	{ ".vera_", "belongs to VeRA" },
	{ ".scalar", "is a trained scale of LyCORIS" },
};

static const char *of_another_kind(const char *name)
{
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (strstr(name, others[i].part))
			return others[i].what;
	return NULL;
}

static bool of_text(const char *name)
{
	return text_starts(name, "text_encoder") || text_starts(name, "lora_te");
}

static int not_ours(const struct lora_raw *r, const char *name, struct err *e)
{
	const char *kind = of_another_kind(name);

	if (of_text(name))
		return err_set(
		    e,
		    "adapter %s: '%s' changes a text encoder, and only adapters of the transformer "
		    "are supported",
		    r->file.path, name);
	if (kind)
		return err_set(e, "adapter %s: '%s' %s, and only plain LoRA is supported", r->file.path, name,
			       kind);
	return err_set(e, "adapter %s: '%s' is no tensor of a LoRA pair", r->file.path, name);
}

/* Where the half's name begins, or NULL: ".lora_A.weight", also with PEFT's name of the adapter between, as
 * state_dict() has it: ".lora_A.default.weight". */
static const char *find_suffix(const char *name, enum part *part)
{
	for (const struct suffix *k = suffixes; k->s; k++)
		if (text_ends(name, k->s)) {
			*part = k->part;
			return name + strlen(name) - strlen(k->s);
		}
	if (!text_ends(name, ".weight"))
		return NULL;
	const char *own = name + strlen(name) - strlen(".weight"); /* of the adapter's own name */
	while (own > name && own[-1] != '.')
		own--;
	for (int half = 0; half < 2; half++) {
		const char *s = half ? ".lora_B." : ".lora_A.";

		if (own - name > (long)strlen(s) && !strncmp(own - strlen(s), s, strlen(s))) {
			*part = half ? PART_B : PART_A;
			return own - strlen(s);
		}
	}
	return NULL;
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
	int ret = at_numel(t) == 1 && st_known(x) ? 0 : -1;

	if (ret)
		err_set(e, "adapter %s: '%s' is not a single number", r->file.path, x->name);
	else
		*alpha = at_item(at_sum(at_cast(t, AT_F64)));
	at_end(s);
	return ret;
}

static int add(struct lora_raw *r, const struct st_entry *x, struct err *e)
{
	const struct prefix *p = prefix_of(x->name);
	enum part part;
	const char *end = find_suffix(x->name, &part);
	const char *module = x->name + strlen(p->s);
	if (!end || of_text(x->name) || end <= module)
		return not_ours(r, x->name, e);
	if (r->layout && strcmp(r->layout, p->layout) != 0)
		return err_set(e, "adapter %s: '%s' is named as %s does, the tensors before it as %s does",
			       r->file.path, x->name, p->layout, r->layout);
	r->layout = p->layout;

	struct lora_raw_pair *pair = pair_of(r, module, (size_t)(end - module));
	if (part == PART_ALPHA)
		return read_alpha(&pair->size.alpha, r, x, e);
	const struct st_entry **slot = part == PART_A ? &pair->a : &pair->b;
	if (*slot)
		return err_set(e, "adapter %s: '%s' and '%s' are the same half of one pair", r->file.path,
			       (*slot)->name, x->name);
	if (!is_float(x))
		return err_set(e, "adapter %s: '%s' is %s: a weight must be a floating-point number",
			       r->file.path, x->name, st_known(x) ? at_dtype_name(x->dtype) : x->type);
	*slot = x;
	return 0;
}

/* ---- Configurations -------------------------------------------------------------------------- */

/* Before the tensors, by the first one's name: what a configuration says is clearer than a tensor that does
 * not fit.  *config stays NULL where there is none. */
static int read_config(struct lora_raw *r, json_t **config, char **what, struct err *e)
{
	const char *layout = prefix_of(r->file.entry[0].name)->layout;
	const char *meta = st_meta(&r->file, LORA_DIFFUSERS_META);

	if (!strcmp(layout, "PEFT")) {
		char *dir = file_dir(r->file.path);

		*what = file_join(dir, LORA_PEFT_CONFIG);
		free(dir);
		if (!file_exists(*what))
			return err_set(
			    e,
			    "%s: its tensors are named as PEFT does, which keeps ranks and alphas in "
			    "%s: that file is missing",
			    r->file.path, *what);
		*config = lora_peft_read(*what, e);
		return *config ? 0 : -1;
	}
	/* kohya's alphas are tensors, and its names have no dots for patterns to match */
	if (!meta || !strcmp(layout, "kohya"))
		return 0;
	*what = mem_printf("%s: " LORA_DIFFUSERS_META, r->file.path);
	*config = lora_peft_parse(meta, *what, e);
	return *config ? 0 : -1;
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
	json_t *config = NULL;
	char *what = NULL;
	int ret;

	*r = (struct lora_raw) { 0 };
	ret = st_open(&r->file, file, e);
	free(file);
	if (ret)
		return err_in(e, "adapter");
	if (!r->file.n)
		ret = err_set(e, "adapter %s: it holds no tensors", r->file.path);
	if (!ret)
		ret = read_config(r, &config, &what, e);
	for (int i = 0; i < r->file.n && !ret; i++)
		ret = add(r, &r->file.entry[i], e);
	if (!ret && json_object_size(config)) /* {}: of another part of a pipeline */
		ret = lora_peft_apply(r, config, what, e);
	json_decref(config);
	free(what);
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
