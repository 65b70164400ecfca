/*
 * pretrain.c -- flow matching on rendered scenes.
 *
 * Shapes: B scenes of a batch, C latent channels, h x w latents, L words, P all trainable parameters.
 */
#include "trainer/pretrain/pretrain.h"
#include "trainer/pretrain/pretrain_state.h"
#include "dist/startup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/machine/stop.h"
#include "base/mem.h"
#include "models/pipeline.h"
#include "models/tiny/tiny_model.h"
#include "trainer/evaluation/evaluate.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AE_SCENES 2000

struct pretrainer {
	struct pretrain_conf *c;
	struct dist *dist;
	struct prompts train, test;
	int64_t tags, *tag_of; /* prompt -> tag number */
	double *weight;        /* of a tag */
	int *order;            /* prompt -> shapes_order() */
	int64_t *ids_NL;       /* prompt -> words */
	struct tiny_model model;
	/* Every trainable tensor is a view of flat; ema is its average; grad adds up here. */
	at_t flat_P, ema_P, grad_P;
	int n;
	at_t *leaf; /* n views of flat, kept by the networks' slots */
	struct optimizer optimizer;
	struct mixture *mixture;
};

/* ---- Scenes ---------------------------------------------------------------------------------- */

/* A tag by its weight, then any of its prompts; in the first steps, relations in order alone. */
static int64_t draw_prompt(const struct pretrainer *p, int64_t step, struct rng *r)
{
	bool ordered = step < p->c->train.relation_steps;
	double total = 0, at;
	int64_t tag = 0, n = 0, k;

	for (int64_t i = 0; i < p->tags; i++)
		total += p->weight[i];
	at = rng_uniform(r) * total;
	while (tag + 1 < p->tags && at >= p->weight[tag])
		at -= p->weight[tag++];
	for (int64_t i = 0; i < p->train.n; i++)
		n += ordered ? p->order[i] > 0 : p->tag_of[i] == tag;
	k = rng_below(r, (uint32_t)n);
	for (int64_t i = 0;; i++)
		if ((ordered ? p->order[i] > 0 : p->tag_of[i] == tag) && k-- == 0)
			return i;
}

static int render(const struct pretrainer *p, int64_t prompt, struct rng *r, uint8_t *rgb, struct err *e)
{
	struct shapes_scene scene;

	if (shapes_scene(&scene, &p->c->world, p->train.v[prompt].meta, r, e))
		return err_in(e, "%s: prompt %lld", p->train.path, (long long)prompt + 1);
	shapes_render(&scene, &p->c->world, rgb);
	return 0;
}

/* uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]. */
static at_t to_pixels(const uint8_t *rgb, int64_t n, int64_t side)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t x = at_cast(at_from(rgb, DIMS(n, side, side, 3), AT_U8), AT_F32);
	return at_return(s, at_sub(at_div(at_permute(x, DIMS(0, 3, 1, 2)), 127.5), 1));
}

static int fit_autoencoder(struct pretrainer *p, struct err *e)
{
	const struct pretrain_model *m = &p->c->model;
	int64_t side = p->c->world.grid * p->c->world.cell, k = m->patch_pixels, per = side / k;
	size_t each = (size_t)(side * side * 3);
	uint8_t *rgb = mem_alloc(AE_SCENES * each);
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int ret = 0;

	for (int i = 0; i < AE_SCENES && !ret; i++) {
		struct rng r = rng_make((uint64_t)p->c->run.seed, RNG_SCENE, (1ull << 47) + 1, (uint64_t)i);
		ret =
		    render(p, draw_prompt(p, p->c->train.relation_steps, &r), &r, rgb + each * (size_t)i, e);
	}
	if (!ret) {
		at_t x = at_view(to_pixels(rgb, AE_SCENES, side), DIMS(AE_SCENES, 3, side, side));
		x = at_reshape(x, DIMS(AE_SCENES, 3, per, k, per, k));
		x = at_reshape(at_permute(x, DIMS(0, 2, 4, 1, 3, 5)), DIMS(-1, 3 * k * k));
		ret = linear_ae_fit(&p->model.ae, at_cast(x, AT_F64), k, m->channels, e);
	}
	at_end(s);
	free(rgb);
	return ret;
}

/* ---- The network ----------------------------------------------------------------------------- */

/* The distinct trainable tensors of a network (stacked modules share one). */
static int collect(struct nn_net *net, at_t **slots, int n)
{
	for (int i = 0; i < net->n_param; i++) {
		bool seen = !net->param[i].trainable;
		for (int k = 0; k < n && !seen; k++)
			seen = slots[k] == net->param[i].tensor;
		if (!seen)
			slots[n++] = net->param[i].tensor;
	}
	return n;
}

