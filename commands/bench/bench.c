/* bench.c -- a trainer without files, and what its phases take. */
#include "commands/bench/bench.h"
#include "commands/bench/presets.h"
#include "aten/memory.h"
#include "aten/normals.h"
#include "aten/trace.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/encoder.h"
#include "sampler/replay.h"
#include "algorithms/gradient.h"
#include "algorithms/nft.h"
#include "dist/startup.h"
#include "trainer/sampling.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- The model ----------------------------------------------------------------------------------- */

/* Random weights of a configuration's sizes. */
static int make_transformer(struct bench *b, const json_t *config, struct err *e)
{
	const struct family *family = preset_family(config, b->model, e);

	if (!family)
		return -1;
	b->t.pipeline.family = family;
	return transformer_make(&b->t.pipeline.transformer, family->transformer, config, b->model, 1, e);
}

static int make_model(struct bench *b, struct err *e)
{
	const struct preset *preset = preset_find(b->model);
	char *path = NULL;
	json_t *config;
	int ret;

	if (preset) {
		config = preset_config(preset, e);
		if (preset->vae)
			vae_new(&b->vae, preset->vae, 2);
	} else {
		config = json_read(path = file_join(b->model, "config.json"), e);
	}
	ret = config ? make_transformer(b, config, e) : -1;
	json_decref(config);
	free(path);
	if (ret)
		return preset ? -1 : err_in(e, "bench: --model takes " PRESETS " or a transformer's folder");
	b->latent = b->latent ? b->latent
		    : preset  ? preset->latent
			      : b->t.pipeline.transformer.facts.default_side;
	b->text_tokens = b->text_tokens ? b->text_tokens : preset ? preset->text_tokens : 77;
	return 0;
}

/* ---- A trainer without files --------------------------------------------------------------------- */

static int make_experiment(struct bench *b, struct err *e)
{
	const struct bench_setting *now = &b->now;
	struct conf_node *tree = conf_empty();
	char *set[20];
	int n = 0, ret = 0;

	set[n++] = mem_str("model.path=none");
	set[n++] = mem_str("prompts.train=none");
	set[n++] = mem_printf("run.dtype=%s", b->dtype);
	set[n++] = mem_printf("run.device=%s", b->device);
	set[n++] = mem_printf("lora.rank=%lld", (long long)b->rank);
	set[n++] = mem_printf("lora.alpha=%lld", (long long)(2 * b->rank));
	set[n++] = mem_printf("prompts.groups=%lld", (long long)b->groups);
	set[n++] = mem_printf("prompts.group_size=%lld", (long long)b->group_size);
	set[n++] = mem_printf("rollout.steps=%lld", (long long)b->steps);
	set[n++] = mem_printf("train.timestep_fraction=%.17g", ((double)b->levels + 0.5) / (double)b->steps);
	set[n++] = mem_printf("rollout.cuda_graphs=%s", now->graphs ? "true" : "false");
	set[n++] = mem_printf("policy.merge=%s", now->merge);
	set[n++] = mem_printf("nft.kl_beta=%.17g", now->kl);
	for (int i = 0; i < n && !ret; i++)
		ret = conf_set(tree, set[i], e);
	if (!ret)
		ret = experiment_from(&b->x, tree, e);
	for (int i = 0; i < n; i++)
		free(set[i]);
	conf_node_free(tree);
	return ret ? err_in(e, "bench") : 0;
}

static at_t random_tensor(uint64_t stream, struct at_dims shape, enum at_device dev)
{
	at_t t = at_zeros(shape, AT_F32, AT_CPU);
	struct rng r = rng_make(1, RNG_USER, 0, stream);

	rng_normals(&r, at_f32(t), (size_t)at_numel(t));
	return at_to(t, AT_F32, dev);
}

