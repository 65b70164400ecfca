/* lora_peft.c -- what PEFT's configuration says of a file's pairs, in adapter_config.json or in metadata. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/file.h"
#include "base/mem.h"
#include "models/known_keys.h"
#include "models/lora/lora_file.h"
#include "models/lora/lora_raw.h"
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

static bool is_empty(const json_t *v)
{
	return !v || json_is_null(v) || (json_is_object(v) && !json_object_size(v));
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

int lora_peft_apply(struct lora_raw *r, json_t *o, const char *what, struct err *e)
{
	int64_t rank;
	double alpha;
	bool stable;

	if (json_get_int(&rank, o, "r", 0, what, e) || json_get_real(&alpha, o, "lora_alpha", 8, what, e) ||
	    json_get_bool(&stable, o, "use_rslora", false, what, e))
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

/* PiSSA and its kin: the usual values of init_lora_weights only say where training began. */
static int check_start(const json_t *o, const char *what, struct err *e)
{
	static const char *const others[] = { "pissa", "olora", "corda", "loftq", "lora_ga" };
	const char *init = json_string_value(json_object_get(o, "init_lora_weights"));

	for (size_t i = 0; init && i < sizeof others / sizeof *others; i++)
		if (!strncasecmp(init, others[i], strlen(others[i])))
			return err_set(e,
				       "%s: init_lora_weights is '%.40s': PEFT takes the adapter's start out "
				       "of the base "
				       "weights, which is not done here; save it with PEFT's "
				       "path_initial_model_for_weight_conversion",
				       what, init);
	return 0;
}

int lora_peft_check(const json_t *o, const char *what, struct err *e)
{
	const char *type;

	if (json_get_str(&type, o, "peft_type", "LORA", what, e))
		return -1;
	if (strcmp(type, "LORA") != 0)
		return err_set(e, "%s: peft_type is '%.40s': only LORA is supported", what, type);
	return check_start(o, what, e) || json_check_keys(o, known_lora, NULL, what, e) ? -1 : 0;
}

json_t *lora_peft_read(const char *path, struct err *e)
{
	json_t *o = json_read(path, e);

	if (o && lora_peft_check(o, path, e)) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* A key of another part of a pipeline, "text_encoder.r": PEFT's own have no dots. */
static bool of_a_part(const char *key)
{
	return strchr(key, '.') != NULL;
}

json_t *lora_peft_parse(const char *text, const char *what, struct err *e)
{
	static const char prefix[] = "transformer.";
	json_t *all = json_parse(text, strlen(text), what, e), *o = json_object(), *v;
	const char *key;
	bool bare = true;

	if (all && !json_is_object(all)) {
		err_set(e, "%s is not an object", what);
		json_decref(all);
		all = NULL;
	}
	json_object_foreach(all, key, v)
	{
		if (of_a_part(key))
			bare = false;
	}
	json_object_foreach(all, key, v)
	{
		if (bare)
			json_object_set(o, key, v);
		else if (text_starts(key, prefix))
			json_object_set(o, key + strlen(prefix), v);
	}
	bool fine = all && !lora_peft_check(o, what, e);
	json_decref(all);
	if (fine)
		return o;
	json_decref(o);
	return NULL;
}
