#include "commands/advice/examine.h"
#include "aten/memory.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "models/lora/lora.h"
#include "models/pipeline.h"
#include "trainer/judging.h"
#include "trainer/prompt_sets.h"
#include "trainer/record/rundir.h"
#include <fts.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

int examined(struct examination *x, enum verdict v, const char *what, const char *fmt, ...)
{
	static const char *const words[] = { "ok", "warn", "FAIL" };
	double now = clock_now();
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		die("out of memory");
	va_end(ap);
	text_tame(text);
	printf("%-5s %-14s %s", words[v], what, text);
	if (x->began > 0)
		printf("  (%.1f s)", now - x->began);
	printf("\n");
	fflush(stdout); /* what comes next may take long */
	free(text);
	x->began = x->began > 0 ? now : 0;
	x->warnings += v == EXAMINED_WARN;
	x->failures += v == EXAMINED_FAIL;
	return v == EXAMINED_FAIL ? -1 : 0;
}

/* ---- The model's files --------------------------------------------------------------------------- */

/* Bytes of all weights below a folder. */
static double weights_in(const char *dir)
{
	char *const roots[] = { (char *)(uintptr_t)dir, NULL };
	FTS *fts = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, NULL);
	double bytes = 0;

	for (FTSENT *f; fts && (f = fts_read(fts));)
		if (f->fts_info == FTS_F && text_ends(f->fts_name, ".safetensors"))
			bytes += (double)f->fts_statp->st_size;
	if (fts)
		fts_close(fts);
	return bytes;
}

int examine_files(struct examination *x, const struct experiment *c)
{
	char *cache = experiment_cache(c), size[32];
	struct pipeline_options o = { .dir = c->model.path,
				      .text_length = c->model.text_length,
				      .text_cache = cache };
	struct pipeline_hashes h;
	struct err e;
	int ret;

	if (!file_is_dir(c->model.path))
		ret = examined(x, EXAMINED_FAIL, "model",
			       "%s: no such folder: model.path is a pipeline in diffusers' layout "
			       "(docs/models.md)",
			       c->model.path);
	else if (pipeline_hash(&h, &o, &e))
		ret = examined(x, EXAMINED_FAIL, "model", "%s", e.msg);
	else
		ret = examined(x, EXAMINED_OK, "model",
			       "%s: %s of weights, transformer %016" PRIx64 ", text encoders %016" PRIx64,
			       c->model.path, text_size(size, weights_in(c->model.path)), h.transformer,
			       h.text);
	free(cache);
	return ret;
}

/* ---- Room ---------------------------------------------------------------------------------------- */

/* Parameters of the transformer and of the adapter, by configurations alone. */
static int count(double *params, double *adapter, const struct experiment *c, struct err *e)
{
	const struct family *family = pipeline_family(c->model.path, e);
	char *dir = file_join(c->model.path, "transformer");
	struct transformer t = { 0 };
	struct lora l = { 0 };
	int ret = family ? transformer_describe(&t, family->transformer, dir, e) : -1;

	if (!ret)
		ret = lora_init(&l, t.net, &c->lora, 0, AT_CPU, e);
	if (!ret) {
		*params = (double)nn_count(t.net);
		*adapter = (double)l.numel;
	}
	lora_release(&l);
	transformer_close(&t);
	free(dir);
	return ret;
}

/* The folder itself, or the first above it that is there; free(). */
static char *nearest(const char *path)
{
	char *dir = mem_str(path);

	while (!file_exists(dir)) {
		char *above = file_dir(dir);

		free(dir);
		dir = above;
	}
	return dir;
}

/* A folder to write to, in which `needs` bytes should have room. */
static int examine_folder(struct examination *x, const char *what, const char *path, double needs,
			  const char *why)
{
	char *dir = nearest(path), free_text[32], needs_text[32];
	struct statvfs fs;
	int ret = 0;

	if (!file_is_dir(dir) || access(dir, W_OK | X_OK)) {
		ret = examined(x, EXAMINED_FAIL, what,
			       "%s cannot be written: chown or chmod it, or name another", dir);
	} else if (statvfs(dir, &fs)) {
		ret = examined(x, EXAMINED_WARN, what, "%s: its room is not known", dir);
	} else {
		double left = (double)fs.f_bavail * (double)fs.f_frsize;

		text_size(free_text, left);
		text_size(needs_text, needs);
		ret = examined(x, left < needs ? EXAMINED_FAIL : EXAMINED_OK, what, "%s: %s free, %s %s%s",
			       path, free_text, why, needs_text,
			       left < needs ? ": free some, or name another" : "");
	}
	free(dir);
	return ret;
}

