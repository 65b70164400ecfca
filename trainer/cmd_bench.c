/*
 * cmd_bench.c -- contraflow bench: the phases of a step on random weights of any size, no files needed.
 *
 * The code that is timed is the trainer's own: sampling with the old policy's merged weights, and update_step
 * with its forwards, backward, all-reduce, clipping, AdamW and EMA.  Text and rewards are left out, and
 * decoding where the model is a transformer alone.
 */
#include "aten/memory.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/encoder.h"
#include "models/vae.h"
#include "sampler/replay.h"
#include "trainer/gradient.h"
#include "trainer/options.h"
#include "trainer/startup.h"
#include "trainer/trainer.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MOST_REPEATS 100

struct bench {
	const char *model, *dtype, *device, *vae_dtype, *out;
	int64_t latent, text_tokens, groups, group_size, batch, micro, steps, levels, rank, checkpoint,
	    threads, repeats, vae_batch;
	bool fp8, no_graphs, record_update;
	double kl;
	struct experiment x;
	struct trainer t;
	struct samples s;
	double gemm;            /* FLOP/s of a large product on this rank */
	double forward;         /* FLOP of one sample's forward */
	double rollout, update; /* seconds, medians over the repeats, of the slowest rank */
	double reduce, refresh; /* all-reduce; merging the old policy's weights */
	double decode;          /* latents to pictures on the CPU; 0 without a VAE */
	struct vae vae;
};

/* ---- The model ----------------------------------------------------------------------------------- */

static const struct preset {
	const char *name;
	int64_t latent, text_tokens;
	struct mmdit_conf conf;
	struct vae_conf vae;
} presets[] = {
	{ "tiny",
	  8,
	  12,
	  { .sample_size = 8,
	    .patch_size = 2,
	    .in_channels = 16,
	    .out_channels = 16,
	    .num_layers = 2,
	    .attention_head_dim = 16,
	    .num_attention_heads = 2,
	    .joint_attention_dim = 32,
	    .caption_projection_dim = 32,
	    .pooled_projection_dim = 32,
	    .pos_embed_max_size = 16,
	    .qk_norm = "rms_norm",
	    .n_dual = 1 },
	  { .in_channels = 3,
	    .out_channels = 3,
	    .latent_channels = 16,
	    .layers_per_block = 1,
	    .norm_num_groups = 4,
	    .n_levels = 4,
	    .block_out_channels = { 8, 8, 16, 16 },
	    .mid_block_add_attention = true,
	    .scaling_factor = 1.5305,
	    .shift_factor = 0.0609 } },
	{ "medium",
	  64,
	  205,
	  { .sample_size = 128,
	    .patch_size = 2,
	    .in_channels = 16,
	    .out_channels = 16,
	    .num_layers = 24,
	    .attention_head_dim = 64,
	    .num_attention_heads = 24,
	    .joint_attention_dim = 4096,
	    .caption_projection_dim = 1536,
	    .pooled_projection_dim = 2048,
	    .pos_embed_max_size = 384,
	    .qk_norm = "rms_norm",
	    .n_dual = 13,
	    .dual = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 } },
	  { .in_channels = 3,
	    .out_channels = 3,
	    .latent_channels = 16,
	    .layers_per_block = 2,
	    .norm_num_groups = 32,
	    .n_levels = 4,
	    .block_out_channels = { 128, 256, 512, 512 },
	    .mid_block_add_attention = true,
	    .scaling_factor = 1.5305,
	    .shift_factor = 0.0609 } },
};

static int make_model(struct bench *b, struct err *e)
{
	struct mmdit *m = &b->t.pipeline.transformer, shape;

	for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
		if (!strcmp(presets[i].name, b->model)) {
			b->latent = b->latent ? b->latent : presets[i].latent;
			b->text_tokens = b->text_tokens ? b->text_tokens : presets[i].text_tokens;
			vae_new(&b->vae, &presets[i].vae, 2);
			return mmdit_new(m, &presets[i].conf, 1, e);
		}
	if (mmdit_describe(&shape, b->model, e))
		return err_in(e, "bench: --model takes tiny, medium or a transformer's folder");
	b->latent = b->latent ? b->latent : shape.conf.sample_size;
	b->text_tokens = b->text_tokens ? b->text_tokens : 77;
	int ret = mmdit_new(m, &shape.conf, 1, e);
	mmdit_release(&shape);
	return ret;
}

static bool has(const char *name, const char *part)
{
	return strstr(name, part) != NULL;
}

