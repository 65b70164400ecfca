/* cmd_sample.c -- contraflow sample: prompts -> a grid of images, a folder of them, or their latents. */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "commands/keep.h"
#include "commands/options.h"
#include "commands/sample_grid.h"
#include "commands/session.h"
#include "trainer/evaluation/evaluate.h"
#include "trainer/evaluation/grids.h"
#include "dist/startup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- A folder of images -------------------------------------------------------------------------- */

struct filling {
	const struct album *album;
	const int64_t *id;
	struct progress bar;
};

static int put(void *ctx, int64_t at, at_t rgb_BHW3, struct err *e)
{
	struct filling *f = ctx;
	int64_t n = at_size(rgb_BHW3, 0), each = at_numel(rgb_BHW3) / n;
	int ret = 0;

	for (int64_t i = 0; i < n && !ret; i++)
		ret = album_put(f->album, f->id[at + i], (const uint8_t *)at_data(rgb_BHW3) + i * each, e);
	progress_tick(&f->bar, at + n, "%s", "");
	return ret;
}

/* This rank's share of what is missing. */
static int fill_album(struct dist *d, struct session *s, const struct session_settings *used,
		      const struct sample_options *r, const struct album *a, struct err *e)
{
	int64_t *id = mem_zero((size_t)a->n, sizeof *id), n = album_missing(a, id);
	struct filling f = { .album = a, .id = id };
	struct evaluator v = { .dist = d,
			       .pipeline = &s->pipeline,
			       .sampler = &s->sampler,
			       .prompts = &r->prompts,
			       .images_per_prompt = r->per,
			       .batch = used->o.batch,
			       .height = used->o.height,
			       .width = used->o.width,
			       .seed = (uint64_t)r->seed };
	struct sampling how = evaluator_sampling(&v, &s->pass);

	how.purpose = RNG_USER; /* a seed names the same image here and in a grid */
	how.steps = RNG_USER_SOLVER;
	how.take = put;
	how.take_ctx = &f;
	progress_begin(&f.bar, "sample", 0, n);
	int ret = sampling_run(&how, id, n, e);
	progress_end(&f.bar);
	free(id);
	return dist_agree(d, ret, e);
}

static int sample_folder(struct dist *d, const struct session_settings *used, const struct sample_options *r,
			 struct err *e)
{
	struct album a = { 0 };
	struct session s;
	int ret = dist_agree(d, session_open(&s, d, used, "sample", e), e);

	if (ret)
		return -1;
	ret = keep_open(&a, d, &r->keep, &s, used, &r->prompts, r->per, r->seed, "sample", e);
	if (!ret)
		ret = prepare_prompts(d, &s.pipeline, &r->prompts, e);
	conditioner_rest(s.pipeline.text);
	if (!ret)
		ret = fill_album(d, &s, used, r, &a, e);
	if (!ret && d->rank == 0)
		keep_say(&a);
	album_close(&a);
	session_close(&s);
	return ret;
}

/* ---- The command --------------------------------------------------------------------------------- */

