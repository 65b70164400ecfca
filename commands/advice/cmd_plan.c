/* cmd_plan.c -- contraflow plan: what a configuration will take on so many GPUs of a kind. */
#include "commands/advice/plan.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/version.h"
#include "commands/options.h"
#include "data/prompts.h"
#include "trainer/prompt_sets.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB 1073741824.0

struct plan_request {
	const char *gpu, *bench, *out, *preset;
	const struct preset *sizes; /* of --preset, or NULL */
	int64_t gpus, steps;
	struct option_list set;
};

/* This machine's rates, and how much longer than the least it takes, as bench --model-cost -o wrote them. */
static int read_bench(struct plan_gpu *gpu, struct plan_loss *loss, const char *path, struct err *e)
{
	static const char *const phases[] = { "rollout's forwards", "the old policy's forwards",
					      "the base's forwards", "theta's forwards and backwards",
					      "decoding" };
	json_t *j = json_read(path, e), *phase;
	size_t i;

	if (!j)
		return -1;
	int ret = json_get_real(&gpu->gemm, j, "gemm_flop_per_second", 0, path, e) ||
			  json_get_real(&gpu->copy, j, "copy_bytes_per_second", 0, path, e)
		      ? -1
		      : 0;
	if (!ret && !(gpu->gemm > 0 && gpu->copy > 0))
		ret = err_set(e, "%s: no rates in it: it must be what `contraflow bench -o` wrote", path);
	json_array_foreach(json_object_get(json_object_get(j, "model_cost"), "phases"), i, phase)
	{
		const char *name = json_string_value(json_object_get(phase, "phase"));
		double ratio = 0;

		for (int k = 0; !ret && name && k < PLAN_EVAL; k++)
			if (!strcmp(name, phases[k]) &&
			    !(ret = json_get_number(&ratio, phase, "ratio", NAN, path, e)) && ratio >= 1)
				loss->of[k] = ratio;
	}
	loss->of[PLAN_EVAL] = loss->of[PLAN_ROLLOUT];
	json_decref(j);
	return ret;
}

static int find_gpu(struct plan_gpu *gpu, const char *name, struct err *e)
{
	struct text all = { 0 };

	for (const struct plan_gpu *g = plan_gpus; g->name; g++) {
		if (!strcmp(g->name, name)) {
			*gpu = *g;
			return 0;
		}
		text_printf(&all, "%s%s", all.n ? ", " : "", g->name);
	}
	err_set(e, "plan: --gpu '%s' is not known; there are %s (another: give --bench, from that machine)",
		name, all.s);
	text_free(&all);
	return -1;
}

static void print(const struct plan *p, const struct plan_gpu *gpu, const struct plan_request *r,
		  int64_t steps)
{
	static const char *const units[PLAN_PARTS] = { "forwards", "pairs",  "pairs",
						       "pairs",    "images", "forwards" };
	double wall = p->sum / (double)r->gpus, hours = wall * (double)steps / 3600;

	printf("  a step: %lld images, %lld noise levels each\n", (long long)p->images, (long long)p->levels);
	for (int i = 0; i < PLAN_PARTS; i++)
		if (p->count[i] > 0)
			printf("    %-12s %10.0f %-9s %10.4g GPU-s\n", plan_parts[i], p->count[i], units[i],
			       p->seconds[i]);
	printf("  %.4g GPU-seconds a step: %.3g s on %lld, and what rewards take beyond that\n", p->sum, wall,
	       (long long)r->gpus);
	printf("  %lld steps: %.3g h, %.3g GPU-hours\n", (long long)steps, hours, hours * (double)r->gpus);
	printf("  memory of a rank: about %.0f of %.0f GiB with a micro-batch of %lld (%.1f always, %.2f a "
	       "pair)%s",
	       p->memory / GIB, gpu->memory / GIB, (long long)p->micro, p->fixed / GIB, p->pair / GIB,
	       p->fits ? "" : ": DOES NOT FIT");
	if (p->blocks)
		printf(", %lld blocks computed twice", (long long)p->blocks);
	printf("\n  text encoders (opened before training), rewards and the all-reduce are not counted\n");
}

