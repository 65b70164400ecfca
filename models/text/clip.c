/* clip.c -- shapes: B samples, S pixels a side, N patches and the class token, D width, P shared width. */
#include "models/text/clip.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/image/resize.h"
#include "models/known_keys.h"
#include "models/text/tokenizer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OPEN_CLIP_STEM "open_clip_model"

static const struct pass base = { 0 };

/* ---- Pixels -------------------------------------------------------------------------------------- */

static int64_t nearest_even(double x)
{
	return (int64_t)nearbyint(x); /* as Python rounds */
}

/* The part of the resized image that is shown, and where its corner is in the square. */
static struct resize_window place(int S, enum clip_fit fit, int w, int h, int *left, int *top)
{
	int64_t small = w < h ? w : h, large = w < h ? h : w;
	struct resize_window r = { .w = S, .h = S };

	*left = *top = 0;
	if (fit == CLIP_PAD) {
		r.to_w = nearest_even(w * ((double)S / (double)large));
		r.to_h = nearest_even(h * ((double)S / (double)large));
		r.w = (int)(r.to_w = r.to_w < 1 ? 1 : r.to_w);
		r.h = (int)(r.to_h = r.to_h < 1 ? 1 : r.to_h);
		*left = (S - r.w) / 2;
		*top = (S - r.h) / 2;
		return r;
	}
	int64_t longer = S * large / small; /* cut down to a whole number, by both */
	bool round = fit == CLIP_CROP_ROUNDED;
	r.to_w = w < h ? S : longer;
	r.to_h = w < h ? longer : S;
	r.x = round ? nearest_even((double)(r.to_w - S) / 2) : (r.to_w - S) / 2;
	r.y = round ? nearest_even((double)(r.to_h - S) / 2) : (r.to_h - S) / 2;
	return r;
}

void clip_pixels(const struct clip *m, enum clip_fit fit, const uint8_t *rgb, int w, int h, float *out)
{
	int S = (int)m->vision.image_size, left, top;
	struct resize_window part = place(S, fit, w, h, &left, &top);
	uint8_t *sized = resize_bicubic_window(rgb, w, h, &part);

	for (int c = 0; c < 3; c++)
		for (int y = 0; y < S; y++)
			for (int x = 0; x < S; x++) {
				int sx = x - left, sy = y - top;
				bool inside = sx >= 0 && sx < part.w && sy >= 0 && sy < part.h;
				float v = inside ? (float)sized[(sy * part.w + sx) * 3 + c] / 255.f : 0;

				*out++ = (v - (float)m->mean[c]) / (float)m->std[c];
			}
	free(sized);
}

/* ---- Forward ------------------------------------------------------------------------------------- */

static at_t unit(at_t x_BP)
{
	at_t f = at_cast(x_BP, AT_F32);

	return at_div(f, at_sqrt(at_sum_dim(at_square(f), 1, true)));
}

at_t clip_image_features(const struct clip *m, at_t pixels_B3SS)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	const struct clip_vision *v = &m->vision;
	int64_t B = at_size(pixels_B3SS, 0), D = v->layers.width;
	at_t patch_BDhw =
	    at_conv2d(at_to(pixels_B3SS, m->dtype, m->device), v->patch_w_D3pp, NULL, (int)v->patch_size, 0);
	at_t x_BND = at_transpose(at_flatten(patch_BDhw, 2, 3), 1, 2);

	x_BND = at_cat2(at_expand(at_view(v->class_D, DIMS(1, 1, D)), DIMS(B, 1, D)), x_BND, 1);
	x_BND = at_layer_norm(at_add(x_BND, v->position_ND), v->pre_w, v->pre_b, v->layers.eps);
	for (int64_t i = 0; i < v->layers.n; i++)
		at_replace(s, &x_BND, clip_layer_forward(&v->layers, i, x_BND, false));
	at_t pooled_BD = at_layer_norm(at_select(x_BND, 1, 0), v->post_w, v->post_b, v->layers.eps);
	return at_return(s, unit(v->projection_DP ? at_matmul(pooled_BD, v->projection_DP)
						  : nn_linear(&v->projection, &base, pooled_BD)));
}

int clip_text_features(const struct clip *m, bool as_open_clip, const char *const *prompts, int n,
		       at_t *out_BP, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t L = m->text.conf.max_position_embeddings;
	at_t ids_BL = at_zeros(DIMS(n, L), AT_I64, AT_CPU), states, pooled_BP;
	int ret = 0;

	for (int i = 0; i < n && !ret; i++)
		ret = (as_open_clip ? clip_tokenizer_encode_open : clip_tokenizer_encode)(
		    m->tokenizer, prompts[i], L, at_i64(ids_BL) + i * L, e);
	if (!ret && at_item(at_max(ids_BL)) >= (double)m->text.conf.vocab_size)
		ret = err_set(e, "the tokenizer knows more tokens than the model's vocab_size %lld",
			      (long long)m->text.conf.vocab_size);
	if (!ret) {
		clip_text_forward(&m->text, at_to(ids_BL, AT_I64, m->device), &states, &pooled_BP);
		*out_BP = at_escape(s, unit(pooled_BP));
	}
	at_end(s);
	return ret;
}

