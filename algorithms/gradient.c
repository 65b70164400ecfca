/* gradient.c -- theta's forward, NFT's loss and its backward. */
#include "algorithms/gradient.h"
#include "base/log.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST                                                                                                 \
	8 /* CUDA graphs: a micro-batch, the last and smaller one, with and without an old policy of its own \
	   */

enum { X0, XT, T, TIMESTEP, R, WEIGHTS, ALWAYS, MOST_IN = ALWAYS + 3 + COND_TENSORS };
enum { GRAD, POLICY, POSITIVE, NEGATIVE, DEVIATION, KL, OUT };

/* What the function depends on beyond tensors. */
struct function {
	struct gradient_task task;
	struct cond_shape cond; /* its tensors follow the others, and then these, in this order */
	bool has_old, has_ref, has_rows;
};
struct gradient_replays {
	int n;
	int64_t replayed;
	struct recording {
		struct function f;
		struct at_dims x;
		struct at_graph *graph;
		bool told;
	} v[MOST];
};

struct gradient_replays *gradient_replays_new(void)
{
	return mem_zero(1, sizeof(struct gradient_replays));
}

void gradient_replays_free(struct gradient_replays *r)
{
	for (int i = 0; r && i < r->n; i++)
		at_graph_free(r->v[i].graph);
	free(r);
}

int64_t gradient_replayed(const struct gradient_replays *r)
{
	return r ? r->replayed : 0;
}

static void differentiate(void *ctx, const at_t *in, at_t *out)
{
	const struct function *f = ctx;
	const struct gradient_task *task = &f->task;
	struct lora *lora = task->theta;
	struct cond cond = cond_from(&f->cond, in + ALWAYS);
	at_t listed[COND_TENSORS];
	const at_t *more = in + ALWAYS + cond_tensors(&cond, listed);
	at_t old = f->has_old ? *more++ : NULL, ref = f->has_ref ? *more++ : NULL,
	     row = f->has_rows ? *more : NULL;
	struct at_scope *sc = at_begin(AT_WITH_GRAD);
	struct pass theta = { .checkpoint_blocks = task->checkpoint_blocks };
	struct lora_merged merged = { 0 };

	if (lora_prefers_merge(lora, at_numel(in[X0]) / at_size(in[X0], 1))) {
		lora_merge_grad(&merged, lora);
		theta.merged = &merged;
	} else {
		theta.lora = lora;
	}
	at_t v = sampler_velocity(task->sampler, &theta, in[XT], in[TIMESTEP], &cond);
	struct nft_terms terms = { .x0_BCHW = in[X0],
				   .xt_BCHW = in[XT],
				   .t_B = in[T],
				   .r_B = in[R],
				   .v_BCHW = v,
				   .v_old_BCHW = old ? old : at_detach(v) };
	struct nft_losses l = nft_policy_loss(task->beta, &terms);
	at_t loss = at_mul(at_sum(l.policy_B), at_select(in[WEIGHTS], 0, 0)), kl = NULL;

	if (ref) {
		kl = at_sum(nft_kl(row ? at_index_select(v, 0, row) : v, ref));
		loss = at_add(loss, at_mul(kl, at_select(in[WEIGHTS], 0, 1)));
	}
	at_t grad_P = at_zeros(DIMS(lora->numel), AT_F32, at_device_of(v));
	lora_backward(lora, loss, grad_P);
	lora_merged_release(&merged);

	struct at_scope *plain = at_begin(AT_NO_GRAD);
	out[GRAD] = grad_P;
	out[POLICY] = at_detach(l.policy_B);
	out[POSITIVE] = at_detach(l.positive_B);
	out[NEGATIVE] = at_detach(l.negative_B);
	out[DEVIATION] = at_sum(nft_kl(at_detach(v), terms.v_old_BCHW));
	out[KL] = kl ? at_detach(kl) : at_zeros(DIMS(1), AT_F64, at_device_of(v));
	for (int i = 0; i < OUT; i++)
		out[i] = at_escape(plain, out[i]);
	at_end(plain);
	for (int i = 0; i < OUT; i++)
		out[i] = at_escape(sc, out[i]);
	at_end(sc);
}

static struct recording *find(struct gradient_replays *r, const struct function *f, int n, const at_t *in,
			      const struct cond *c)
{
	struct at_dims x = at_shape(in[XT]);

	for (int i = 0; i < r->n; i++) {
		struct recording *v = &r->v[i];
		if (v->f.has_old == f->has_old && v->f.has_ref == f->has_ref && at_dims_equal(v->x, x) &&
		    cond_has_shape(c, &v->f.cond))
			return v;
	}
	if (r->n == MOST)
		return NULL;
	struct recording *v = &r->v[r->n++];
	*v = (struct recording) { .f = *f,
				  .x = x,
				  .graph = at_graph_new(differentiate, f, sizeof *f, n, OUT) };
	return v;
}

/*
 * What the loss is multiplied by on its way through the network, and the gradient divided by at its end.  An
 * element of dL/dv is of the order weight / M, M elements a sample: 5e-9 at 512 x 512 pixels and 10,000
 * pairs, where the smallest number of float16 is 6e-8.  This brings it to the order of 1/64: two hundred
 * times above the smallest number that float16 has with full precision, and with room for sums over 1e5
 * tokens below its largest.  A power of two, so float32 and bfloat16 get the same bits with it as without.
 */
static double loss_scale(const struct gradient_batch *b)
{
	at_t x0 = b->terms.x0_BCHW;
	double each = b->weight_policy * (double)at_size(x0, 0) / (double)at_numel(x0);

	return each > 0 && isfinite(each) ? exp2(-6 - round(log2(each))) : 1;
}

struct gradient gradient_of(const struct gradient_task *task, struct gradient_replays *r,
			    const struct gradient_batch *b)
{
	const struct nft_terms *m = &b->terms;
	const double scale = loss_scale(b), weights[] = { b->weight_policy * scale, b->weight_kl * scale };
	at_t w = at_to(at_from(weights, DIMS(2), AT_F64), AT_F64, at_device_of(m->xt_BCHW));
	at_t in[MOST_IN] = { m->x0_BCHW, m->xt_BCHW, m->t_B, b->timestep_B, m->r_B, w };
	at_t more[] = { m->v_old_BCHW, b->v_ref_KCHW, b->v_ref_KCHW ? b->row_K : NULL }, out[OUT];
	struct function f = { *task, cond_shape(&b->cond), more[0], more[1], more[2] };
	struct recording *v;
	const char *why;
	int n = ALWAYS + cond_tensors(&b->cond, in + ALWAYS);

	for (size_t i = 0; i < sizeof more / sizeof *more; i++)
		if (more[i])
			in[n++] = more[i];
	v = r && !f.has_rows ? find(r, &f, n, in, &b->cond) : NULL;
	if (v) {
		r->replayed += at_graph_replays(v->graph, NULL);
		at_graph_run(v->graph, in, out);
		at_graph_replays(v->graph, &why);
		if (why && !v->told)
			log_warn("updates of %lld pairs run without a CUDA graph, because it could not be "
				 "replayed: %s",
				 (long long)v->x.d[0], why);
		v->told = why != NULL;
	} else {
		differentiate(&f, in, out);
	}
	at_mul_(out[GRAD], 1 / scale);
	return (struct gradient) { out[GRAD],     out[POLICY],    out[POSITIVE],
				   out[NEGATIVE], out[DEVIATION], out[KL] };
}