static json_t *as_json(const struct plan *p, const struct plan_gpu *gpu, const struct plan_request *r,
		       int64_t steps)
{
	json_t *j = json_object(), *parts = json_object();

	for (int i = 0; i < PLAN_PARTS; i++) {
		json_t *one = json_object();

		json_object_set_new(one, "count", json_number(p->count[i]));
		json_object_set_new(one, "gpu_seconds", json_number(p->seconds[i]));
		json_object_set_new(parts, plan_parts[i], one);
	}
	json_object_set_new(j, "version", json_string(version()));
	json_object_set_new(j, "gpu", json_string(gpu->name));
	json_object_set_new(j, "gpus", json_integer(r->gpus));
	json_object_set_new(j, "steps", json_integer(steps));
	json_object_set_new(j, "parts", parts);
	json_object_set_new(j, "gpu_seconds_a_step", json_number(p->sum));
	json_object_set_new(j, "hours", json_number(p->sum / (double)r->gpus * (double)steps / 3600));
	json_object_set_new(j, "memory_bytes", json_number(p->memory));
	json_object_set_new(j, "micro_batch", json_integer(p->micro));
	json_object_set_new(j, "checkpointed_blocks", json_integer(p->blocks));
	json_object_set_new(j, "fits", json_boolean(p->fits));
	return j;
}

/* Held-out prompts; 0 where there are none, or their file is not here yet. */
static int64_t count_test(const struct experiment *c)
{
	struct prompts p;
	struct err ignored;

	if (!prompts_have_test(c) || prompts_read_test(&p, c, &ignored))
		return 0;
	int64_t n = p.n;
	prompts_free(&p);
	return n;
}

static int plan(const struct experiment *c, const char *stage, const struct plan_gpu *gpu,
		const struct plan_loss *loss, const struct plan_request *r, json_t *out, struct err *e)
{
	int64_t steps = r->steps > 0 ? r->steps : c->train.max_steps;
	struct plan p;

	if (plan_make(&p, c, gpu, loss, r->sizes, r->gpus, count_test(c), e))
		return -1;
	if (stage)
		printf(" stage %s\n", stage);
	print(&p, gpu, r, steps);
	json_array_append_new(out, as_json(&p, gpu, r, steps));
	return 0;
}

static int plan_all(const char *path, struct plan_request *r, struct err *e)
{
	struct plan_gpu gpu = { 0 };
	struct plan_loss loss = plan_measured;
	struct experiment x, stage;
	json_t *out = json_array();

	int ret = find_gpu(&gpu, r->gpu, e) || (r->bench && read_bench(&gpu, &loss, r->bench, e)) ||
			  experiment_read(&x, path, r->set.v, r->set.n, e)
		      ? -1
		      : 0;
	if (ret) {
		json_decref(out);
		return -1;
	}
	printf("plan: %s%s%s on %lld x %s (%s)\n", path, r->preset ? " with the sizes of " : "",
	       r->preset ? r->preset : "", (long long)r->gpus, gpu.name,
	       r->bench ? r->bench : "by what one H200 took, and data sheets");
	for (int i = 0; i < experiment_stages(&x) && !ret; i++) {
		if ((ret = experiment_stage(&stage, &x, i, e)))
			break;
		ret = plan(&stage, x.n_stages ? x.stage[i] : NULL, &gpu, &loss, r, out, e);
		experiment_release(&stage);
	}
	if (!ret && r->out)
		ret = json_write(r->out, out, e);
	json_decref(out);
	experiment_release(&x);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct plan_request r = { .gpu = "h100", .gpus = 1 };
	const char *args[1];
	const struct option_spec spec[] = {
		{ "gpus", 'i', &r.gpus, "N", "GPUs that train, one rank each (default 1)" },
		{ "gpu", 's', &r.gpu, "KIND", "h200, h100, a100, a100-40, l40s or 4090 (default h100)" },
		{ "steps", 'i', &r.steps, "N", "optimizer steps (default: train.max_steps)" },
		{ "bench", 's', &r.bench, "FILE.json",
		  "rates and losses of a machine of your own: what `contraflow bench --model-cost -o` wrote "
		  "there" },
		{ "preset", 's', &r.preset, "NAME",
		  "a model that is not here, in place of the configuration's: " PRESETS },
		{ "set", 'm', &r.set, "KEY=VALUE", "override a key; may be repeated" },
		{ "o", 's', &r.out, "FILE.json", "also write the plan to this file" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	int n, ret = options_parse(&cmd_plan, spec, argc, argv, args, 1, &n, e);

	if (ret)
		return ret;
	if (n != 1)
		return err_set(e, "plan: usage: contraflow plan %s", cmd_plan.usage);
	if (file_can_write(r.out, e))
		return err_in(e, "plan");
	if (r.gpus < 1 || r.gpus > 100000 || r.steps < 0)
		return err_set(e, "plan: --gpus must be in [1, 100000], --steps at least 0");
	if (r.preset && !(r.sizes = preset_find(r.preset)))
		return err_set(e, "plan: --preset '%s' is not known; there are " PRESETS, r.preset);
	return plan_all(args[0], &r, e);
}

const struct command cmd_plan = {
	"plan", "CONFIG [--gpus N] [--gpu KIND] [--steps N] [--preset NAME] [--bench FILE.json]",
	"seconds, memory and hours that a configuration will take on GPUs", run
};