static int examine_memory(struct examination *x, const struct experiment *c, double params, double adapter)
{
	struct at_memory m;
	enum at_device dev;
	enum at_dtype dt;
	struct err e;
	char a[32], b[32];

	if (at_device_parse(&dev, c->run.device, &e) || at_dtype_parse(&dt, c->run.dtype, &e))
		return examined(x, EXAMINED_FAIL, "memory", "%s", e.msg);
	at_memory_read(dev, &m);
	/* theta, old and ema; their gradient and two moments */
	double needs = params * (double)at_dtype_size(dt) + 6 * 4 * adapter;
	text_size(a, needs);
	text_size(b, (double)m.left);
	return examined(x, needs > (double)m.left ? EXAMINED_FAIL : EXAMINED_OK, "memory",
			"%s: transformer and adapter take %s a rank in %s, %s left%s", at_device_name(dev), a,
			c->run.dtype, b,
			needs > (double)m.left ? ": a smaller run.dtype, or another machine"
					       : "; `contraflow plan` tells what a step takes on top");
}

int examine_room(struct examination *x, const struct experiment *c)
{
	char *run = rundir_path(c, NULL), *cache = experiment_cache(c);
	double params, adapter;
	struct err e;
	int ret = 0;

	if (count(&params, &adapter, c, &e)) {
		ret = examined(x, EXAMINED_FAIL, "adapter", "%s", e.msg);
	} else {
		ret |= examine_memory(x, c, params, adapter);
		/* three policies and two moments, and PEFT's copy of one */
		ret |= examine_folder(x, "run", run, 6 * 4 * adapter * (double)(c->checkpoint.keep + 1),
				      "checkpoints take");
		ret |= examine_folder(x, "text cache", cache, 0, "embeddings are kept here, at least");
	}
	free(cache);
	free(run);
	return ret;
}

/* ---- A stage ------------------------------------------------------------------------------------- */

static int tags_of(const struct prompts *p)
{
	int n = 0;

	for (int64_t i = 0; i < p->n; i++) {
		int64_t k = 0;

		while (k < i && strcmp(p->v[k].tag, p->v[i].tag))
			k++;
		n += k == i;
	}
	return n;
}

/* One line for each file. */
static int examine_prompts(struct examination *x, const struct experiment *c, bool test, struct prompts *p)
{
	struct err e;

	if (test ? prompts_read_test(p, c, &e) : prompts_read_train(p, c, &e))
		return examined(x, EXAMINED_FAIL, "prompts", "%s", e.msg);
	for (int k = 0; k < p->sets; k++) {
		const struct prompt_set *set = &p->set[k];
		struct prompts own = { .n = set->n, .v = p->v + set->begin };

		if (set->n)
			examined(x, EXAMINED_OK, "prompts", "set %s: %s: %lld prompts of %d tag%s", set->name,
				 set->path, (long long)set->n, tags_of(&own), tags_of(&own) == 1 ? "" : "s");
	}
	return p->sets ? 0
		       : examined(x, EXAMINED_OK, "prompts", "%s: %lld prompts of %d tag%s", p->path,
				  (long long)p->n, tags_of(p), tags_of(p) == 1 ? "" : "s");
}

static void examine_overlap(struct examination *x, const struct prompts *train, const struct prompts *test)
{
	const char *first;
	int64_t seen = train->n && test->n ? prompts_seen(test, train, &first) : 0;

	if (seen)
		examined(
		    x, EXAMINED_WARN, "prompts",
		    "%lld test prompts stand in the training file ('%.60s'): held-out scores are no measure "
		    "of new prompts: give a file without them",
		    (long long)seen, first);
}

struct mixture *examine_rewards(struct examination *x, const struct experiment *c,
				const struct prompts *train, const struct prompts *test)
{
	struct mixture *m = NULL;
	struct text names = { 0 };
	struct err e;

	int ret = mixture_open(&m, c->tree, 1, &e) || (train->n && judging_check(m, train, &e)) ||
			  (test->n && judging_check(m, test, &e)) || mixture_load(m, &e)
		      ? -1
		      : 0;
	for (int k = 0; !ret && k < mixture_count(m); k++)
		text_printf(&names, "%s%s", k ? ", " : "", mixture_at(m, k)->name);
	if (ret)
		examined(x, EXAMINED_FAIL, "rewards", "%s", e.msg);
	else
		examined(x, EXAMINED_OK, "rewards", "%s: open, and can score every prompt", names.s);
	text_free(&names);
	if (!ret)
		return m;
	mixture_close(m);
	return NULL;
}

int examine_stage(struct examination *x, const struct experiment *c, const char *stage)
{
	struct prompts train = { 0 }, test = { 0 };
	int ret = 0;

	if (stage)
		ret |= examined(x, EXAMINED_OK, "stage", "%s", stage);
	ret |= examine_prompts(x, c, false, &train);
	if (prompts_have_test(c))
		ret |= examine_prompts(x, c, true, &test);
	examine_overlap(x, &train, &test);
	struct mixture *m = examine_rewards(x, c, &train, &test);
	ret |= m ? 0 : -1;
	mixture_close(m);
	prompts_free(&train);
	prompts_free(&test);
	return ret;
}
