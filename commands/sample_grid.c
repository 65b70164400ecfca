#include "commands/sample_grid.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "rewards/mixture/mixture.h"
#include "trainer/evaluation/captions.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Sampling ------------------------------------------------------------------------------------ */

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

/* All images' latents, of the innermost scope. */
static int sample(at_t *x0, struct session *s, const struct pass *pass, const struct session_settings *used,
		  const struct sample_options *r, struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	int64_t batch = used->o.batch;
	int n = (int)(r->prompts.n * r->per), ret = -1, parts = 0;
	const char **prompt = mem_zero((size_t)n, sizeof *prompt);
	int64_t *id = mem_zero((size_t)n, sizeof *id);
	at_t noise, *part = mem_zero((size_t)n, sizeof *part);

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
		part[parts++] = sampler_run(&s->sampler, pass, at_narrow(noise, 0, at, k), &c, &steps);
	}
	*x0 = at_cat(parts, part, 0);
	ret = 0;
out:
	free(prompt);
	free(id);
	free(part);
	if (ret)
		at_end(sc);
	else
		*x0 = at_return(sc, *x0);
	return ret;
}

/* The same of --against. */
static int sample_other(at_t *x0, struct session *s, const struct session_settings *used,
			const struct sample_options *r, struct err *e)
{
	struct lora_merged merged = { 0 };
	struct pass pass;
	int ret = session_adapter(s, strcmp(r->against, "base") ? r->against : NULL, &merged, &pass, e);

	if (!ret)
		ret = session_restart(s, used, e);
	if (!ret)
		ret = sample(x0, s, &pass, used, r, e);
	lora_merged_release(&merged);
	return ret;
}

/* ---- The picture --------------------------------------------------------------------------------- */

/* Images of one size in the order of the prompts; with --against, each behind the other's. */
struct picture {
	const struct sample_options *r;
	int n, w, h, sides; /* sides: 2 with --against */
	const uint8_t *rgb[2];
};

static const struct prompt *prompt_of(const struct picture *p, int i)
{
	return &p->r->prompts.v[i / p->sides / p->r->per];
}

static const uint8_t *pixels(const struct picture *p, int i)
{
	return p->rgb[i % p->sides] + (size_t)(i / p->sides) * (size_t)p->w * (size_t)p->h * 3;
}

static struct image plain(const struct picture *p, int cols)
{
	const uint8_t **tile = mem_zero((size_t)p->n, sizeof *tile);

	for (int i = 0; i < p->n; i++)
		tile[i] = pixels(p, i);
	struct image im = image_grid(tile, p->n, p->w, p->h, cols, p->n > 1 ? 2 : 0, (int)p->r->zoom);
	free(tile);
	return im;
}

/* The rewards of the configuration or the run; *m stays NULL where there is neither. */
static int open_rewards(struct mixture **m, const struct session_settings *used, struct err *e)
{
	struct conf_node *tree = used->from ? conf_copy(used->x.tree, "") : NULL;
	int ret = tree && (mixture_open(m, tree, 1, e) || mixture_load(*m, e)) ? -1 : 0;

	conf_node_free(tree);
	return ret;
}

/* What fits above an image: a run's or a checkpoint's own name. */
static const char *name_of(const char *lora)
{
	return lora ? file_base(lora) : "base";
}

static struct image captioned(const struct picture *p, const struct session_settings *used, int cols,
			      struct mixture *m)
{
	struct sheet_tile *tile = mem_zero((size_t)p->n, sizeof *tile);
	struct reward_item *item = mem_zero((size_t)p->n, sizeof *item);
	const char *heading[2] = { name_of(p->r->against), name_of(used->o.lora) };
	struct sheet s = { .w = p->w,
			   .h = p->h,
			   .cols = cols,
			   .span = p->sides,
			   .zoom = (int)p->r->zoom,
			   .heading = p->sides > 1 ? heading : NULL };

	for (int i = 0; i < p->n; i++) {
		const struct prompt *of = prompt_of(p, i);

		item[i] = (struct reward_item) {
			.rgb = pixels(p, i), .w = p->w, .h = p->h, .prompt = of->text, .meta = of->meta
		};
		tile[i] = (struct sheet_tile) { .rgb = pixels(p, i),
						.title = p->r->captions ? of->text : NULL,
						.verdict = SHEET_NEITHER };
	}
	if (m)
		captions_score(m, item, p->n, tile, NULL);
	struct image im = sheet_draw(&s, tile, p->n);
	captions_free(tile, p->n);
	free(tile);
	free(item);
	return im;
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

static int write_picture(const struct picture *p, const struct session *s,
			 const struct session_settings *used, struct err *e)
{
	const struct sample_options *r = p->r;
	int cols = (int)(r->cols > 0 ? r->cols : r->per * p->sides), ret = -1;
	struct image_note *note = notes(s, used, r, e);
	struct mixture *m = NULL;

	if (!note)
		return -1;
	if (r->captions && open_rewards(&m, used, e))
		goto out;
	struct image im = r->captions || r->against ? captioned(p, used, cols, m) : plain(p, cols);
	ret = image_write_png_noted(r->out, im.w, im.h, im.rgb, note, e);
	image_free(&im);
out:
	mixture_close(m);
	album_notes_free(note);
	return ret;
}

/* ---- All of it ------------------------------------------------------------------------------------ */

/* What was made, and how. */
static void say(const struct session *s, const struct session_settings *used, const struct sample_options *r)
{
	json_t *j = session_json(s, used);
	char *text = json_line(j);

	printf("%s %s\n", r->out ? r->out : r->save_latents, text);
	free(text);
	json_decref(j);
}

static int make(struct session *s, const struct session_settings *used, const struct sample_options *r,
		struct err *e)
{
	struct at_scope *sc = at_begin(AT_NO_GRAD);
	struct picture p = { .r = r, .sides = r->against ? 2 : 1 };
	at_t x0[2], rgb_BHW3;
	int ret = sample(&x0[p.sides - 1], s, &s->pass, used, r, e);

	if (!ret && r->save_latents) {
		struct st_item item = { "latents", x0[p.sides - 1] };
		ret = st_write(r->save_latents, &item, 1, NULL, 0, e);
	}
	if (!ret && r->against)
		ret = sample_other(&x0[0], s, used, r, e);
	for (int i = 0; !ret && r->out && i < p.sides; i++) {
		rgb_BHW3 = pipeline_images(&s->pipeline, x0[i]);
		p.rgb[i] = at_data(rgb_BHW3);
		p.n = (int)at_size(rgb_BHW3, 0) * p.sides;
		p.h = (int)at_size(rgb_BHW3, 1);
		p.w = (int)at_size(rgb_BHW3, 2);
	}
	if (!ret && r->out)
		ret = write_picture(&p, s, used, e);
	at_end(sc);
	return ret;
}

int sample_grid(struct dist *d, const struct session_settings *used, const struct sample_options *r,
		struct err *e)
{
	struct session s;

	if (r->against && r->cols % 2)
		return err_set(e, "sample: --columns %lld: with --against, two images belong together",
			       (long long)r->cols);
	if (session_open(&s, d, used, "sample", e))
		return -1;
	int ret = make(&s, used, r, e);
	if (!ret)
		say(&s, used, r);
	session_close(&s);
	return ret;
}
