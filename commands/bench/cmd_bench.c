/* cmd_bench.c -- contraflow bench: what bench.h times, told. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/version.h"
#include "commands/bench/model_cost.h"
#include "commands/bench/presets.h"
#include "commands/options.h"
#include "dist/startup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB 1073741824.0

static void phase(json_t *list, const char *name, double seconds, double flop, const struct bench *b)
{
	int ranks = b->t.dist->ranks;
	double rate = seconds > 0 ? flop / seconds / ranks : 0;

	printf("  %-34s %9.3f s", name, seconds);
	if (flop > 0)
		printf(" %9.3f TFLOP/s %5.1f %%", rate / 1e12, 100 * rate / b->gemm);
	printf("\n");
	json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o}", "phase", name, "seconds",
					      json_number(seconds), "flop", json_number(flop),
					      "flop_per_second_of_a_rank", json_number(rate)));
}

static const char *attention(const struct bench *b)
{
	const struct transformer *net = &b->t.pipeline.transformer;

	return net->type->attention(net->m, b->s.x0_NCHW, &b->s.cond);
}

static void header(const struct bench *b)
{
	const struct trainer *t = &b->t;

	printf("bench: %s, %.3f G parameters, %lld x %lld latents, %lld text tokens, LoRA r = %lld (%lld "
	       "parameters)\n",
	       b->model, (double)nn_count(t->pipeline.transformer.net) / 1e9, (long long)b->latent,
	       (long long)b->latent, (long long)b->text_tokens, (long long)b->rank,
	       (long long)t->policies.theta.numel);
	printf("  %s, %s, attention by '%s', %d rank%s of %d thread%s; a large product runs at %.3f TFLOP/s, "
	       "a large copy at %.3f TB/s\n",
	       at_device_text(t->pipeline.device), b->dtype, attention(b), t->dist->ranks,
	       t->dist->ranks > 1 ? "s" : "", at_threads(), at_threads() > 1 ? "s" : "", b->gemm / 1e12,
	       b->copy / 1e12);
}

static const char *unit(const struct bench *b)
{
	return b->t.pipeline.device == AT_CUDA ? "GPU" : "rank";
}

static json_t *machine(const struct bench *b)
{
	return json_pack(
	    "{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "version",
	    version(), "model", b->model, "device", b->t.pipeline.device == AT_CUDA ? "cuda" : "cpu",
	    "machine", at_device_text(b->t.pipeline.device), "dtype", b->dtype, "attention", attention(b),
	    "ranks", b->t.dist->ranks, "threads", at_threads(), "latent", (json_int_t)b->latent,
	    "text_tokens", (json_int_t)b->text_tokens, "images", (json_int_t)b->s.n, "steps",
	    (json_int_t)b->steps, "levels", (json_int_t)b->levels, "rank", (json_int_t)b->rank,
	    "gemm_flop_per_second", json_number(b->gemm), "copy_bytes_per_second", json_number(b->copy));
}

static void add_setting(json_t *j, const struct bench *b, const struct bench_times *m)
{
	const struct bench_setting *s = &b->now;

	json_object_update_new(
	    j, json_pack("{s:I, s:I, s:I, s:o, s:b, s:b, s:b, s:s, s:I, s:s, s:o, s:o, s:i, s:I}", "batch",
			 (json_int_t)s->batch, "micro_batch", (json_int_t)s->micro, "checkpoint_blocks",
			 (json_int_t)s->checkpoint, "kl_beta", json_number(s->kl), "fp8", s->fp8, "graphs",
			 s->graphs, "update_replayed", m->update_replayed, "vae_dtype", s->vae_dtype,
			 "vae_batch", (json_int_t)s->vae_batch, "merge", s->merge, "peak_bytes",
			 json_number(m->peak_bytes), "seconds_of_1152_images", json_number(bench_step(b, m)),
			 "cuda_graphs", m->graphs, "replayed", (json_int_t)m->replayed));
}

/* `cost`: NULL unless it was asked for. */
static int report(const struct bench *b, const struct bench_times *m, const struct model_cost *cost,
		  const char *out, struct err *e)
{
	double images = (double)b->s.n, pairs = images * (double)b->levels;
	/* forward and its backward without gradients of frozen weights; base and old policy on top */
	double passes = 2 + (b->now.kl > 0 ? 1 : 0) + 1;
	json_t *list = json_array(), *j;
	int ret;

	header(b);
	phase(list, "rollout", m->rollout, images * (double)b->steps * b->forward, b);
	phase(list, "update", m->update, pairs * passes * b->forward, b);
	phase(list, "  of it all-reduce", m->reduce, 0, b);
	phase(list, "merging the old policy", m->refresh, 0, b);
	if (b->t.pipeline.vae)
		phase(list, "decoding the images", m->decode, 0, b);
	printf("  %.0f images of %lld steps: %.3f per second; %.0f (image, noise level) pairs: %.3f per "
	       "second\n",
	       images, (long long)b->steps, images / m->rollout, pairs, pairs / m->update);
	if (b->t.pipeline.device == AT_CUDA)
		printf("  %d forwards as CUDA graphs, %lld replayed%s\n", m->graphs, (long long)m->replayed,
		       b->now.update_graphs
			   ? m->update_replayed ? "; the update replayed" : "; the update NOT replayed"
			   : "");
	printf("  a step of 48 x 24 images with 9 noise levels each would take %.0f %s-seconds; peak memory "
	       "%.2f GiB\n",
	       bench_step(b, m), unit(b), m->peak_bytes / GIB);
	if (cost)
		model_cost_print(cost, b);
	j = machine(b);
	add_setting(j, b, m);
	if (cost)
		json_object_set_new(j, "model_cost", model_cost_json(cost));
	json_object_set_new(j, "phases", list);
	ret = out ? json_write(out, j, e) : 0;
	json_decref(j);
	return ret;
}