/* Moves every trainable tensor into one flat vector, so that clipping, AdamW, averaging and the all-reduce
 * see one. */
static void flatten(struct pretrainer *p)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct nn_net *net = p->model.transformer.net, *words = &p->model.words.net;
	at_t **slot = mem_zero((size_t)(net->n_param + words->n_param), sizeof *slot);
	int64_t total = 0, at = 0;
	int n = collect(words, slot, collect(net, slot, 0));

	for (int i = 0; i < n; i++)
		total += at_numel(*slot[i]);
	p->flat_P = at_keep(at_zeros(DIMS(total), AT_F32, AT_CPU));
	p->grad_P = at_keep(at_zeros(DIMS(total), AT_F32, AT_CPU));
	p->leaf = mem_zero((size_t)n, sizeof *p->leaf);
	p->n = n;
	for (int i = 0; i < n; i++) {
		int64_t size = at_numel(*slot[i]);
		at_t view = at_view(at_narrow(p->flat_P, 0, at, size), at_shape(*slot[i]));
		at_copy_(view, *slot[i]);
		view = at_detach(view);
		at_set_requires_grad(view, true);
		at_set(slot[i], view);
		p->leaf[i] = *slot[i];
		at += size;
	}
	p->ema_P = at_keep(at_clone(p->flat_P));
	free(slot);
	at_end(s);
}

static int make_network(struct pretrainer *p, struct err *e)
{
	const struct pretrain_model *m = &p->c->model;
	const struct shapes_conf *w = &p->c->world;
	int64_t side = w->grid * w->cell / m->patch_pixels;
	const char *const *words = shapes_words();
	int n_words = 0;

	if (w->grid * w->cell % m->patch_pixels || side % m->patch)
		return err_set(
		    e, "an image of %lld pixels does not divide into patches of %lld and tokens of %lld",
		    (long long)(w->grid * w->cell), (long long)m->patch_pixels, (long long)m->patch);
	if (m->dual_layers > m->layers)
		return err_set(e, "model.dual_layers is larger than model.layers");
	struct tiny_conf c = { .side = side,
			       .channels = m->channels,
			       .patch = m->patch,
			       .layers = m->layers,
			       .heads = m->heads,
			       .head_dim = m->head_dim,
			       .dual_layers = m->dual_layers,
			       .qk_norm = m->qk_norm,
			       .text_dim = m->text_dim,
			       .text_length = m->text_length,
			       .shift = m->shift };
	while (words[n_words])
		n_words++;
	return tiny_model_new(&p->model, &c, words, n_words, (uint64_t)p->c->run.seed, e);
}

static int tokenize(struct pretrainer *p, struct err *e)
{
	int64_t L = p->model.words.length;

	p->ids_NL = mem_zero((size_t)(p->train.n * L), sizeof *p->ids_NL);
	for (int64_t i = 0; i < p->train.n; i++)
		if (word_encoder_tokenize(&p->model.words, p->train.v[i].text, p->ids_NL + i * L, e))
			return err_in(e, "%s: prompt %lld", p->train.path, (long long)i + 1);
	return 0;
}

static double weight_of(const struct pretrain_weights *w, const char *tag)
{
	const struct {
		const char *tag;
		double weight;
	} all[] = { { "single_object", w->single_object }, { "two_object", w->two_object },
		    { "counting", w->counting },           { "colors", w->colors },
		    { "position", w->position },           { "color_attr", w->color_attr } };

	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (!strcmp(all[i].tag, tag))
			return all[i].weight;
	return 1;
}

/* What the prompts say about drawing them. */
static int sort_prompts(struct pretrainer *p, struct err *e)
{
	size_t n = (size_t)p->train.n;
	double total = 0;
	bool relations = false;

	p->tag_of = mem_zero(n, sizeof *p->tag_of);
	p->weight = mem_zero(n, sizeof *p->weight);
	p->order = mem_zero(n, sizeof *p->order);
	for (int64_t i = 0; i < p->train.n; i++) {
		const struct prompt *v = &p->train.v[i];
		p->tag_of[i] = p->tags;
		for (int64_t k = 0; k < i; k++)
			if (!strcmp(p->train.v[k].tag, v->tag))
				p->tag_of[i] = p->tag_of[k];
		p->order[i] = shapes_order(v->meta);
		relations |= p->order[i] > 0;
		if (p->tag_of[i] == p->tags)
			total += p->weight[p->tags++] = weight_of(&p->c->weights, v->tag);
	}
	if (total <= 0)
		return err_set(e, "%s: every tag has weight 0; set one of weights.*", p->train.path);
	if (!relations && p->c->train.relation_steps)
		return err_set(e, "%s: no prompt relates two shapes in order; set train.relation_steps to 0",
			       p->train.path);
	return 0;
}

