/* gradient.c -- theta's forward, the algorithm's loss and its backward. */
#include "algorithms/gradient.h"
#include "aten/transfer.h"
#include "base/log.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST                                                                                                 \
	8 /* CUDA graphs: a micro-batch, the last and smaller one, with and without an old policy of its own \
	   */

/* Inputs: those that are always there, those that may be, in this order, and then the conditioning's. */
enum {
	X0,
	EPS,
	XT,
	T,
	TIMESTEP,
	ADVANTAGE,
	R,
	WEIGHT,
	WEIGHTS,
	V_OLD,
	V_REF,
	ROW,
	GROUP,
	Z,
	LAW,
	NEXT,
	SLOTS
};
enum { MOST_IN = SLOTS + COND_TENSORS };
enum { GRAD, TOLD, DEVIATION, KL, OUT };

/* What the function depends on beyond tensors. */
struct function {
	struct gradient_task task;
	unsigned has; /* bit i: slot i is there */
	bool pulls;   /* the reference is also what v is pulled to */
	struct cond_shape cond;
};
struct gradient_replays {
	int n;
	int64_t replayed;
	struct replay {
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

static bool has(const struct function *f, int slot)
{
	return f->has >> slot & 1;
}

/* Inputs by their slots, NULL for those that are not there; returns the conditioning's. */
static const at_t *take(at_t slot[SLOTS], const struct function *f, const at_t *in)
{
	for (int i = 0; i < SLOTS; i++)
		slot[i] = has(f, i) ? *in++ : NULL;
	return in;
}

/* The algorithm's view of them. */
static struct terms terms_of(const struct function *f, const at_t slot[SLOTS], at_t v)
{
	at_t old = slot[V_OLD] ? slot[V_OLD] : at_detach(v);

	return (struct terms) { .x0_BCHW = slot[X0],
				.eps_BCHW = slot[EPS],
				.xt_BCHW = slot[XT],
				.t_B = slot[T],
				.advantage_B = slot[ADVANTAGE],
				.r_B = slot[R],
				.weight_B = slot[WEIGHT],
				.v_BCHW = v,
				.v_old_BCHW = f->task.needs & NEEDS_OLD ? old : NULL,
				.v_ref_BCHW = f->task.needs & NEEDS_REFERENCE ? slot[V_REF] : NULL,
				.z_BCHW = slot[Z],
				.law_B4 = slot[LAW],
				.next_BCHW = slot[NEXT],
				.group_B = slot[GROUP] };
}

/* The sum of the pull to the base over the pairs that have a reference. */
static at_t pull(const at_t slot[SLOTS], at_t v, at_t weight_B)
{
	at_t row = slot[ROW], d = terms_distance(row ? at_index_select(v, 0, row) : v, slot[V_REF]);

	if (weight_B)
		d = at_mul(d, row ? at_index_select(weight_B, 0, row) : weight_B);
	return at_sum(d);
}

static at_t tell(const struct algorithm_type *type, const struct losses *l, at_t policy_B)
{
	at_t row[1 + ALGORITHM_NOTES] = { at_detach(policy_B) };
	int n = 1;

	for (; type->notes && type->notes[n - 1]; n++)
		row[n] = at_detach(l->note_B[n - 1]);
	return at_stack(n, row, 0);
}

static at_t nothing(at_t v)
{
	return at_zeros(DIMS(1), AT_F64, at_device_of(v));
}

static void differentiate(void *ctx, const at_t *in, at_t *out)
{
	const struct function *f = ctx;
	const struct gradient_task *task = &f->task;
	struct lora *lora = task->theta;
	at_t slot[SLOTS];
	struct cond cond = cond_from(&f->cond, take(slot, f, in));
	struct at_scope *sc = at_begin(AT_WITH_GRAD);
	struct pass theta = { .checkpoint_blocks = task->checkpoint_blocks };
	struct lora_merged merged = { 0 };

	if (!lora_rounds(lora) && lora_prefers_merge(lora, at_numel(slot[X0]) / at_size(slot[X0], 1))) {
		lora_merge_grad(&merged, lora);
		theta.merged = &merged;
	} else {
		theta.lora = lora;
	}
	at_t v = sampler_velocity(task->sampler, &theta, slot[XT], slot[TIMESTEP], &cond);
	struct terms terms = terms_of(f, slot, v);
	struct losses l = task->algorithm->loss(task->conf, &terms);
	at_t policy_B = at_mul(l.policy_B, at_cast(slot[WEIGHT], AT_F64));
	at_t loss = at_mul(at_sum(policy_B), at_select(slot[WEIGHTS], 0, 0)), kl = NULL;

	if (f->pulls) {
		kl = pull(slot, v, l.kl_weight_B);
		loss = at_add(loss, at_mul(kl, at_select(slot[WEIGHTS], 0, 1)));
	}
	at_t grad_P = lora_backward(lora, loss);
	lora_merged_release(&merged);

	struct at_scope *plain = at_begin(AT_NO_GRAD);
	at_t old = terms.v_old_BCHW;
	out[GRAD] = grad_P;
	out[TOLD] = tell(task->algorithm, &l, policy_B);
	out[DEVIATION] = old ? at_sum(terms_distance(at_detach(v), old)) : nothing(v);
	out[KL] = kl ? at_detach(kl) : nothing(v);
	for (int i = 0; i < OUT; i++)
		out[i] = at_escape(plain, out[i]);
	at_end(plain);
	for (int i = 0; i < OUT; i++)
		out[i] = at_escape(sc, out[i]);
	at_end(sc);
}

static struct replay *find(struct gradient_replays *r, const struct function *f, int n, const at_t *in)
{
	at_t slot[SLOTS];
	struct cond cond = cond_from(&f->cond, take(slot, f, in));
	struct at_dims x = at_shape(slot[XT]);