/* ---- Several settings -------------------------------------------------------------------------- */

/* What is asked of a model, the most wanted first. */
enum { MOST_ROWS = 10 };
struct row {
	const char *name;
	struct bench_setting s;
};

static int64_t part_of(int64_t n, int64_t by)
{
	return (n + by - 1) / by;
}

static int list_rows(const struct bench *b, struct row *row)
{
	int64_t n = b->s.count > 0 ? b->s.count : 1, layers = b->t.pipeline.transformer.facts.blocks;
	struct bench_setting all = b->now, half, sixth;
	bool gpu = b->t.pipeline.device == AT_CUDA;
	int k = 0;

	all.batch = all.micro = n;
	half = sixth = all;
	half.batch = half.micro = sixth.batch = part_of(n, 2);
	sixth.micro = part_of(n, 6);
	row[k++] = (struct row) { "all at a time", all };
	row[k++] = (struct row) { "half at a time", half };
	row[k++] = (struct row) { "a sixth a micro-batch", sixth };
	if (b->t.pipeline.vae) {
		row[k] = (struct row) { "decoding in bfloat16", all };
		row[k].s.vae_dtype = "bfloat16";
		row[k++].s.vae_batch = half.batch;
	}
	if (gpu) {
		row[k] = (struct row) { "the update replayed", half };
		row[k++].s.update_graphs = true;
		row[k] = (struct row) { "nothing replayed", all };
		row[k++].s.graphs = false;
	}
	row[k] = (struct row) { "every block computed twice", all };
	row[k++].s.checkpoint = layers;
	row[k] = (struct row) { "without the base's forward", all };
	row[k++].s.kl = 0;
	if (at_dtype_size(b->t.pipeline.dtype) == 2) {
		row[k] = (struct row) { "adapters merged", all };
		row[k++].s.merge = "always";
	}
	row[k] = (struct row) { "rollout in 8 bits", all };
	row[k++].s.fp8 = true;
	return k;
}

static json_t *tell(const struct bench *b, const char *name, const struct bench_times *m)
{
	double images = (double)b->s.n, each = m->rollout / images / (double)b->steps;
	double pair = m->update / images / (double)b->levels;
	json_t *j = json_pack("{s:s, s:o, s:o, s:o, s:o}", "name", name, "seconds_per_forward",
			      json_number(each), "seconds_per_pair", json_number(pair), "seconds_per_decode",
			      json_number(m->decode / images), "seconds_of_merging", json_number(m->refresh));

	add_setting(j, b, m);
	printf("  %-28s %5lld %5lld %10.2f %10.2f %10.2f %9.0f %9.2f %6d %s\n", name, (long long)b->now.batch,
	       (long long)b->now.micro, 1e3 * each, 1e3 * pair, 1e3 * m->decode / images, bench_step(b, m),
	       m->peak_bytes / GIB, m->graphs,
	       b->now.update_graphs ? m->update_replayed ? "+ update" : "NOT the update" : "");
	fflush(stdout); /* what comes later may not fit */
	return j;
}