static int open_all(struct pretrainer *p, struct err *e)
{
	if (prompts_read(&p->train, p->c->train.prompts, e) ||
	    prompts_read(&p->test, p->c->eval.prompts, e) || mixture_open(&p->mixture, p->c->tree, 1, e) ||
	    mixture_load(p->mixture, e))
		return -1;
	prompts_warn_seen(&p->test, &p->train);
	if (sort_prompts(p, e) || make_network(p, e) || tokenize(p, e))
		return -1;
	if (*p->c->model.start ? tiny_model_load(&p->model, p->c->model.start, e) : fit_autoencoder(p, e))
		return -1;
	flatten(p);
	optimizer_init(&p->optimizer, &p->c->optimizer, at_numel(p->flat_P), AT_CPU);
	return 0;
}

static void close_all(struct pretrainer *p)
{
	tiny_model_release(&p->model);
	at_free(p->flat_P);
	at_free(p->ema_P);
	at_free(p->grad_P);
	if (p->optimizer.m_P)
		optimizer_release(&p->optimizer);
	mixture_close(p->mixture);
	prompts_free(&p->train);
	prompts_free(&p->test);
	free(p->leaf);
	free(p->ids_NL);
	free(p->tag_of);
	free(p->weight);
	free(p->order);
}

/* ---- Training -------------------------------------------------------------------------------- */

/* This rank's scenes of one step: pixels, words (of another scene when the caption is noisy), flow times,
 * noise. */
struct scenes {
	at_t pixels_B3HW, ids_BL, t_B, noise_BChw;
};

static int make_scenes(struct pretrainer *p, int64_t step, int64_t first, int64_t n, struct scenes *out,
		       struct err *e)
{
	const struct pretrain_train *c = &p->c->train;
	const struct pretrain_model *m = &p->c->model;
	uint64_t seed = (uint64_t)p->c->run.seed, at = (uint64_t)step;
	int64_t side = p->c->world.grid * p->c->world.cell, h = side / m->patch_pixels,
		L = p->model.words.length;
	size_t each = (size_t)(side * side * 3), latent = (size_t)(m->channels * h * h);
	uint8_t *rgb = mem_alloc((size_t)n * each);
	int64_t *ids = mem_zero((size_t)(n * L), sizeof *ids);
	float *t = mem_zero((size_t)n, sizeof *t);
	int ret = 0;

	out->noise_BChw = at_empty(DIMS(n, m->channels, h, h), AT_F32, AT_CPU);
	for (int64_t i = 0; i < n && !ret; i++) {
		uint64_t id = (uint64_t)(first + i);
		struct rng scene = rng_make(seed, RNG_SCENE, at, id),
			   caption = rng_make(seed, RNG_CAPTION, at, id);
		struct rng time = rng_make(seed, RNG_TIMESTEP, at, id),
			   eps = rng_make(seed, RNG_DIFFUSE, at, id);
		int64_t prompt = draw_prompt(p, step, &scene), said = prompt;
		ret = render(p, prompt, &scene, rgb + each * (size_t)i, e);
		if (step >= c->clean_steps && rng_uniform(&caption) < c->caption_noise)
			said = draw_prompt(p, step, &caption);
		memcpy(ids + i * L, p->ids_NL + said * L, (size_t)L * sizeof *ids);
		t[i] = (float)(1 / (1 + exp(-(c->t_mean + c->t_std * rng_normal(&time)))));
		rng_normals(&eps, at_f32(out->noise_BChw) + latent * (size_t)i, latent);
	}
	out->pixels_B3HW = to_pixels(rgb, n, side);
	out->ids_BL = at_from(ids, DIMS(n, L), AT_I64);
	out->t_B = at_from(t, DIMS(n), AT_F32);
	free(rgb);
	free(ids);
	free(t);
	return ret;
}

