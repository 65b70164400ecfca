/* cmd_sample.c -- contraflow sample: prompts -> images, or the latents they come from. */
#include "base/image.h"
#include "base/mem.h"
#include "commands/options.h"
#include "commands/session.h"
#include "dist/startup.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct sample_options {
	struct option_list prompts;
	int64_t seed, per, cols, zoom;
	const char *latents, *save_latents, *out;
};

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

static int write_grid(const struct sample_options *r, at_t rgb_BHW3, struct err *e)
{
	int n = (int)at_size(rgb_BHW3, 0), h = (int)at_size(rgb_BHW3, 1), w = (int)at_size(rgb_BHW3, 2);
	const uint8_t **tile = mem_zero((size_t)n, sizeof *tile);

	for (int i = 0; i < n; i++)
		tile[i] = (const uint8_t *)at_data(rgb_BHW3) + (size_t)i * (size_t)(h * w * 3);
	struct image g =
	    image_grid(tile, n, w, h, r->cols > 0 ? (int)r->cols : (int)r->per, n > 1 ? 2 : 0, (int)r->zoom);
	int ret = image_write_png(r->out, g.w, g.h, g.rgb, e);
	image_free(&g);
	free(tile);
	return ret;
}

static int sample(struct session *s, const struct sample_options *r, int64_t batch, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int n = r->prompts.n * (int)r->per, ret = -1;
	const char **prompt = mem_zero((size_t)n, sizeof *prompt);
	int64_t *id = mem_zero((size_t)n, sizeof *id);
	at_t noise, *part = mem_zero((size_t)n, sizeof *part);
	int parts = 0;

	for (int i = 0; i < n; i++) {
		prompt[i] = r->prompts.v[i / r->per];
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
	ret = r->out ? write_grid(r, pipeline_images(&s->pipeline, x0), e) : 0;
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

static int run(int argc, char **argv, struct err *e)
{
	struct session_options o = SESSION_DEFAULTS;
	struct sample_options r = { .per = 1, .zoom = 1 };
	const char *args[1];
	const struct option_spec spec[] = {
		SESSION_OPTIONS(o),
		{ "prompt", 'm', &r.prompts, "TEXT", "the prompt; may be repeated" },
		{ "per-prompt", 'i', &r.per, "N", "images per prompt (default 1)" },
		{ "seed", 'i', &r.seed, "N", "seed of the noise (default 0)" },
		{ "latents", 's', &r.latents, "FILE",
		  "start from the tensor `latents` of a safetensors file" },
		{ "save-latents", 's', &r.save_latents, "FILE",
		  "write the final latents to a safetensors file" },
		{ "columns", 'i', &r.cols, "N", "images per row of the grid (default: one row per prompt)" },
		{ "zoom", 'i', &r.zoom, "N", "enlarge images by this factor (default 1)" },
		{ "o", 's', &r.out, "FILE.png", "where the image, or the grid of images, goes" },
		{ NULL, 0, NULL, NULL, NULL },
	};
	struct session_settings used;
	struct session s;
	struct dist d;
	int n, ret = options_parse(&cmd_sample, spec, argc, argv, args, 0, &n, e);

	if (ret)
		return ret;
	if (!r.prompts.n)
		return err_set(e, "sample: --prompt TEXT is needed");
	if (r.out && is_other_image(r.out))
		return err_set(e, "sample: -o %s: images are written as PNG: name it .png", r.out);
	if (!r.out && !r.save_latents)
		return err_set(e, "sample: nothing to write; give -o FILE.png or --save-latents FILE");
	if (r.per < 1 || r.per > 10000 || r.zoom < 1 || r.zoom > 64)
		return err_set(e, "sample: --per-prompt must be in [1, 10000], --zoom in [1, 64]");
	if ((ret = startup_open(&d, STARTUP_ALONE, e)))
		return ret;
	if (startup_threads(&d, o.threads, e))
		return err_in(e, "sample");
	if (session_settle(&used, &o, NULL, "sample", e))
		return -1;
	ret = session_open(&s, &d, &used, "sample", e);
	if (!ret) {
		ret = sample(&s, &r, used.o.batch, e);
		if (!ret)
			say(&s, &used, &r);
		session_close(&s);
	}
	session_settings_release(&used);
	return ret;
}

const struct command cmd_sample = { "sample", "--model DIR [--lora DIR] --prompt TEXT ... -o FILE.png",
				    "generate images from prompts", run };
