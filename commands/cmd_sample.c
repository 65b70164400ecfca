/* cmd_sample.c -- contraflow sample: prompts -> a grid of images, a folder of them, or their latents. */
#include "base/image.h"
#include "base/log.h"
#include "base/mem.h"
#include "commands/keep.h"
#include "commands/options.h"
#include "commands/session.h"
#include "trainer/evaluation/evaluate.h"
#include "dist/startup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct sample_options {
	struct option_list prompt; /* --prompt */
	const char *file;          /* --prompts */
	struct prompts prompts;    /* either's */
	int64_t seed, per, cols, zoom;
	const char *latents, *save_latents, *out;
	struct keep keep;
	bool quiet;
};

/* ---- A grid, or latents -------------------------------------------------------------------------- */

/* Initial latents: from a file's tensor `latents`, else noise keyed by seed and image. */
static int start(at_t *x, const struct session *s, const struct sample_options *r, const int64_t *id, int n,
		 struct err *e)
{
	struct at_dims chw = s->latent_CHW;
	struct st_file f;
	int ret;

	if (!r->latents) {
		*x = sampler_noise(&s->pipeline, (uint64_t)r->seed, RNG_USER, 0, id, n, chw);
		return 0;
	}
	if (st_open(&f, r->latents, e))
		return -1;
	ret = st_take(x, &f, "latents", DIMS(n, chw.d[0], chw.d[1], chw.d[2]), e);
	if (!ret)
		*x = at_to(*x, AT_F32, s->pipeline.device);
	st_close(&f);
	return ret;
}

/* What a picture of all of them says of itself. */
static struct image_note *notes(const struct session *s, const struct session_settings *used,
				const struct sample_options *r, struct err *e)
{
	json_t *how = keep_how(used, s, r->seed, false, e);
	char *samples = mem_printf(r->per > 1 ? "0-%lld" : "%lld", (long long)r->per - 1);
	struct text all = { 0 };
	struct image_note *note = NULL;

	for (int64_t i = 0; i < r->prompts.n; i++)
		text_printf(&all, "%s%s", i ? "\n" : "", r->prompts.v[i].text);
	if (how)
		note = album_notes(how, all.s, samples);
	text_free(&all);
	free(samples);
	json_decref(how);
	return note;
}

static int write_grid(const struct session *s, const struct session_settings *used,
		      const struct sample_options *r, at_t rgb_BHW3, struct err *e)
{
	struct image_note *note = notes(s, used, r, e);
	int n = (int)at_size(rgb_BHW3, 0), h = (int)at_size(rgb_BHW3, 1), w = (int)at_size(rgb_BHW3, 2);
	const uint8_t **tile = mem_zero((size_t)n, sizeof *tile);

	if (!note) {
		free(tile);
		return -1;
	}
	for (int i = 0; i < n; i++)
		tile[i] = (const uint8_t *)at_data(rgb_BHW3) + (size_t)i * (size_t)(h * w * 3);
	struct image g =
	    image_grid(tile, n, w, h, r->cols > 0 ? (int)r->cols : (int)r->per, n > 1 ? 2 : 0, (int)r->zoom);
	int ret = image_write_png_noted(r->out, g.w, g.h, g.rgb, note, e);
	album_notes_free(note);
	image_free(&g);
	free(tile);
	return ret;
}

static int sample(struct session *s, const struct session_settings *used, const struct sample_options *r,
		  struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t batch = used->o.batch;
	int n = (int)(r->prompts.n * r->per), ret = -1;
	const char **prompt = mem_zero((size_t)n, sizeof *prompt);
	int64_t *id = mem_zero((size_t)n, sizeof *id);
	at_t noise, *part = mem_zero((size_t)n, sizeof *part);
	int parts = 0;

	for (int i = 0; i < n; i++) {
		prompt[i] = r->prompts.v[i / r->per].text;
		id[i] = i;
	}
	if (start(&noise, s, r, id, n, e))
		goto out;
	for (int64_t at = 0; at < n; at += batch) {
		int k = (int)(n - at < batch ? n - at : batch);
		struct cond c = { 0 };
		if (pipeline_encode(&s->pipeline, prompt + at, k, &c, e))
			goto out;
		struct sampler_steps steps = { .seed = (uint64_t)r->seed,
					       .purpose = RNG_USER_SOLVER,
					       .id = id + at };
		part[parts++] = sampler_run(&s->sampler, &s->pass, at_narrow(noise, 0, at, k), &c, &steps);
	}
	at_t x0 = at_cat(parts, part, 0);
	if (r->save_latents) {
		struct st_item item = { "latents", x0 };
		if (st_write(r->save_latents, &item, 1, NULL, 0, e))
			goto out;
	}
	ret = r->out ? write_grid(s, used, r, pipeline_images(&s->pipeline, x0), e) : 0;
out:
	free(prompt);
	free(id);
	free(part);
	at_end(sc);
	return ret;
}

/* What was made, and how. */
static void say(const struct session *s, const struct session_settings *used, const struct sample_options *r)
{
	json_t *j = session_json(s, used);
	char *text = json_line(j);

	printf("%s %s\n", r->out ? r->out : r->save_latents, text);
	free(text);
	json_decref(j);
}

static int sample_grid(struct dist *d, const struct session_settings *used, const struct sample_options *r,
		       struct err *e)
{
	struct session s;

	if (session_open(&s, d, used, "sample", e))
		return -1;
	int ret = sample(&s, used, r, e);
	if (!ret)
		say(&s, used, r);
	session_close(&s);
	return ret;
}

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
	if (r->per < 1 || r->per > 10000 || r->zoom < 1 || r->zoom > 64)
		return err_set(e, "sample: --per-prompt must be in [1, 10000], --zoom in [1, 64]");
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

static int read_prompts(struct sample_options *r, struct err *e)
{
	if (!r->file)
		prompts_of_list(&r->prompts, &r->prompt);
	else if (prompts_read(&r->prompts, r->file, e))
		return -1;
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
	if (!ret && !(ret = dist_agree(d, session_settle(&used, o, NULL, "sample", e), e))) {
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
		{ "per-prompt", 'i', &r.per, "N", "images per prompt (default 1)" },
		{ "seed", 'i', &r.seed, "N", "seed of the noise (default 0)" },
		{ "latents", 's', &r.latents, "FILE",
		  "start from the tensor `latents` of a safetensors file" },
		{ "save-latents", 's', &r.save_latents, "FILE",
		  "write the final latents to a safetensors file" },
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
	return startup_close(&d, work(&d, &o, &r, e), e);
}

const struct command cmd_sample = {
	"sample", "--model DIR|--lora RUN --prompt TEXT|--prompts FILE ... -o FILE.png|-d DIR",
	"generate images from prompts", run
};