	for (int i = 0; i < r->n; i++) {
		struct replay *v = &r->v[i];
		if (v->f.has == f->has && v->f.pulls == f->pulls && at_dims_equal(v->x, x) &&
		    cond_has_shape(&cond, &v->f.cond))
			return v;
	}
	if (r->n == MOST)
		return NULL;
	struct replay *v = &r->v[r->n++];
	*v = (struct replay) { .f = *f, .x = x, .graph = at_graph_new(differentiate, f, sizeof *f, n, OUT) };
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

/* The inputs that there are, and what says which; returns their number. */
static int list_inputs(at_t in[MOST_IN], struct function *f, const struct gradient_batch *b, at_t weights)
{
	const struct terms *m = &b->terms;
	const at_t slot[SLOTS] = { [X0] = m->x0_BCHW,
				   [EPS] = m->eps_BCHW,
				   [XT] = m->xt_BCHW,
				   [T] = m->t_B,
				   [TIMESTEP] = b->timestep_B,
				   [ADVANTAGE] = m->advantage_B,
				   [R] = m->r_B,
				   [WEIGHT] = m->weight_B,
				   [WEIGHTS] = weights,
				   [V_OLD] = m->v_old_BCHW,
				   [V_REF] = b->v_ref_KCHW,
				   [ROW] = b->v_ref_KCHW ? b->row_K : NULL,
				   [GROUP] = m->group_B,
				   [Z] = m->z_BCHW,
				   [LAW] = m->law_B4,
				   [NEXT] = m->next_BCHW };
	int n = 0;

	f->has = 0;
	for (int i = 0; i < SLOTS; i++)
		if (slot[i]) {
			f->has |= 1U << i;
			in[n++] = slot[i];
		}
	f->pulls = b->v_ref_KCHW && b->weight_kl > 0;
	f->cond = cond_shape(&b->cond);
	return n + cond_tensors(&b->cond, in + n);
}

at_t gradient_group(const struct gradient_task *task, const struct gradient_batch *b)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	at_t in[MOST_IN], slot[SLOTS];
	struct function f = { .task = *task };
	struct pass theta = { .lora = task->theta };

	list_inputs(in, &f, b, NULL);
	take(slot, &f, in);
	at_t v = sampler_velocity(task->sampler, &theta, slot[XT], slot[TIMESTEP], &b->cond);
	struct terms terms = terms_of(&f, slot, v);
	return at_return(sc, at_to(task->algorithm->group(task->conf, &terms), AT_F64, AT_CPU));
}

struct gradient gradient_of(const struct gradient_task *task, struct gradient_replays *r,
			    const struct gradient_batch *b)
{
	const double scale = loss_scale(b), weights[] = { b->weight_policy * scale, b->weight_kl * scale };
	at_t w = at_from(weights, DIMS(2), AT_F64);
	at_t in[MOST_IN], out[OUT];
	struct function f = { .task = *task };
	struct replay *v;
	const char *why;

	at_send_all(1, &w, &w, at_device_of(b->terms.xt_BCHW));
	int n = list_inputs(in, &f, b, w);

	v = r && !has(&f, ROW) ? find(r, &f, n, in) : NULL;
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
	return (struct gradient) { out[GRAD], out[TOLD], out[DEVIATION], out[KL] };
}
