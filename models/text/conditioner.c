#include "models/text/conditioner.h"
#include "base/mem.h"
#include "models/text/text_cache.h"
#include <stdlib.h>

struct conditioner {
	const struct text_encoder_type *type;
	struct text_options options;
	char *dir;
	void *state; /* NULL: closed */
	bool cached;
	struct text_cache cache;
};

static int wake(struct conditioner *c, struct err *e)
{
	return c->state ? 0 : c->type->open(&c->state, &c->options, e);
}

int conditioner_open(struct conditioner **out, const struct text_encoder_type *type,
		     const struct text_options *o, const char *cache, const uint64_t *known, struct err *e)
{
	struct conditioner *c = mem_zero(1, sizeof *c);
	uint64_t hash;
	int ret;

	*c = (struct conditioner) { .type = type, .options = *o, .dir = mem_str(o->dir) };
	c->options.dir = c->dir;
	c->options.hashes = NULL; /* of no use later */
	if (cache && type->hash) {
		hash = known ? *known : 0;
		ret = (!known && type->hash(&hash, o, e)) ||
			      text_cache_open(&c->cache, cache, hash, o->dtype, o->device, e)
			  ? -1
			  : 0;
		c->cached = !ret;
	} else {
		ret = wake(c, e);
	}
	if (ret)
		conditioner_close(c);
	else
		*out = c;
	return ret;
}

void conditioner_close(struct conditioner *c)
{
	if (!c)
		return;
	if (c->state)
		c->type->close(c->state);
	text_cache_close(&c->cache);
	free(c->dir);
	free(c);
}

void conditioner_rest(struct conditioner *c)
{
	if (c->cached && c->state) {
		c->type->close(c->state);
		c->state = NULL;
	}
}

/* One prompt by the encoder, and into the cache. */
static int make(struct conditioner *c, const char *prompt, struct cond *row, struct err *e)
{
	if (wake(c, e) || c->type->encode(c->state, &prompt, 1, row, e))
		return -1;
	return c->cached ? text_cache_put(&c->cache, prompt, row, e) : 0;
}

int conditioner_encode(struct conditioner *c, const char *const *prompts, int n, struct cond *out,
		       struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond *row = mem_zero((size_t)n, sizeof *row);
	int ret = 0;

	for (int i = 0; i < n && !ret; i++)
		if (!c->cached || !text_cache_get(&c->cache, prompts[i], &row[i]))
			ret = make(c, prompts[i], &row[i], e);
	if (!ret) {
		*out = cond_cat(row, n);
		cond_escape(s, out);
	}
	free(row);
	at_end(s);
	return ret;
}

int conditioner_encode_negative(struct conditioner *c, const char *prompt, struct cond *out, struct err *e)
{
	char *marked = mem_printf("%s%s", c->type->marks_negative ? TEXT_NEGATIVE : "", prompt);
	int ret = conditioner_encode(c, (const char *const[]) { marked }, 1, out, e);

	free(marked);
	return ret;
}

int64_t conditioner_missing(const struct conditioner *c, const char *const *prompts, int64_t n, int64_t share,
			    int64_t shares, int64_t *out)
{
	int64_t missing = 0;

	for (int64_t i = share; i < n; i += shares)
		if (!c->cached || !text_cache_has(&c->cache, prompts[i]))
			out[missing++] = i;
	return missing;
}

int conditioner_make(struct conditioner *c, const char *prompt, struct conditioner_size *size, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct cond row = { 0 };
	int ret = 0;

	/* the same text may have come twice */
	if (size || !c->cached || !text_cache_has(&c->cache, prompt))
		ret = make(c, prompt, &row, e);
	if (!ret && size) {
		*size = (struct conditioner_size) { 0 };
		for (int i = 0; i < row.n; i++)
			size->plain += (double)at_numel(row.part[i].rows) *
				       (double)at_dtype_size(at_dtype_of(row.part[i].rows));
		size->stored = c->cached ? text_cache_bytes(&c->cache, prompt) : 0;
	}
	at_end(s);
	return ret;
}

const char *conditioner_space(const struct conditioner *c, double *bytes)
{
	return c->cached ? text_cache_space(&c->cache, bytes) : NULL;
}