/* Multiplications and additions of one sample's forward, N picture and L text tokens; adapters left out. */
static double forward_flop(const struct mmdit *m, double N, double L)
{
	double D = (double)m->width, p = (double)m->conf.patch_size, flop = 0;

	flop += 2 * N * D * p * p * (double)m->conf.in_channels;
	for (int i = 0; i < m->net.n_site; i++) {
		const struct nn_site *t = &m->net.site[i];
		const char *name = t->name[0];
		double tokens = has(name, "norm") || has(name, "time_text_embed") ? 1
				: has(name, "add_") || has(name, "context")       ? L
										  : N;
		flop += 2 * (double)t->in * (double)t->row[t->parts] * tokens;
	}
	for (int64_t i = 0; i < m->conf.num_layers; i++)
		flop += 4 * D * ((N + L) * (N + L) + (m->block[i].dual ? N * N : 0));
	return flop;
}

/* ---- A trainer without files --------------------------------------------------------------------- */

static int make_experiment(struct bench *b, struct err *e)
{
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
	set[n++] = mem_printf("rollout.batch=%lld", (long long)b->batch);
	set[n++] = mem_printf("train.micro_batch=%lld", (long long)b->micro);
	set[n++] = mem_printf("train.checkpoint_blocks=%lld", (long long)b->checkpoint);
	set[n++] = mem_printf("train.timestep_fraction=%.17g", ((double)b->levels + 0.5) / (double)b->steps);
	set[n++] = mem_printf("rollout.fp8=%s", b->fp8 ? "true" : "false");
	set[n++] = mem_printf("rollout.graphs=%s", b->no_graphs ? "false" : "true");
	set[n++] = mem_printf("nft.kl_beta=%.17g", b->kl);
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
	const struct mmdit_conf *c = &b->t.pipeline.transformer.conf;
	enum at_device dev = b->t.pipeline.device;
	struct dist *d = b->t.dist;
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t end;

	*s = (struct samples) { .groups = b->groups, .n = b->groups * b->group_size };
	s->prompt = mem_zero((size_t)s->n, sizeof *s->prompt);
	s->group = mem_zero((size_t)s->n, sizeof *s->group);
	s->r = mem_zero((size_t)s->n, sizeof *s->r);
	for (int64_t i = 0; i < s->n; i++) {
		s->group[i] = i / b->group_size;
		s->r[i] = (double)(i % b->group_size) / (double)(b->group_size - 1);
	}
	prompts_share(s->n, d->rank, d->ranks, &s->first, &end);
	s->count = end - s->first;
	s->x0_NCHW = at_keep(random_tensor(1, DIMS(s->count, c->in_channels, b->latent, b->latent), dev));
	s->first_group = 0;
	s->cond.text_BLE =
	    at_keep(random_tensor(2, DIMS(b->groups, b->text_tokens, c->joint_attention_dim), dev));
	s->cond.pooled_BP = at_keep(random_tensor(3, DIMS(b->groups, c->pooled_projection_dim), dev));
	at_end(sc);
}

static int make_trainer(struct bench *b, struct dist *d, struct err *e)
{
	struct trainer *t = &b->t;
	struct pipeline *p = &t->pipeline;
	enum at_dtype dt, vae;

	*t = (struct trainer) { .file = &b->x, .x = &b->x, .dist = d };
	if (at_dtype_parse(&dt, b->dtype, e) || at_dtype_parse(&vae, b->vae_dtype, e) ||
	    startup_device(&p->device, b->device, d, e) || make_model(b, e))
		return -1;
	b->device = at_device_name(p->device);
	p->dtype = dt;
	p->shift = 3;
	p->num_train_timesteps = 1000;
	nn_move(&p->transformer.net, dt, p->device);
	if (b->vae.net.n_param) {
		nn_move(&b->vae.net, vae, p->device);
		p->vae_type = &kl_autoencoder;
		p->vae = &b->vae;
		p->vae_batch = b->vae_batch;
	}
	if (b->latent % p->transformer.conf.patch_size ||
	    b->latent > p->transformer.conf.patch_size * p->transformer.conf.pos_embed_max_size)
		return err_set(
		    e, "bench: --latent %lld: a multiple of %lld up to %lld", (long long)b->latent,
		    (long long)p->transformer.conf.patch_size,
		    (long long)(p->transformer.conf.patch_size * p->transformer.conf.pos_embed_max_size));
	if (sampler_init(&t->rollout, p, &b->x.rollout, e) ||
	    policies_init(&t->policies, &b->x.policy, &p->transformer.net, &b->x.lora, 1, p->device, e))
		return -1;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	optimizer_init(&t->optimizer, &b->x.optimizer, t->policies.theta.numel, p->device);
	if (b->record_update)
		t->gradients = gradient_replays_new();
	t->grad_P = at_keep(at_zeros(DIMS(t->policies.theta.numel), AT_F32, p->device));
	at_end(s);
	make_samples(b);
	return 0;
}

