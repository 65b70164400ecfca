#include "sampler/replay.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/lora/lora.h"
#include <stdlib.h>
#include <string.h>

#define MOST 32 /* forwards that are remembered: a batch, the last and smaller one, a few sets of weights */

/* What f of the graph is a function of, beyond tensors. */
struct forward {
	const struct sampler *sampler;
	struct pass pass;
	struct cond_shape cond;
};
struct replay {
	struct at_dims x;
	struct cond_shape cond;
	const struct lora_merged *merged;
	const struct fp8_weights *fp8;
	at_t *w; /* merged->w as it was, all its lists */
	int n_w;
	struct at_graph *graph;
	bool told;
};
struct replays {
	struct replay v[MOST];
	int n;
	int64_t replayed;
};

struct replays *replays_new(void)
{
	return mem_zero(1, sizeof(struct replays));
}

void replays_free(struct replays *r)
{
	for (int i = 0; r && i < r->n; i++) {
		at_graph_free(r->v[i].graph);
		free(r->v[i].w);
	}
	free(r);
}

static bool same_weights(const struct replay *p, const struct pass *pass)
{
	const struct lora_merged *m = pass->merged;

	return p->merged == m && p->fp8 == pass->fp8 &&
	       (!m || (p->n_w == 3 * m->n_site && !memcmp(p->w, m->w, (size_t)p->n_w * sizeof *p->w)));
}

static void forward(void *ctx, const at_t *in, at_t *out)
{
	const struct forward *f = ctx;
	struct cond c = cond_from(&f->cond, in + 2);

	out[0] = sampler_velocity(f->sampler, &f->pass, in[0], in[1], &c);
}

/* The replay of this forward, a new one where there is room; NULL: there is none. */
static struct replay *find(struct replays *r, const struct sampler *s, const struct pass *pass, at_t x_BCHW,
			   const struct cond *c)
{
	struct at_dims x = at_shape(x_BCHW);
	struct cond_shape shape = cond_shape(c);
	const struct lora_merged *m = pass->merged;

	for (int i = 0; i < r->n; i++)
		if (at_dims_equal(r->v[i].x, x) && cond_has_shape(c, &r->v[i].cond) &&
		    same_weights(&r->v[i], pass))
			return &r->v[i];
	if (r->n == MOST)
		return NULL;
	struct forward f = { s, { .merged = m, .fp8 = pass->fp8 }, shape };
	at_t list[COND_TENSORS];
	struct replay *p = &r->v[r->n++];
	*p = (struct replay) { .x = x, .cond = shape, .merged = m, .fp8 = pass->fp8 };
	if (m) {
		p->n_w = 3 * m->n_site;
		p->w = memcpy(mem_zero((size_t)p->n_w, sizeof *p->w), m->w, (size_t)p->n_w * sizeof *p->w);
	}
	p->graph = at_graph_new(forward, &f, sizeof f, 2 + cond_tensors(c, list), 1);
	return p;
}

at_t replays_velocity(struct replays *r, const struct sampler *s, const struct pass *pass, at_t x_BCHW,
		      at_t t_B, const struct cond *c)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct replay *p = pass->lora ? NULL : find(r, s, pass, x_BCHW, c);
	at_t in[2 + COND_TENSORS] = { x_BCHW, t_B }, v;
	const char *why;

	if (!p)
		return at_return(sc, sampler_velocity(s, pass, x_BCHW, t_B, c));
	cond_tensors(c, in + 2);
	r->replayed += at_graph_replays(p->graph, &why);
	at_graph_run(p->graph, in, &v);
	at_graph_replays(p->graph, &why);
	if (why && !p->told)
		log_warn(
		    "forwards of %lld images run without a CUDA graph, because it could not be replayed: %s",
		    (long long)p->x.d[0], why);
	p->told = why != NULL;
	return at_return(sc, v);
}

void replays_count(const struct replays *r, int *graphs, int64_t *replayed)
{
	const char *why;

	*graphs = 0;
	for (int i = 0; i < r->n; i++)
		*graphs += at_graph_replays(r->v[i].graph, &why);
	*replayed = r->replayed;
}