static void make_samples(struct bench *b)
{
	struct samples *s = &b->s;
	const struct transformer_facts *f = &b->t.pipeline.transformer.facts;
	enum at_device dev = b->t.pipeline.device;
	struct dist *d = b->t.dist;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t end;

	*s = (struct samples) { .groups = b->groups, .n = b->groups * b->group_size };
	s->prompt = mem_zero((size_t)s->n, sizeof *s->prompt);
	s->group = mem_zero((size_t)s->n, sizeof *s->group);
	s->r = mem_zero((size_t)s->n, sizeof *s->r);
	s->advantage = mem_zero((size_t)s->n, sizeof *s->advantage);
	for (int64_t i = 0; i < s->n; i++) {
		s->group[i] = i / b->group_size;
		s->r[i] = (double)(i % b->group_size) / (double)(b->group_size - 1);
	}
	prompts_share(s->n, d->rank, d->ranks, &s->first, &end);
	s->count = end - s->first;
	s->x0_NCHW = at_keep(random_tensor(1, DIMS(s->count, f->channels, b->latent, b->latent), dev));
	s->first_group = 0;
	struct cond cond = { 0 };
	if (f->text_width)
		cond_add(&cond, COND_TEXT,
			 random_tensor(2, DIMS(b->groups, b->text_tokens, f->text_width), dev), NULL);
	if (f->pooled_width)
		cond_add(&cond, COND_POOLED, random_tensor(3, DIMS(b->groups, f->pooled_width), dev), NULL);
	s->cond = cond_keep(&cond);
	at_end(sc);
}

/* Normals of the values' own stream, a row each, times scale; x (R, C). */
static void fill_with_normals(at_t x_RC, uint64_t stream, double scale)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t rows = at_size(x_RC, 0), *name = mem_zero((size_t)(2 * rows), sizeof *name);

	for (int64_t i = 0; i < rows; i++) {
		struct rng r = rng_make(2, RNG_USER, stream, (uint64_t)i);

		rng_name(&r, name + 2 * i);
	}
	at_t names = at_to(at_from(name, DIMS(rows, 2), AT_I64), AT_I64, at_device_of(x_RC));
	at_copy_(x_RC, at_mul(at_normals(2, names, at_shape(x_RC)), scale));
	free(name);
	at_end(s);
}

/*
 * As in a run that has learned: a new network's modulations are zero, so its velocity is, too, and theta
 * would never move away from the old policy, whose forwards would then be left out.  Products of zeros also
 * take a GPU less power and so less time.
 */
static void train_a_little(struct bench *b)
{
	struct nn_net *net = b->t.pipeline.transformer.net;
	struct lora *theta = &b->t.policies.theta;
	struct at_scope *s = at_begin(AT_NO_GRAD);

	for (int i = 0; i < net->n_site; i++) {
		at_t w_OI = net->site[i].linear->w_OI;

		if (at_sum_squares(w_OI) == 0)
			fill_with_normals(w_OI, (uint64_t)i, 1 / sqrt((double)net->site[i].in));
	}
	fill_with_normals(at_view(theta->flat, DIMS(1, -1)), (uint64_t)net->n_site, 0.01);
	policies_refresh(&b->t.policies);
	at_end(s);
}

/* Attention: what lora.targets has by itself, unless the family names its modules otherwise. */
static struct lora_conf adapter_conf(const struct bench *b)
{
	static char to_q[] = "to_q", to_k[] = "to_k", to_v[] = "to_v", to_out[] = "to_out.0";
	static char *attention[] = { to_q, to_k, to_v, to_out };
	const struct nn_net *net = b->t.pipeline.transformer.net;
	struct lora_conf c = b->x.lora;

	for (int i = 0; i < net->n_site; i++)
		if (strstr(net->site[i].name[0], ".attn."))
			return c;
	c.targets = (struct conf_list) { .v = attention, .n = 4 };
	return c;
}

static int make_trainer(struct bench *b, struct err *e)
{
	struct trainer *t = &b->t;
	struct pipeline *p = &t->pipeline;
	enum at_dtype dt;

	if (at_dtype_parse(&dt, b->dtype, e) || startup_device(&p->device, b->device, t->dist, e) ||
	    make_model(b, e))
		return -1;
	p->dtype = dt;
	p->schedule = (struct schedule_conf) { .shift = 3, .num_train_timesteps = 1000 };
	nn_move(p->transformer.net, dt, p->device);
	if (b->vae.net.n_param) {
		p->vae_type = &kl_autoencoder;
		p->vae = &b->vae;
	}
	struct lora_conf lora = adapter_conf(b);
	if (transformer_check_side(&p->transformer, b->latent, "bench: --latent", e) ||
	    policies_init(&t->policies, &b->x.policy, p->transformer.net, &lora, NULL, 1, p->device, e))
		return -1;
	train_a_little(b);
	struct at_scope *s = at_begin(AT_NO_GRAD);
	optimizer_init(&t->optimizer, &b->x.optimizer, t->policies.theta.numel, p->device);
	t->grad_P = at_keep(at_zeros(DIMS(t->policies.theta.numel), AT_F32, p->device));
	at_end(s);
	make_samples(b);
	return 0;
}