static void release(struct bench *b)
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
	mmdit_release(&t->pipeline.transformer);
	experiment_release(&b->x);
}

/* ---- Timing -------------------------------------------------------------------------------------- */

/* All that was asked of the device is done; on the CPU it is. */
static double now(const struct bench *b)
{
#ifdef CONTRAFLOW_CUDA
	if (b->t.pipeline.device == AT_CUDA)
		at_cuda_wait();
#endif
	(void)b;
	return clock_now();
}

static void measure_gemm(struct bench *b)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t n = b->t.pipeline.device == AT_CUDA ? 8192 : 2048;
	at_t x = at_to(at_full(DIMS(n, n), 0.5, AT_F32, AT_CPU), b->t.pipeline.dtype, b->t.pipeline.device);

	for (int i = 0; i < 8; i++) {
		struct at_scope *q = at_begin(AT_NO_GRAD);
		double start = now(b);

		at_linear(x, x, NULL);
		b->gemm = fmax(b->gemm, 2 * pow((double)n, 3) / (now(b) - start));
		at_end(q);
	}
	at_end(s);
}

static void rollout(struct bench *b)
{
	const struct mmdit_conf *c = &b->t.pipeline.transformer.conf;
	struct pass old = policies_sampling_pass(&b->t.policies, b->fp8);

	for (int64_t at = 0; at < b->s.count; at += b->batch) {
		struct at_scope *sc = at_begin(AT_NO_GRAD);
		int n = (int)(b->s.count - at < b->batch ? b->s.count - at : b->batch);
		int64_t *id = mem_zero((size_t)n, sizeof *id);

		for (int i = 0; i < n; i++)
			id[i] = b->s.first + at + i;
		at_t noise = sampler_noise(&b->t.pipeline, 1, RNG_LATENT, 0, id, n,
					   DIMS(c->in_channels, b->latent, b->latent));
		struct cond cond = samples_cond(&b->t, &b->s, id, n);

		at_copy_(at_narrow(b->s.x0_NCHW, 0, at, n), sampler_run(&b->t.rollout, &old, noise, &cond));
		free(id);
		at_end(sc);
	}
}

static void decode(const struct bench *b)
{
	for (int64_t at = 0; at < b->s.count; at += b->batch) {
		struct at_scope *s = at_begin(AT_NO_GRAD);
		int64_t n = b->s.count - at < b->batch ? b->s.count - at : b->batch;

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

/* The first round warms up and is not counted. */
static void measure(struct bench *b)
{
	double time[5][MOST_REPEATS];

	for (int64_t i = -1; i < b->repeats; i++) {
		struct update_stats u;
		double v[5], start = now(b);

		rollout(b);
		v[0] = now(b) - start;
		start = now(b);
		update_step(&b->t, &b->s, 0, 1, &u);
		v[1] = now(b) - start;
		v[2] = u.reduce_seconds;
		start = now(b);
		policies_after_epoch(&b->t.policies, b->t.at.step);
		v[3] = now(b) - start;
		start = now(b);
		if (b->t.pipeline.vae)
			decode(b);
		v[4] = b->t.pipeline.vae ? now(b) - start : 0;
		dist_max_f64(b->t.dist, v, 5);
		for (int k = 0; k < 5 && i >= 0; k++)
			time[k][i] = v[k];
	}
	b->rollout = median(time[0], b->repeats);
	b->update = median(time[1], b->repeats);
	b->reduce = median(time[2], b->repeats);
	b->refresh = median(time[3], b->repeats);
	b->decode = median(time[4], b->repeats);
}

/* ---- What is told -------------------------------------------------------------------------------- */

static double peak_bytes(const struct bench *b)
{
	struct rusage use;

	struct at_memory m;

	at_memory_read(b->t.pipeline.device, &m);
	if (b->t.pipeline.device == AT_CUDA)
		return (double)m.reserved_peak;
	getrusage(RUSAGE_SELF, &use);
	return (double)use.ru_maxrss * 1024;
}

static void phase(json_t *list, const char *name, double seconds, double flop, const struct bench *b)
{
	int ranks = b->t.dist->ranks;
	double rate = seconds > 0 ? flop / seconds / ranks : 0;

	printf("  %-34s %9.3f s", name, seconds);
	if (flop > 0)
		printf(" %9.3f TFLOP/s %5.1f %%", rate / 1e12, 100 * rate / b->gemm);
	printf("\n");
	json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f}", "phase", name, "seconds", seconds,
					      "flop", flop, "flop_per_second_of_a_rank", rate));
}

