#include "trainer/batches.h"
#include "aten/memory.h"
#include "base/log.h"
#include "base/mem.h"
#include "trainer/fit.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdlib.h>

/* Rows of a product beyond which a larger micro-batch makes a GPU no faster: then computing no block twice
 * comes first. */
#define ENOUGH_TOKENS 8192
#define PROBE_STEPS   3 /* of a solver: all that it keeps from step to step is there */
#define MIB           1048576.0
#define SPARE         0.02 /* of the limit: for scalars, indices and what the optimizer needs on its way */

/* A stage's work on made-up images. */
struct probe {
	struct trainer *t;
	struct samples s;
	struct pass old, ema;
	double base, limit;
	double most;         /* the largest peak of a size that was chosen */
	struct batches size; /* what is chosen, and while it is searched for, what is tried */
	/* Memory that CUDA graphs of forwards keep on a GPU: of the largest, and per image. */
	double graph, graph_each;
};

static enum at_device device(const struct probe *p)
{
	return p->t->pipeline.device;
}

/* As many as a rank may have to hold: all ranks try the same. */
static void make_up_samples(struct probe *p, const struct cond *one)
{
	const struct prompts_conf *c = &p->t->x->prompts;
	struct samples *s = &p->s;
	int64_t n = c->groups * c->group_size, ranks = p->t->dist->ranks;
	struct at_dims chw = pipeline_latent_shape(&p->t->pipeline, c->height, c->width);

	*s = (struct samples) { .n = n, .groups = c->groups, .count = (n + ranks - 1) / ranks };
	s->group = mem_zero((size_t)n, sizeof *s->group);
	s->r = mem_zero((size_t)n, sizeof *s->r);
	for (int64_t i = 0; i < s->count; i++) {
		s->group[i] = i / c->group_size;
		s->r[i] = 0.5;
	}
	s->x0_NCHW =
	    at_keep(at_zeros(DIMS(s->count, chw.d[0], chw.d[1], chw.d[2]), AT_F32, p->t->pipeline.device));
	trainer_window(p->t);
	samples_make_states(p->t, s, chw);
	struct cond zeros = cond_zeros(one, s->count / c->group_size + 1, p->t->pipeline.device);
	s->cond = cond_keep(&zeros);
}

static double peak(const struct probe *p)
{
	struct at_memory m;

	at_memory_read(device(p), &m);
	return (double)m.peak;
}

/* A batch from noise to images.  A CUDA graph keeps memory of its own beside what plain runs take. */
static double try_sampling(struct probe *p, const struct sampler *sampler, const struct pass *pass,
			   bool graphs, int64_t n)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct sampler s = *sampler;
	struct at_dims d = at_shape(p->s.x0_NCHW);
	int64_t *id = mem_zero((size_t)n, sizeof *id);

	for (int64_t i = 0; i < n; i++)
		id[i] = i % p->s.count;
	at_memory_count_anew(device(p));
	s.replays = NULL;
	struct sampler_steps steps = { .purpose = RNG_SOLVER,
				       .id = id,
				       .stop =
					   s.schedule.steps < PROBE_STEPS ? s.schedule.steps : PROBE_STEPS };
	struct cond cond = samples_cond(p->t, &p->s, id, (int)n);
	at_t noise = at_zeros(DIMS(n, d.d[1], d.d[2], d.d[3]), AT_F32, device(p));
	pipeline_images(&p->t->pipeline, sampler_run(&s, pass, noise, &cond, &steps));
	free(id);
	at_end(sc);
	double took = peak(p);
	if (device(p) == AT_CUDA && graphs) {
		p->graph = fmax(p->graph, took - p->base);
		p->graph_each = (took - p->base) / (double)n;
		took += took - p->base;
	}
	return took;
}

static double try_rollout(void *ctx, int64_t n)
{
	struct probe *p = ctx;

	return try_sampling(p, &p->t->rollout, &p->old, p->t->x->rollout.cuda_graphs, n);
}

static double try_eval(void *ctx, int64_t n)
{
	struct probe *p = ctx;

	return try_sampling(p, &p->t->eval_sampler, &p->ema, p->t->x->eval.sampler.cuda_graphs, n);
}

static double try_micro(void *ctx, int64_t n)
{
	struct probe *p = ctx;

	at_memory_count_anew(device(p));
	update_try(p->t, &p->s, (int)n, p->size.blocks);
	double took = peak(p),
	       again = device(p) == AT_CUDA && p->t->x->train.cuda_graphs ? took - p->base : 0;
	return took + fmax(again, fmax(p->graph, p->graph_each * (double)n));
}

/* Size k keeps the activations of all blocks but N - (k - 1). */
static double try_blocks(void *ctx, int64_t k)
{
	struct probe *p = ctx;

	p->size.blocks = p->t->pipeline.transformer.facts.blocks - (k - 1);
	return try_micro(p, p->size.micro);
}