int bench_choose(struct bench *b, const struct bench_setting *now, struct err *e)
{
	struct trainer *t = &b->t;
	struct pipeline *p = &t->pipeline;
	enum at_dtype vae;

	if (at_dtype_parse(&vae, now->vae_dtype, e))
		return -1;
	b->now = *now;
	sampler_release(&t->rollout);
	gradient_replays_free(t->gradients);
	t->gradients = now->update_graphs ? gradient_replays_new() : NULL;
	t->batches = (struct batches) { .micro = now->micro, .blocks = now->checkpoint };
	((struct nft_conf *)b->x.algorithm_conf)->kl_beta = now->kl; /* make_experiment chose no other */
	b->x.rollout.cuda_graphs = now->graphs;
	free(b->x.policy.merge);
	b->x.policy.merge = mem_str(now->merge);
	policies_refresh(&t->policies);
	if (p->vae)
		vae_move(&b->vae, vae, p->device);
	p->vae_batch = now->vae_batch;
	at_memory_count_anew(p->device);
	return sampler_init(&t->rollout, p, &b->x.rollout,
			    DIMS(p->transformer.facts.channels, b->latent, b->latent), e);
}

int bench_open(struct bench *b, struct dist *d, struct err *e)
{
	b->t = (struct trainer) { .file = &b->x, .x = &b->x, .dist = d };
	if (make_experiment(b, e) || make_trainer(b, e) || bench_choose(b, &b->now, e))
		return -1;
	const struct transformer *net = &b->t.pipeline.transformer;
	struct cost one = { 0 };
	struct cost_shape shape = { 1, b->latent, b->latent, b->text_tokens, 0 };
	net->type->cost(net->m, &one, &shape);
	b->forward = one.flop;
	return 0;
}

void bench_close(struct bench *b)
{
	struct trainer *t = &b->t;

	samples_release(&b->s);
	if (t->optimizer.m_P)
		optimizer_release(&t->optimizer);
	at_free(t->grad_P);
	gradient_replays_free(t->gradients);
	policies_release(&t->policies);
	sampler_release(&t->rollout);
	vae_release(&b->vae);
	transformer_close(&t->pipeline.transformer);
	experiment_release(&b->x);
}

/* ---- Timing -------------------------------------------------------------------------------------- */

double bench_now(const struct bench *b)
{
#ifdef CONTRAFLOW_CUDA
	if (b->t.pipeline.device == AT_CUDA)
		at_cuda_wait();
#endif
	(void)b;
	return clock_now();
}

/* On random numbers: on constant ones a product runs faster (13 % on an H200), because fewer bits change. */
void bench_ceilings(struct bench *b)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	bool gpu = b->t.pipeline.device == AT_CUDA;
	int64_t n = gpu ? 8192 : 2048;
	at_t x = at_cast(random_tensor(4, DIMS(n, n), b->t.pipeline.device), b->t.pipeline.dtype);
	at_t w = at_cast(random_tensor(5, DIMS(n, n), b->t.pipeline.device), b->t.pipeline.dtype);
	struct at_memory m;
	at_memory_read(b->t.pipeline.device, &m);
	int64_t most = gpu ? 1 << 29 : 1 << 24, fits = (int64_t)(m.left / 16);
	at_t from = at_zeros(DIMS(fits < most ? fits : most), AT_F32, b->t.pipeline.device),
	     to = at_zeros_like(from);

	for (int i = 0; i < 8; i++) {
		struct at_scope *q = at_begin(AT_NO_GRAD);
		double start = bench_now(b);

		at_linear(x, w, NULL);
		b->gemm = fmax(b->gemm, 2 * pow((double)n, 3) / (bench_now(b) - start));
		start = bench_now(b);
		at_copy_(to, from);
		b->copy = fmax(b->copy, 8 * (double)at_numel(from) / (bench_now(b) - start));
		at_end(q);
	}
	at_end(s);
	at_memory_count_anew(b->t.pipeline.device); /* these are no part of a round */
}

static int condition(void *ctx, const int64_t *id, int n, struct cond *out, struct err *e)
{
	const struct bench *b = ctx;

	(void)e;
	*out = samples_cond(&b->t, &b->s, id, n);
	return 0;
}