static int report(const struct bench *b, struct err *e)
{
	const struct trainer *t = &b->t;
	double images = (double)b->s.n, pairs = images * (double)b->levels;
	/* forward and its backward without gradients of frozen weights; base and old policy on top */
	double passes = 2 + (b->kl > 0 ? 1 : 0) + 1;
	double step =
	    ((b->rollout + b->decode) * 1152 / images + b->update * 1152 * 9 / pairs) * t->dist->ranks;
	json_t *list = json_array(), *j;
	int ret, recordings = 0;
	int64_t replayed = 0;

	printf("bench: %s, %.3f G parameters, %lld x %lld latents, %lld text tokens, LoRA r = %lld (%lld "
	       "parameters)\n",
	       b->model, (double)nn_count(&t->pipeline.transformer.net) / 1e9, (long long)b->latent,
	       (long long)b->latent, (long long)b->text_tokens, (long long)b->rank,
	       (long long)t->policies.theta.numel);
	const char *attention = mmdit_attention(&t->pipeline.transformer, b->s.x0_NCHW, b->s.cond.text_BLE);
	printf(
	    "  %s, %s, attention by '%s', %d rank%s of %d thread%s; a large product runs at %.3f TFLOP/s\n",
	    b->device, b->dtype, attention, t->dist->ranks, t->dist->ranks > 1 ? "s" : "", at_threads(),
	    at_threads() > 1 ? "s" : "", b->gemm / 1e12);
	phase(list, "rollout", b->rollout, images * (double)b->steps * b->forward, b);
	phase(list, "update", b->update, pairs * passes * b->forward, b);
	phase(list, "  of it all-reduce", b->reduce, 0, b);
	phase(list, "merging the old policy", b->refresh, 0, b);
	if (t->pipeline.vae)
		phase(list, "decoding the pictures", b->decode, 0, b);
	printf("  %.0f pictures of %lld steps: %.3f a second; %.0f (picture, level) pairs: %.3f a second\n",
	       images, (long long)b->steps, images / b->rollout, pairs, pairs / b->update);
	if (t->rollout.replays)
		replays_count(t->rollout.replays, &recordings, &replayed);
	if (b->t.pipeline.device == AT_CUDA)
		printf("  %d forwards recorded, %lld replayed\n", recordings, (long long)replayed);
	printf("  48 x 24 pictures and 9 levels each would take %.0f %s-seconds; peak memory %.2f GiB\n",
	       step, strcmp(b->device, "cuda") ? "rank" : "GPU", peak_bytes(b) / 1073741824);
	j = json_pack(
	    "{s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, "
	    "s:b, s:i, s:I, s:o}",
	    "model", b->model, "device", b->device, "dtype", b->dtype, "attention", attention, "ranks",
	    t->dist->ranks, "threads", at_threads(), "latent", (json_int_t)b->latent, "text_tokens",
	    (json_int_t)b->text_tokens, "images", (json_int_t)b->s.n, "steps", (json_int_t)b->steps, "levels",
	    (json_int_t)b->levels, "micro_batch", (json_int_t)b->micro, "checkpoint_blocks",
	    (json_int_t)b->checkpoint, "rank", (json_int_t)b->rank, "kl_beta", b->kl, "gemm_flop_per_second",
	    b->gemm, "peak_bytes", peak_bytes(b), "seconds_of_1152_pictures", step, "fp8", b->fp8,
	    "recordings", recordings, "replayed", (json_int_t)replayed, "phases", list);
	ret = b->out ? json_write(b->out, j, e) : 0;
	json_decref(j);
	return ret;
}