static int none_fits(const struct probe *p, const char *key, double bytes, struct err *e)
{
	return err_set(e, "%s: not even 1 fits: it takes %.0f MiB, and run.memory allows %.0f MiB", key,
		       bytes / MIB, p->limit / MIB);
}

/* What all ranks have room for. */
static int64_t smallest(const struct probe *p, int64_t n)
{
	double v = -(double)n;

	dist_max_f64(p->t->dist, &v, 1);
	return (int64_t)-v;
}

static int find(struct probe *p, int64_t *out, double (*bytes)(void *, int64_t), int64_t most,
		const char *key, struct err *e)
{
	struct fit_work w = { .bytes = bytes, .ctx = p, .base = p->base, .limit = p->limit, .most = most };
	double took;

	*out = smallest(p, fit_search(&w, &took));
	if (!*out)
		return none_fits(p, key, took, e);
	p->most = fmax(p->most, took);
	return 0;
}

/* One block more keeps its activations of one pair: what that takes.  Half as much again, because a block
 * with a second attention takes more than one without. */
static double block_bytes(struct probe *p)
{
	int64_t layers = p->t->pipeline.transformer.facts.blocks, kept = layers < 2 ? layers : 2;
	double more, less;

	p->size.micro = 1;
	less = try_blocks(p, kept);
	more = try_blocks(p, kept + 1);
	return 1.5 * fmax(more - less, 1);
}

/* The fewest blocks that need to be computed twice at this micro-batch. */
static int find_blocks(struct probe *p, int64_t micro, struct err *e)
{
	int64_t layers = p->t->pipeline.transformer.facts.blocks, k;
	double each = block_bytes(p), took;
	struct fit_work w = { .bytes = try_blocks,
			      .ctx = p,
			      .base = p->base,
			      .slope = each * (double)micro,
			      .limit = p->limit,
			      .most = layers + 1 };

	p->size.micro = micro;
	k = smallest(p, fit_search(&w, &took));
	if (!k)
		return err_set(
		    e,
		    "train.micro_batch: %lld pairs take %.0f MiB even with gradient checkpointing of "
		    "every block, and run.memory allows %.0f MiB",
		    (long long)micro, took / MIB, p->limit / MIB);
	p->most = fmax(p->most, took);
	p->size.blocks = layers - (k - 1);
	return 0;
}

/* Pairs of a rank in an epoch: no micro-batch is larger. */
static int64_t pairs_of_rank(const struct probe *p)
{
	return p->s.count * trainer_levels(p->t);
}

/* Both are to be found: every block once where that leaves a micro-batch large enough, else the micro-batch
 * first and then the blocks. */
static int find_both(struct probe *p, int64_t pairs, struct err *e)
{
	struct batches *size = &p->size;
	const struct transformer *net = &p->t->pipeline.transformer;
	int64_t tokens = net->type->tokens(net->m, at_size(p->s.x0_NCHW, 2), at_size(p->s.x0_NCHW, 3)) +
			 cond_tokens(&p->s.cond);
	int64_t enough = (ENOUGH_TOKENS + tokens - 1) / tokens;
	double before = p->most;
	struct err ignored;

	enough = enough < pairs ? enough : pairs;
	size->blocks = 0;
	if (!find(p, &size->micro, try_micro, pairs, "", &ignored) && size->micro >= enough)
		return 0;
	p->most = before;
	size->blocks = p->t->pipeline.transformer.facts.blocks;
	return find(p, &size->micro, try_micro, enough, "train.micro_batch", e) ||
		       find_blocks(p, size->micro, e)
		   ? -1
		   : 0;
}

/* The micro-batch is given; no larger one than this rank has pairs is tried. */
static int find_blocks_at(struct probe *p, int64_t micro, int64_t pairs, struct err *e)
{
	int ret = find_blocks(p, micro < pairs ? micro : pairs, e);

	p->size.micro = micro;
	return ret;
}

static int find_update(struct probe *p, struct err *e)
{
	struct batches *size = &p->size;
	int64_t pairs = pairs_of_rank(p);
	bool micro = !size->micro, blocks = size->blocks < 0;
	int ret = 0;

	if (micro && blocks)
		ret = find_both(p, pairs, e);
	else if (micro)
		ret = find(p, &size->micro, try_micro, pairs, "train.micro_batch", e);
	else if (blocks)
		ret = find_blocks_at(p, size->micro, pairs, e);
	if (!ret && micro)
		size->micro = fit_even(pairs, size->micro);
	return ret;
}