/* Adds the gradient of this rank's share, each scene weighing 1 / batch; returns the share's loss. */
static double flow_matching(struct pretrainer *p, const struct scenes *s)
{
	struct at_scope *sc = at_begin(AT_WITH_GRAD);
	double share = (double)at_size(s->t_B, 0) / (double)p->c->train.batch;
	at_t *grad = mem_zero((size_t)p->n, sizeof *grad), t = at_view(s->t_B, DIMS(-1, 1, 1, 1));
	at_t x0 = linear_ae_encode(&p->model.ae, s->pixels_B3HW);
	at_t xt = at_add(at_mul(x0, at_add(at_neg(t), 1)), at_mul(s->noise_BChw, t));
	int64_t at = 0;

	at_t v = tiny_model_velocity(&p->model, xt, s->t_B, s->ids_BL);
	at_t loss = at_mul(at_mean(at_square(at_sub(v, at_sub(s->noise_BChw, x0)))), share);
	at_grad(loss, p->n, p->leaf, grad);
	for (int i = 0; i < p->n; i++) {
		int64_t size = at_numel(p->leaf[i]);
		if (grad[i])
			at_copy_(at_narrow(p->grad_P, 0, at, size), at_flatten(grad[i], 0, -1));
		at += size;
	}
	double out = at_item(loss);
	free(grad);
	at_end(sc);
	return out;
}

/* The averaged model as a model directory. */
static int save_model(struct pretrainer *p, const char *dir, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t now = at_clone(p->flat_P);
	int ret;

	at_copy_(p->flat_P, p->ema_P);
	ret = tiny_model_save(&p->model, dir, e);
	at_copy_(p->flat_P, now);
	at_end(s);
	return ret;
}

static int eval_saved(struct pretrainer *p, const char *dir, struct eval_result *r, struct err *e)
{
	struct pipeline pipe;
	struct sampler sampler = { 0 };

	if (dist_agree(p->dist, pipeline_open(&pipe, &(struct pipeline_options) { .dir = dir }, e), e))
		return -1;
	int ret = dist_agree(
	    p->dist,
	    sampler_init(&sampler, &pipe, &p->c->eval.sampler, pipeline_latent_shape(&pipe, 0, 0), e), e);
	struct evaluator v = { .dist = p->dist,
			       .pipeline = &pipe,
			       .sampler = &sampler,
			       .mixture = p->mixture,
			       .prompts = &p->test,
			       .images_per_prompt = p->c->eval.images_per_prompt,
			       .batch = p->c->eval.sampler.batch,
			       .quiet = true };
	if (!ret)
		ret = evaluate(&v, &(struct pass) { 0 }, r, e);
	sampler_release(&sampler);
	pipeline_close(&pipe);
	return ret;
}

/* The averaged model, saved in `dir` and evaluated from there. */
static int look(struct pretrainer *p, const char *dir, int64_t step, double loss, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct eval_result r = { 0 };
	int ret = dist_agree(p->dist, p->dist->rank == 0 ? save_model(p, dir, e) : 0, e);

	if (!ret && !(ret = eval_saved(p, dir, &r, e))) {
		log_info("step %lld  loss %.4f  geneval %.3f  strict %.3f  soft %.3f", (long long)step, loss,
			 r.of[EVAL_GENEVAL].mean, r.of[EVAL_STRICT].mean, r.of[EVAL_SOFT].mean);
		for (int i = 0; i < r.n_tags; i++)
			log_info("    %-16s geneval %.3f  strict %.3f  soft %.3f", r.tag[i].name,
				 r.tag[i].of[EVAL_GENEVAL].mean, r.tag[i].of[EVAL_STRICT].mean,
				 r.tag[i].of[EVAL_SOFT].mean);
	}
	eval_release(&r);
	at_end(s);
	return ret;
}

/* Step `step`, counted from 0; *mean becomes its smoothed loss. */
static int make_step(struct pretrainer *p, int64_t step, double *mean, struct err *e)
{
	const struct pretrain_train *c = &p->c->train;
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct scenes scenes;
	double loss = 0, n = (double)step + 1;
	int64_t first, end;

	prompts_share(c->batch, p->dist->rank, p->dist->ranks, &first, &end);
	at_zero_(p->grad_P);
	int ret = make_scenes(p, step, first, end - first, &scenes, e);
	if (!ret)
		loss = flow_matching(p, &scenes);
	ret = dist_agree(p->dist, ret, e);
	if (!ret) {
		dist_sum_tensor(p->dist, p->grad_P);
		dist_sum_f64(p->dist, &loss, 1);
		double norm = optimizer_clip(p->grad_P, c->max_grad_norm);
		if (!isfinite(norm))
			ret = err_set(e, "step %lld: the gradient is not finite; lower optimizer.lr",
				      (long long)step + 1);
		else
			optimizer_update(&p->optimizer, p->flat_P, p->grad_P,
					 optimizer_rate(&p->c->optimizer, step + 1, c->steps));
		at_lerp_(p->ema_P, p->flat_P, 1 - fmin((1 + n) / (10 + n), c->ema_decay));
		*mean = isnan(*mean) ? loss : 0.98 * *mean + 0.02 * loss;
	}
	at_end(s);
	return ret;
}