static int check(const struct bench *b, struct err *e)
{
	if (b->groups < 1 || b->group_size < 2 || b->batch < 1 || b->micro < 1 || b->steps < 2 ||
	    b->levels < 1 || b->levels > b->steps || b->repeats < 1 || b->vae_batch < 1 ||
	    b->repeats > MOST_REPEATS || b->latent < 0 || b->text_tokens < 0 || b->rank < 1 ||
	    b->checkpoint < 0 || !(b->kl >= 0))
		return err_set(
		    e,
		    "bench: sizes must be above 0, --group-size and --steps at least 2, --levels at most "
		    "--steps, --repeats at most %d",
		    MOST_REPEATS);
	return 0;
}

static int bench(struct bench *b, struct dist *d, struct err *e)
{
	int ret;

	startup_threads(d, b->threads);
	ret = check(b, e) || make_experiment(b, e) || make_trainer(b, d, e) ? -1 : 0;
	ret = dist_agree(d, ret, e);
	if (!ret && b->t.pipeline.device == AT_CUDA)
		ret = dist_use_nccl(d, e);
	if (!ret) {
		double side = (double)b->latent / (double)b->t.pipeline.transformer.conf.patch_size;

		b->forward = forward_flop(&b->t.pipeline.transformer, side * side, (double)b->text_tokens);
		measure_gemm(b);
		measure(b);
		ret = dist_agree(d, d->rank == 0 ? report(b, e) : 0, e);
	}
	release(b);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct bench b = { .model = "tiny",
			   .dtype = "float32",
			   .device = "auto",
			   .groups = 2,
			   .group_size = 4,
			   .batch = 8,
			   .micro = 8,
			   .steps = 10,
			   .levels = 9,
			   .rank = 32,
			   .repeats = 3,
			   .vae_dtype = "float32",
			   .vae_batch = 1,
			   .kl = 1e-4 };
	const char *args[1];
	const struct option_spec spec[] = {
		{ "model", 's', &b.model, "NAME",
		  "tiny, medium (SD3.5's) or a transformer's folder (default tiny)" },
		{ "latent", 'i', &b.latent, "N",
		  "side of the latents (default: the model's; medium 64, 512 pixels)" },
		{ "text-tokens", 'i', &b.text_tokens, "N", "tokens of text (default: medium 205)" },
		{ "groups", 'i', &b.groups, "N", "prompts (default 2)" },
		{ "group-size", 'i', &b.group_size, "N", "pictures a prompt (default 4)" },
		{ "batch", 'i', &b.batch, "N", "pictures sampled at a time (default 8)" },
		{ "micro-batch", 'i', &b.micro, "N", "pairs a forward and backward (default 8)" },
		{ "steps", 'i', &b.steps, "N", "sampling steps (default 10)" },
		{ "levels", 'i', &b.levels, "N", "noise levels trained a picture (default 9)" },
		{ "rank", 'i', &b.rank, "N", "of the adapter (default 32)" },
		{ "kl", 'r', &b.kl, "X", "nft.kl_beta; 0 saves the base's forward (default 1e-4)" },
		{ "checkpoint-blocks", 'i', &b.checkpoint, "N",
		  "blocks whose activations are computed twice (default 0: none)" },
		{ "fp8", 'f', &b.fp8, NULL, "sample with 8-bit weights" },
		{ "record-update", 'f', &b.record_update, NULL,
		  "replay forward and backward, too (on a GPU)" },
		{ "no-graphs", 'f', &b.no_graphs, NULL, "run every forward, replay none (on a GPU)" },
		{ "vae-dtype", 's', &b.vae_dtype, "TYPE", "precision of decoding (default float32)" },
		{ "vae-batch", 'i', &b.vae_batch, "N", "pictures decoded at a time (default 1)" },
		{ "repeats", 'i', &b.repeats, "N", "rounds; medians are told (default 3)" },
		{ "threads", 'i', &b.threads, "N", "CPU threads a rank (default: its share of the cores)" },
		{ "dtype", 's', &b.dtype, "TYPE", "of the frozen weights (default float32)" },
		{ "device", 's', &b.device, "NAME",
		  "auto, cpu or cuda (default auto: a GPU where there is one)" },
		{ "o", 's', &b.out, "FILE.json", "the figures" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct dist d;
	int n, ret = options_parse(&cmd_bench, spec, argc, argv, args, 0, &n, e);

	if (ret)
		return ret;
	if (startup_open(&d, STARTUP_RANKS, e))
		return -1;
	ret = bench(&b, &d, e);
	return startup_close(&d, ret, e);
}

const struct command cmd_bench = { "bench", "[--model tiny | medium | DIR] [options]",
				   "time the phases of a step on random weights", run };