/* A size that is given is tried as well, for what it takes. */
static int find_all(struct probe *p, struct err *e)
{
	struct trainer *t = p->t;
	int64_t *rollout = &p->size.rollout, *eval = &p->size.eval, share = p->s.count;

	if (*rollout) {
		p->most = fmax(p->most, try_rollout(p, *rollout < share ? *rollout : share));
	} else {
		if (find(p, rollout, try_rollout, share, "rollout.batch", e))
			return -1;
		*rollout = fit_even(share, *rollout);
	}
	if (!*eval) {
		share = t->test.n * t->x->eval.images_per_prompt;
		share = (share + t->dist->ranks - 1) / t->dist->ranks;
		if (!share)
			*eval = *rollout;
		else if (find(p, eval, try_eval, share, "eval.sampler.batch", e))
			return -1;
		else
			*eval = fit_even(share, *eval);
	}
	return find_update(p, e);
}

/* run.memory in bytes of this rank's tensors, those that are there already included. */
static int read_limit(struct probe *p, struct err *e)
{
	const struct dist *d = p->t->dist;
	struct at_memory m;
	double share, bytes;

	if (fit_parse_memory(&share, &bytes, p->t->x->run.memory, e))
		return err_in(e, "run.memory");
	dist_barrier(p->t->dist); /* ranks of a machine all look before any of them takes more */
	at_memory_count_anew(device(p));
	at_memory_read(device(p), &m);
	dist_barrier(p->t->dist);
	p->base = (double)m.now;
	share *= fmin((double)m.own, (double)m.left / (device(p) == AT_CPU ? d->local_ranks : 1));
	p->limit = (1 - SPARE) * (bytes > 0 ? bytes : p->base + share);
	return 0;
}

static int begin(struct probe *p, struct err *e)
{
	struct trainer *t = p->t;
	int64_t first = 0;
	struct cond one = { 0 };

	p->old = policies_sampling_pass(&t->policies, t->x->rollout.fp8);
	if (t->test.n)
		p->ema = policies_ema_pass(&t->policies);
	if (encode_prompts(&t->pipeline, &t->train, &first, 1, &one, e))
		return -1;
	make_up_samples(p, &one);
	return 0;
}

static int try_all(struct trainer *t, struct batches *b, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct probe p = { .t = t, .size = *b };
	int ret = dist_agree(t->dist, begin(&p, e), e);

	if (!ret)
		ret = read_limit(&p, e) || find_all(&p, e) ? -1 : 0;
	at_memory_count_anew(device(&p));
	samples_release(&p.s);
	at_end(sc);
	*b = p.size;
	b->bytes = p.most;
	if (!ret && t->dist->rank == 0)
		log_info("memory: %.0f MiB before the trials of batch sizes, %.0f MiB at their peak, %.0f "
			 "MiB is the limit",
			 p.base / MIB, p.most / MIB, p.limit / MIB);
	return dist_agree(t->dist, ret, e);
}

/* Sizes of the run that goes on, where the configuration leaves them open; this machine may have less memory
 * than the one that they were found on. */
static int keep_found(struct trainer *t, struct batches *b, const struct batches *found, struct err *e)
{
	struct probe p = { .t = t };

	if (read_limit(&p, e))
		return -1;
	b->rollout = b->rollout ? b->rollout : found->rollout;
	b->eval = b->eval ? b->eval : found->eval;
	b->micro = b->micro ? b->micro : found->micro;
	b->blocks = b->blocks < 0 ? found->blocks : b->blocks;
	b->bytes = found->bytes;
	if (b->bytes > p.limit && t->dist->rank == 0)
		log_warn("the run's batch sizes took %.0f MiB where it began, and run.memory allows %.0f MiB "
			 "here: if "
			 "it runs out of memory, set rollout.batch, eval.sampler.batch and train.micro_batch "
			 "(results then differ by rounding)",
			 b->bytes / MIB, p.limit / MIB);
	return 0;
}

int batches_resolve(struct trainer *t, struct err *e)
{
	const struct experiment *x = t->x;
	struct batches b = { x->rollout.batch, x->eval.sampler.batch, x->train.micro_batch,
			     x->train.gradient_checkpointing, t->batches.bytes };
	int64_t layers = t->pipeline.transformer.facts.blocks;
	bool open = !b.rollout || !b.eval || !b.micro || b.blocks < 0;

	if (open && (t->batches.rollout ? keep_found(t, &b, &t->batches, e) : try_all(t, &b, e)))
		return -1;
	t->batches = b;
	if (open && t->dist->rank == 0)
		log_info("rollout.batch %lld, eval.sampler.batch %lld, train.micro_batch %lld, "
			 "train.gradient_checkpointing %lld",
			 (long long)b.rollout, (long long)b.eval, (long long)b.micro,
			 (long long)(b.blocks < layers ? b.blocks : layers));
	return 0;
}