/* Latents alone: decoding is timed for itself. */
static void rollout(struct bench *b)
{
	const struct transformer_facts *f = &b->t.pipeline.transformer.facts;
	struct pass old = policies_sampling_pass(&b->t.policies, b->now.fp8);
	struct sampling how = { .pipeline = &b->t.pipeline,
				.sampler = &b->t.rollout,
				.pass = &old,
				.chw = DIMS(f->channels, b->latent, b->latent),
				.batch = b->now.batch,
				.seed = 1,
				.purpose = RNG_LATENT,
				.steps = RNG_SOLVER,
				.x0_NCHW = b->s.x0_NCHW,
				.cond = condition,
				.cond_ctx = b };
	int64_t *id = mem_zero((size_t)b->s.count, sizeof *id);
	struct err none; /* the conditioning is there already */

	for (int64_t i = 0; i < b->s.count; i++)
		id[i] = b->s.first + i;
	sampling_run(&how, id, b->s.count, &none);
	free(id);
}

static void decode(struct bench *b)
{
	for (int64_t at = 0; at < b->s.count; at += b->now.batch) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		int64_t n = b->s.count - at < b->now.batch ? b->s.count - at : b->now.batch;

		pipeline_images(&b->t.pipeline, at_narrow(b->s.x0_NCHW, 0, at, n));
		at_end(s);
	}
}

static int ascending(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return d < 0 ? -1 : d > 0;
}

static double median(double *v, int64_t n)
{
	qsort(v, (size_t)n, sizeof *v, ascending);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static double peak_bytes(const struct bench *b)
{
	struct at_memory m;

	at_memory_read(b->t.pipeline.device, &m);
	return (double)(b->t.pipeline.device == AT_CUDA ? m.reserved_peak : m.peak);
}

void bench_measure(struct bench *b, struct bench_times *out)
{
	double time[5][BENCH_MOST_REPEATS];

	for (int64_t i = -1; i < b->repeats; i++) {
		struct update_stats u;
		double v[5], start = bench_now(b);

		rollout(b);
		v[0] = bench_now(b) - start;
		start = bench_now(b);
		update_step(&b->t, &b->s, 0, 1, &u);
		v[1] = bench_now(b) - start;
		v[2] = u.reduce_seconds;
		start = bench_now(b);
		policies_after_epoch(&b->t.policies, b->t.at.epoch + 1, b->t.at.step);
		v[3] = bench_now(b) - start;
		start = bench_now(b);
		if (b->t.pipeline.vae)
			decode(b);
		v[4] = b->t.pipeline.vae ? bench_now(b) - start : 0;
		dist_max_f64(b->t.dist, v, 5);
		for (int k = 0; k < 5 && i >= 0; k++)
			time[k][i] = v[k];
	}
	*out = (struct bench_times) { .rollout = median(time[0], b->repeats),
				      .update = median(time[1], b->repeats),
				      .reduce = median(time[2], b->repeats),
				      .refresh = median(time[3], b->repeats),
				      .decode = median(time[4], b->repeats),
				      .peak_bytes = peak_bytes(b),
				      .update_replayed = gradient_replayed(b->t.gradients) > 0 };
	if (b->t.rollout.replays)
		replays_count(b->t.rollout.replays, &out->graphs, &out->replayed);
}

static void update(struct bench *b)
{
	struct update_stats u;

	update_step(&b->t, &b->s, 0, 1, &u);
}

int bench_trace(struct bench *b, const char *folder, struct err *e)
{
	static const struct {
		const char *file;
		void (*run)(struct bench *b);
	} phases[] = { { "rollout.json", rollout }, { "update.json", update }, { "decode.json", decode } };
	int ret = file_mkdirs(folder, e);

	for (size_t i = 0; i < sizeof phases / sizeof *phases && !ret; i++) {
		if (phases[i].run == decode && !b->t.pipeline.vae)
			continue;
		char *path = file_join(folder, phases[i].file);

		at_trace_begin(b->t.pipeline.device);
		phases[i].run(b);
		ret = at_trace_end(b->t.pipeline.device, path, e);
		free(path);
	}
	return ret;
}

double bench_step(const struct bench *b, const struct bench_times *m)
{
	double images = (double)b->s.n, pairs = images * (double)b->levels;

	return ((m->rollout + m->decode) * 1152 / images + m->update * 1152 * 9 / pairs) * b->t.dist->ranks;
}