static int matrix(struct bench *b, const char *out, struct err *e)
{
	struct row row[MOST_ROWS];
	int n = list_rows(b, row), ret = 0;
	json_t *list = json_array();
	bool first = b->t.dist->rank == 0;

	if (first) {
		header(b);
		printf("  %-28s %5s %5s %10s %10s %10s %9s %9s %6s\n", "", "batch", "micro", "ms/forward",
		       "ms/pair", "ms/decode", unit(b), "peak GiB", "graphs");
	}
	for (int i = 0; i < n; i++) {
		struct bench_times m;

		ret = dist_agree(b->t.dist, bench_choose(b, &row[i].s, e), e);
		if (ret)
			goto out;
		bench_measure(b, &m);
		if (first)
			json_array_append_new(list, tell(b, row[i].name, &m));
	}
	if (first) {
		printf("  %s: seconds of one for a step of 48 x 24 images with 9 noise levels each\n",
		       unit(b));
		json_t *j = machine(b);
		json_object_set(j, "settings", list);
		ret = out ? json_write(out, j, e) : 0;
		json_decref(j);
	}
	ret = dist_agree(b->t.dist, ret, e);
out:
	json_decref(list);
	return ret;
}

static int check(const struct bench *b, struct err *e)
{
	const struct bench_setting *s = &b->now;

	if (b->groups < 1 || b->group_size < 2 || s->batch < 1 || s->micro < 1 || b->steps < 2 ||
	    b->levels < 1 || b->levels > b->steps || b->repeats < 1 || s->vae_batch < 1 ||
	    b->repeats > BENCH_MOST_REPEATS || b->latent < 0 || b->text_tokens < 0 || b->rank < 1 ||
	    s->checkpoint < 0 || !(s->kl >= 0))
		return err_set(
		    e,
		    "bench: sizes must be above 0, --group-size and --steps at least 2, --levels at most "
		    "--steps, --repeats at most %d",
		    BENCH_MOST_REPEATS);
	return 0;
}

/* What is told, beside the figures of one setting. */
struct wanted {
	bool several, cost;
	const char *out, *trace;
};