/* From step *at on, which becomes the number of steps taken. */
static int train(struct pretrainer *p, const char *temp, int64_t *at, double *mean, struct err *e)
{
	const struct pretrain_train *c = &p->c->train;
	int64_t every = p->c->eval.every, last = c->end && c->end < c->steps ? c->end : c->steps;
	struct progress bar;
	int ret = 0;

	progress_begin(&bar, "pretrain", *at, last);
	while (!ret) {
		if (dist_stops(p->dist))
			ret = stop_check(e);
		else if (*at == last || (*at && every && *at % every == 0))
			ret = look(p, temp, *at, *mean, e);
		if (ret || *at == last)
			break;
		ret = make_step(p, *at, mean, e);
		*at += !ret;
		progress_tick(&bar, *at, "loss %.4f", *mean);
	}
	progress_end(&bar);
	return ret;
}

/* From where an earlier process was stopped, to the end or to where this one is. */
static int run(struct pretrainer *p, const char *temp, const char *stopped, struct err *e)
{
	const at_t vector[PRETRAIN_VECTORS] = { p->flat_P, p->ema_P, p->optimizer.m_P, p->optimizer.v_P };
	struct pretrain_state s = { .vector = vector, .loss = NAN };
	struct err why;
	bool found;

	if (pretrain_state_take(&s, &found, stopped, p->c->tree, p->dist, e))
		return -1;
	int64_t at = (int64_t)s.step;
	p->optimizer.step = at;
	if (found)
		log_info("going on from step %lld (%s)", (long long)at, stopped);
	int ret = train(p, temp, &at, &s.loss, e);
	s.step = (double)at;
	if (ret && dist_stops(p->dist)) {
		if (pretrain_state_keep(&s, stopped, p->c->tree, p->dist, &why)) {
			stop_set_code(1);
			return err_set(e, "stopped by %s, and %s", stop_why(), why.msg);
		}
		return err_set(
		    e,
		    "stopped by %s; %s has step %lld: the same command goes on from there (exit code "
		    "%d)",
		    stop_why(), stopped, (long long)at, stop_code());
	}
	return ret;
}

/* Where the model is written, and evaluated by all, before it has its name. */
static int make_folder(struct pretrainer *p, char *temp, size_t size, struct err *e)
{
	const char *out = p->c->run.out;
	char *made = NULL;
	int ret = 0;

	*temp = '\0';
	if (p->dist->rank == 0 && !(ret = file_begin_tree(&made, out, e)) &&
	    snprintf(temp, size, "%s", made) >= (int)size) {
		struct err ignored;
		file_remove_tree(made, &ignored);
		*temp = '\0';
		ret = err_set(e, "run.out: the name is too long");
	}
	free(made);
	dist_broadcast(p->dist, temp, (int64_t)size, 0);
	return dist_agree(p->dist, ret, e);
}

int pretrain(struct pretrain_conf *c, struct dist *d, struct err *e)
{
	struct pretrainer p = { .c = c, .dist = d };
	char temp[4096] = "", *stopped = mem_printf("%s.stopped", c->run.out);
	double start = clock_now(), cpu = clock_cpu();
	struct err ignored;
	int ret;

	ret = file_exists(c->run.out)
		  ? err_set(e, "%s exists already: set run.out to another folder", c->run.out)
		  : 0;
	ret = dist_agree(d, ret, e) || make_folder(&p, temp, sizeof temp, e)
		  ? -1
		  : dist_agree(d, open_all(&p, e), e);
	if (!ret) {
		log_info("%lld parameters, %lld prompts, %lld scenes a step", (long long)at_numel(p.flat_P),
			 (long long)p.train.n, (long long)c->train.batch);
		ret = run(&p, temp, stopped, e);
	}
	if (d->rank == 0 && !ret)
		ret = file_sync_tree(temp, e) || file_rename_synced(temp, c->run.out, e) ? -1 : 0;
	if (*temp && d->rank == 0)
		file_remove_tree(ret ? temp : stopped, &ignored);
	ret = dist_agree(d, ret, e);
	if (!ret)
		log_info("%s: %.0f s, %.0f CPU s on this rank", c->run.out, clock_now() - start,
			 clock_cpu() - cpu);
	close_all(&p);
	free(stopped);
	return ret;
}