/* ---- Configurations ------------------------------------------------------------------------------ */

static int check_vision(const struct clip_vision *v, const char *path, struct err *e)
{
	if (v->image_size < 1 || v->patch_size < 1 || v->image_size % v->patch_size || v->image_size > 4096 ||
	    v->projection_dim < 1)
		return err_set(e, "%s: image_size must be a multiple of patch_size up to 4096", path);
	return clip_layers_check(&v->layers, path, e);
}

/* transformers: {text_config, vision_config, projection_dim}. */
static int read_transformers(struct clip *m, const json_t *o, const char *path, struct err *e)
{
	const json_t *text = json_object_get(o, "text_config"), *vision = json_object_get(o, "vision_config");
	struct clip_vision *v = &m->vision;

	if (!json_is_object(text) || !json_is_object(vision))
		return err_set(e, "%s: it has no text_config and vision_config: not a CLIPModel", path);
	if (json_check_keys(vision, known_clip_vision, known_anywhere, path, e) ||
	    clip_text_read(&m->text, text, path, e) ||
	    clip_layers_read(&v->layers, vision, 768, 12, path, e) ||
	    json_get_int(&v->image_size, vision, "image_size", 224, path, e) ||
	    json_get_int(&v->patch_size, vision, "patch_size", 32, path, e) ||
	    json_get_int(&v->projection_dim, o, "projection_dim", 512, path, e))
		return -1;
	m->text.conf.projection_dim = v->projection_dim;
	return check_vision(v, path, e);
}

static int open_clip_layers(struct clip_layers *s, const json_t *o, bool quick, const char *path,
			    struct err *e)
{
	double ratio;

	*s = (struct clip_layers) { .eps = 1e-5, .quick_gelu = quick };
	if (json_get_int(&s->width, o, "width", 0, path, e) ||
	    json_get_int(&s->n, o, "layers", 12, path, e) ||
	    json_get_real(&ratio, o, "mlp_ratio", 4, path, e))
		return -1;
	s->inner = (int64_t)((double)s->width * ratio);
	return 0;
}

/* open_clip: {model_cfg: {embed_dim, vision_cfg, text_cfg}}. */
static int read_open_clip(struct clip *m, const json_t *file, const char *path, struct err *e)
{
	const json_t *o = json_object_get(file, "model_cfg"), *text, *vision;
	struct clip_vision *v = &m->vision;
	struct clip_text *t = &m->text;
	int64_t head_width;
	bool quick;

	o = o ? o : file;
	text = json_object_get(o, "text_cfg");
	vision = json_object_get(o, "vision_cfg");
	if (!json_is_object(text) || !json_is_object(vision))
		return err_set(e, "%s: it has no text_cfg and vision_cfg", path);
	if (json_get_bool(&quick, o, "quick_gelu", false, path, e) ||
	    json_get_int(&v->projection_dim, o, "embed_dim", 0, path, e) ||
	    open_clip_layers(&v->layers, vision, quick, path, e) ||
	    open_clip_layers(&t->layers, text, quick, path, e) ||
	    json_get_int(&head_width, vision, "head_width", 64, path, e) ||
	    json_get_int(&v->image_size, vision, "image_size", 224, path, e) ||
	    json_get_int(&v->patch_size, vision, "patch_size", 16, path, e) ||
	    json_get_int(&t->layers.heads, text, "heads", 8, path, e) ||
	    json_get_int(&t->conf.vocab_size, text, "vocab_size", 49408, path, e) ||
	    json_get_int(&t->conf.max_position_embeddings, text, "context_length", 77, path, e))
		return -1;
	v->layers.heads = head_width > 0 ? v->layers.width / head_width : 0;
	t->conf.projection_dim = v->projection_dim;
	t->conf.eos_token_id = 2; /* open_clip reads the largest id, which is the end of text */
	return clip_layers_check(&t->layers, path, e) || check_vision(v, path, e) ? -1 : 0;
}

/* Three numbers under a key, where it is there. */
static int read_triple(double out[3], const json_t *o, const char *key, const char *path, struct err *e)
{
	const json_t *v = json_object_get(o, key);

	if (!v || json_is_null(v))
		return 0;
	for (size_t i = 0; i < 3; i++) {
		const json_t *x = json_array_get(v, i);

		if (json_array_size(v) != 3 || !json_is_number(x))
			return err_set(e, "%s: %s must be three numbers", path, key);
		out[i] = json_number_value(x);
	}
	return 0;
}