static int bench(struct bench *b, struct dist *d, int64_t threads, const struct wanted *w, struct err *e)
{
	int ret;

	if (startup_threads(d, threads, e))
		return err_in(e, "bench");
	ret = dist_agree(d, check(b, e) || bench_open(b, d, e) ? -1 : 0, e);
	if (!ret && b->t.pipeline.device == AT_CUDA && d->ranks > 1)
		ret = dist_use_nccl(d, e);
	if (!ret)
		bench_ceilings(b);
	if (!ret && w->several) {
		ret = matrix(b, w->out, e);
	} else if (!ret) {
		struct bench_times m;
		struct model_cost c;

		bench_measure(b, &m);
		if (w->cost)
			model_cost(b, &m, &c);
		ret = dist_agree(d, d->rank == 0 ? report(b, &m, w->cost ? &c : NULL, w->out, e) : 0, e);
	}
	if (!ret && w->trace)
		ret = bench_trace(b, w->trace, e);
	bench_close(b);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct bench b = { .model = "tiny",
			   .dtype = "float32",
			   .device = "auto",
			   .groups = 2,
			   .group_size = 4,
			   .steps = 10,
			   .levels = 9,
			   .rank = 32,
			   .repeats = 3,
			   .now = { .vae_dtype = "float32",
				    .merge = "auto",
				    .batch = 8,
				    .micro = 8,
				    .vae_batch = 1,
				    .kl = 1e-4 } };
	bool no_graphs = false;
	struct wanted w = { 0 };
	const char *args[1];
	int64_t threads = 0;
	const struct option_spec spec[] = {
		{ "model", 's', &b.model, "NAME",
		  PRESETS " or a transformer's folder (default tiny; medium: SD3.5 Medium)" },
		{ "latent", 'i', &b.latent, "N",
		  "side of the latents (default: the model's; of presets but tiny: 64, for 512 pixels)" },
		{ "text-tokens", 'i', &b.text_tokens, "N",
		  "text tokens (default of medium and sd3.5-large: 205, of flux1-dev: 512)" },
		{ "groups", 'i', &b.groups, "N", "prompts (default 2)" },
		{ "group-size", 'i', &b.group_size, "N", "images per prompt (default 4)" },
		{ "batch", 'i', &b.now.batch, "N", "images sampled at a time (default 8)" },
		{ "micro-batch", 'i', &b.now.micro, "N",
		  "(image, noise level) pairs per forward and backward pass (default 8)" },
		{ "steps", 'i', &b.steps, "N", "sampling steps (default 10)" },
		{ "levels", 'i', &b.levels, "N", "noise levels at which each image is trained (default 9)" },
		{ "rank", 'i', &b.rank, "N", "rank of the LoRA adapter (default 32)" },
		{ "kl", 'r', &b.now.kl, "X", "nft.kl_beta; 0 saves the base model's forward (default 1e-4)" },
		{ "checkpoint-blocks", 'i', &b.now.checkpoint, "N",
		  "gradient checkpointing: number of blocks that are computed twice (default 0)" },
		{ "fp8", 'f', &b.now.fp8, NULL, "sample with 8-bit weights and activations" },
		{ "update-graphs", 'f', &b.now.update_graphs, NULL,
		  "on a GPU, replay forward and backward from CUDA graphs too" },
		{ "record-update", 'f', &b.now.update_graphs, NULL, "earlier name of --update-graphs" },
		{ "no-graphs", 'f', &no_graphs, NULL, "on a GPU, replay nothing from CUDA graphs" },
		{ "vae-dtype", 's', &b.now.vae_dtype, "TYPE",
		  "type in which images are decoded (default float32)" },
		{ "vae-batch", 'i', &b.now.vae_batch, "N", "images decoded at a time (default 1)" },
		{ "matrix", 'f', &w.several, NULL,
		  "a table of settings: batch sizes, CUDA graphs, gradient checkpointing, 8 bits" },
		{ "model-cost", 'f', &w.cost, NULL,
		  "what each phase computes and moves, and the least time for that at the machine's rates" },
		{ "merge", 's', &b.now.merge, "NAME", "policy.merge: auto, always or never (default auto)" },
		{ "repeats", 'i', &b.repeats, "N",
		  "repetitions, of which the median is reported (default 3)" },
		{ "threads", 'i', &threads, "N",
		  "CPU threads per rank (default: OMP_NUM_THREADS, else its share of the cores)" },
		{ "dtype", 's', &b.dtype, "TYPE", "type of the frozen weights (default float32)" },
		{ "device", 's', &b.device, "NAME",
		  "auto, cpu or cuda (default auto: a GPU if there is one)" },
		{ "trace", 's', &w.trace, "FOLDER",
		  "write a trace of one more repetition there, for chrome://tracing (one rank)" },
		{ "o", 's', &w.out, "FILE.json", "write the figures here" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct dist d;
	int n, ret = options_parse(&cmd_bench, spec, argc, argv, args, 0, &n, e);

	if (ret)
		return ret;
	if ((ret = startup_open(&d, STARTUP_RANKS, e)))
		return ret;
	b.now.graphs = !no_graphs;
	if ((w.trace && (d.ranks > 1 || w.several)) || (w.cost && w.several))
		ret = err_set(e, "bench: --trace is for one rank, and it and --model-cost for one setting, "
				 "without --matrix");
	else if (dist_agree(&d, d.rank == 0 ? file_can_write(w.out, e) : 0, e))
		ret = err_in(e, "bench");
	else
		ret = bench(&b, &d, threads, &w, e);
	return startup_close(&d, ret, e);
}

const struct command cmd_bench = { "bench",
				   "[--model tiny | medium | sd3.5-large | flux1-dev | DIR] [options]",
				   "time the phases of a training step, with random weights", run };