/* A name that promises what would not be in it. */
static bool is_other_image(const char *path)
{
	static const char *const ends[] = { ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff" };
	size_t n = strlen(path);

	for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
		if (n > strlen(ends[i]) && !strcasecmp(path + n - strlen(ends[i]), ends[i]))
			return true;
	return false;
}

static int check(struct sample_options *r, struct err *e)
{
	if (!r->prompt.n == !r->file)
		return err_set(e, "sample: give %s--prompt TEXT or --prompts FILE", r->file ? "either " : "");
	if (r->out && is_other_image(r->out))
		return err_set(e, "sample: -o %s: images are written as PNG: name it .png", r->out);
	if (!r->out && !r->save_latents && !r->keep.dir)
		return err_set(e, "sample: nothing to write; give -d DIR (an image a file), -o FILE.png (a "
				  "grid) or --save-latents FILE");
	if (r->keep.dir && (r->out || r->save_latents || r->latents))
		return err_set(e, "sample: -d DIR takes no -o, --latents or --save-latents");
	if (r->keep.dir && (r->captions || r->against))
		return err_set(e, "sample: --captions and --against are of a grid (-o FILE.png)");
	if ((r->captions || r->against) && !r->out)
		return err_set(e, "sample: --captions and --against need -o FILE.png");
	if (r->against && r->latents)
		return err_set(e, "sample: --against takes no --latents");
	if (r->per < 1 || r->per > 10000 || r->zoom < 1 || r->zoom > 64)
		return err_set(e, "sample: --per-prompt must be in [1, 10000], --zoom in [1, 64]");
	if (r->choose < 0 || r->choose > 1000000)
		return err_set(e, "sample: --choose %lld: must be in [0, 1000000]", (long long)r->choose);
	return keep_check(&r->keep, "sample", e);
}

/* With metadata, so that a text may have any characters. */
static void prompts_of_list(struct prompts *p, const struct option_list *l)
{
	*p = (struct prompts) { .n = l->n, .path = mem_str("--prompt") };
	p->v = mem_zero((size_t)l->n, sizeof *p->v);
	for (int i = 0; i < l->n; i++) {
		json_t *j = json_object();

		json_object_set_new(j, "prompt", json_words(l->v[i]));
		p->v[i] = (struct prompt) { mem_str(l->v[i]), json_line(j), mem_str("") };
		json_decref(j);
	}
}

/* The same as a run's grids take: tags in turns. */
static void choose(struct prompts *p, int n)
{
	int64_t *index = mem_zero((size_t)n, sizeof *index);
	struct prompts some = { .n = grid_choose(p, n, index), .path = mem_str(p->path) };

	some.v = mem_zero((size_t)some.n, sizeof *some.v);
	for (int64_t i = 0; i < some.n; i++) {
		const struct prompt *of = &p->v[index[i]];

		some.v[i] = (struct prompt) { mem_str(of->text), mem_str(of->meta), mem_str(of->tag) };
	}
	prompts_free(p);
	*p = some;
	free(index);
}

static int read_prompts(struct sample_options *r, struct err *e)
{
	if (!r->file)
		prompts_of_list(&r->prompts, &r->prompt);
	else if (prompts_read(&r->prompts, r->file, e))
		return -1;
	if (r->choose)
		choose(&r->prompts, (int)r->choose);
	if (r->prompts.n * r->per <= INT32_MAX)
		return 0;
	return err_set(e, "sample: %lld prompts with %lld images each are too many", (long long)r->prompts.n,
		       (long long)r->per);
}

static int work(struct dist *d, const struct session_options *o, struct sample_options *r, struct err *e)
{
	struct session_settings used;

	if (dist_agree(d, read_prompts(r, e), e))
		return -1;
	int ret = startup_threads(d, o->threads, e) ? err_in(e, "sample") : 0;
	if (!ret && !(ret = dist_agree(d, session_settle(&used, o, r->config, "sample", e), e))) {
		ret = r->keep.dir ? sample_folder(d, &used, r, e) : sample_grid(d, &used, r, e);
		session_settings_release(&used);
	}
	prompts_free(&r->prompts);
	return ret;
}

static int run(int argc, char **argv, struct err *e)
{
	struct session_options o = SESSION_DEFAULTS;
	struct sample_options r = { .per = 1, .zoom = 1 };
	const char *args[1];
	const struct option_spec spec[] = {
		SESSION_OPTIONS(o),
		{ "prompt", 'm', &r.prompt, "TEXT", "the prompt; may be repeated" },
		{ "prompts", 's', &r.file, "FILE", "prompts from a file, .txt or .jsonl" },
		{ "choose", 'i', &r.choose, "N", "only N of the prompts, tags taking turns (default: all)" },
		{ "per-prompt", 'i', &r.per, "N", "images per prompt (default 1)" },
		{ "seed", 'i', &r.seed, "N", "seed of the noise (default 0)" },
		{ "latents", 's', &r.latents, "FILE",
		  "start from the tensor `latents` of a safetensors file" },
		{ "save-latents", 's', &r.save_latents, "FILE",
		  "write the final latents to a safetensors file" },
		{ "captions", 'f', &r.captions, NULL,
		  "beneath each image of a grid its prompt, and its score by the run's rewards or "
		  "--config's" },
		{ "against", 's', &r.against, "PATH",
		  "beside each image of a grid, to its left, that of this adapter, or `base`, from the same "
		  "noise" },
		{ "config", 's', &r.config, "FILE",
		  "use the settings and rewards of this configuration instead of the run's" },
		{ "columns", 'i', &r.cols, "N", "images per row of the grid (default: one row per prompt)" },
		{ "zoom", 'i', &r.zoom, "N", "enlarge images by this factor (default 1)" },
		{ "o", 's', &r.out, "FILE.png", "where the image, or the grid of images, goes" },
		KEEP_OPTIONS(r.keep, "d",
			     "a folder for the images, a file each; goes on where it stopped; with mpirun, "
			     "all ranks work"),
		{ "quiet", 'f', &r.quiet, NULL, "print no progress" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct dist d;
	int n, ret = options_parse(&cmd_sample, spec, argc, argv, args, 0, &n, e);

	if (ret)
		return ret;
	if (check(&r, e))
		return -1;
	if ((ret = startup_open(&d, r.keep.dir ? STARTUP_RANKS : STARTUP_ALONE, e)))
		return ret;
	log_quiet(r.quiet);
	ret = d.rank == 0 && (file_can_write(r.out, e) || file_can_write(r.save_latents, e) ||
			      file_can_fill(r.keep.dir, e))
		  ? err_in(e, "sample")
		  : 0;
	ret = dist_agree(&d, ret, e) ? -1 : work(&d, &o, &r, e);
	return startup_close(&d, ret, e);
}

const struct command cmd_sample = {
	"sample", "--model DIR|--lora RUN --prompt TEXT|--prompts FILE ... -o FILE.png|-d DIR",
	"generate images from prompts", run
};