/* What the images are normalised by: CLIP's own numbers, or those of the folder's configuration. */
static int read_normalisation(struct clip *m, const char *dir, const json_t *config, bool open,
			      const char *config_path, struct err *e)
{
	static const double mean[3] = { 0.48145466, 0.4578275, 0.40821073 },
			    std[3] = { 0.26862954, 0.26130258, 0.27577711 };
	char *path = file_join(dir, "preprocessor_config.json");
	int ret = 0;

	memcpy(m->mean, mean, sizeof mean);
	memcpy(m->std, std, sizeof std);
	if (open) {
		const json_t *o = json_object_get(config, "preprocess_cfg");
		ret = read_triple(m->mean, o, "mean", config_path, e) ||
			      read_triple(m->std, o, "std", config_path, e)
			  ? -1
			  : 0;
	} else if (file_exists(path)) {
		json_t *o = json_read(path, e);
		ret = !o || read_triple(m->mean, o, "image_mean", path, e) ||
			      read_triple(m->std, o, "image_std", path, e)
			  ? -1
			  : 0;
		json_decref(o);
	}
	for (int c = 0; c < 3 && !ret; c++)
		if (!(m->std[c] > 0))
			ret =
			    err_set(e, "%s: the standard deviations of pixels must be above 0", config_path);
	free(path);
	return ret;
}

/* ---- Weights ------------------------------------------------------------------------------------- */

static void lay_out_vision(struct clip_vision *v, struct nn_net *net, enum clip_layout layout)
{
	static const char *const projection[] = { "visual_projection" };
	bool open = layout == CLIP_OPEN_CLIP;
	int64_t D = v->layers.width, p = v->patch_size, side = v->image_size / p;

	nn_add_tensor(net, &v->class_D,
		      open ? "visual.class_embedding" : "vision_model.embeddings.class_embedding", DIMS(D),
		      true);
	nn_add_tensor(net, &v->patch_w_D3pp,
		      open ? "visual.conv1.weight" : "vision_model.embeddings.patch_embedding.weight",
		      DIMS(D, 3, p, p), true);
	nn_add_tensor(net, &v->position_ND,
		      open ? "visual.positional_embedding"
			   : "vision_model.embeddings.position_embedding.weight",
		      DIMS(side * side + 1, D), true);
	nn_ignore(net, "vision_model.embeddings.position_ids");
	clip_norm_lay_out(net, &v->pre_w, &v->pre_b, open ? "visual.ln_pre" : "vision_model.pre_layrnorm", D);
	clip_layers_lay_out(&v->layers, net,
			    open ? "visual.transformer.resblocks." : "vision_model.encoder.layers.", layout);
	clip_norm_lay_out(net, &v->post_w, &v->post_b,
			  open ? "visual.ln_post" : "vision_model.post_layernorm", D);
	if (open)
		nn_add_tensor(net, &v->projection_DP, "visual.proj", DIMS(D, v->projection_dim), true);
	else
		nn_add_linear(net, &v->projection, 1, projection, &v->projection_dim, D, false);
}

/* One number, which 16 bits would round too much. */
static int read_scale(struct clip *m, const char *dir, const char *stem, struct err *e)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct st_file f;
	at_t t;
	int ret = st_open_model(&f, dir, stem, NULL, e);

	if (!ret) {
		ret = st_take(&t, &f, "logit_scale", (struct at_dims) { 0 }, e);
		if (!ret && at_numel(t) != 1)
			ret = err_set(e, "%s: logit_scale is not a single number", f.path);
		if (!ret)
			m->logit_scale = exp(at_item(at_sum(at_cast(t, AT_F64))));
		st_close(&f);
	}
	at_end(s);
	return ret;
}

int clip_open(struct clip *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	char *plain = file_join(dir, "config.json"), *other = file_join(dir, "open_clip_config.json");
	bool open = !file_exists(plain) && file_exists(other);
	const char *path = open ? other : plain, *stem = open ? OPEN_CLIP_STEM : NN_TRANSFORMERS;
	enum clip_layout layout = open ? CLIP_OPEN_CLIP : CLIP_TRANSFORMERS;
	json_t *o = nn_folder(dir, e) ? NULL : json_read(path, e);
	int ret = o ? 0 : -1;

	*m = (struct clip) { .dtype = dt, .device = dev, .dir = mem_str(dir), .stem = stem };
	if (!ret)
		ret = open ? read_open_clip(m, o, path, e) : read_transformers(m, o, path, e);
	if (!ret) {
		clip_text_lay_out(&m->text, &m->net, layout);
		lay_out_vision(&m->vision, &m->net, layout);
		nn_ignore(&m->net, "logit_scale");
		ret = read_normalisation(m, dir, o, open, path, e) ||
			      nn_check_dir(&m->net, dir, stem, NULL, e) || read_scale(m, dir, stem, e) ||
			      clip_tokenizer_open(&m->tokenizer, dir, e)
			  ? -1
			  : 0;
	}
	if (ret)
		clip_release(m);
	json_decref(o);
	free(plain);
	free(other);
	return ret;
}

int clip_load(struct clip *m, struct err *e)
{
	return nn_load_dir(&m->net, m->dir, m->stem, NULL, m->dtype, m->device, e);
}

void clip_release(struct clip *m)
{
	free(m->dir);
	nn_release(&m->net);
	clip_layers_release(&m->text.layers);
	clip_layers_release(&m->vision.layers);
	clip_tokenizer_close(m->tokenizer);
	*m = (struct clip) { 0 };
}
