/* dc_ae_file.c -- AutoencoderDC's configuration and parameters, and itself as an autoencoder_type. */
#include "models/sana/dc_ae.h"
#include "models/known_keys.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

/* ---- Configuration ------------------------------------------------------------------------------- */

/* SANA's autoencoders; others of this class shuffle pixels where these convolve, or have other norms.  Where
 * a file says nothing it means what diffusers does, which is not always theirs. */
static const struct json_known known[] = {
	{ "in_channels", "3" },
	{ "latent_channels", NULL },
	{ "attention_head_dim", NULL },
	{ "encoder_block_types", NULL },
	{ "decoder_block_types", NULL },
	{ "encoder_block_out_channels", NULL },
	{ "decoder_block_out_channels", NULL },
	{ "encoder_layers_per_block", NULL },
	{ "decoder_layers_per_block", NULL },
	{ "encoder_qkv_multiscales", NULL },
	{ "decoder_qkv_multiscales", NULL },
	{ "upsample_block_type", "\"interpolate\"" },
	{ "downsample_block_type", "\"Conv\"" },
	{ "decoder_norm_types", NULL },
	{ "decoder_act_fns", NULL },
	{ "encoder_out_shortcut", NULL },
	{ "decoder_in_shortcut", NULL },
	{ "decoder_conv_act_fn", "\"relu\"" },
	{ "scaling_factor", NULL },
	{ NULL, NULL },
};

static int required(const json_t *o, const char *path, struct err *e)
{
	static const char *const keys[] = { "upsample_block_type", "downsample_block_type" };
	static const char *const shortcuts[] = { "encoder_out_shortcut", "decoder_in_shortcut" };

	for (int i = 0; i < 2; i++)
		if (!json_is_string(json_object_get(o, keys[i])))
			return err_set(e,
				       "%s: %s is missing, which then means pixels that are shuffled: only "
				       "SANA's \"interpolate\" and \"Conv\" are supported",
				       path, keys[i]);
	for (int i = 0; i < 2; i++) {
		bool there;
		if (json_get_bool(&there, o, shortcuts[i], true, path, e))
			return -1;
		if (!there)
			return err_set(e, "%s: %s is false, which is not supported", path, shortcuts[i]);
	}
	return 0;
}

/* A name a level, or one for all. */
static int read_name(const char **name, const json_t *o, const char *key, int i, const char *absent,
		     const char *path, struct err *e)
{
	const json_t *v = json_object_get(o, key);

	*name = v ? json_string_value(json_is_array(v) ? json_array_get(v, (size_t)i) : v) : absent;
	return *name ? 0 : err_set(e, "%s: %s must be a name, or a name for each level", path, key);
}

static int read_block(bool *vit, const json_t *o, const char *key, int i, const char *path, struct err *e)
{
	const char *name;

	if (read_name(&name, o, key, i, "ResBlock", path, e))
		return -1;
	*vit = !strcmp(name, "EfficientViTBlock");
	if (!*vit && strcmp(name, "ResBlock") != 0)
		return err_set(e, "%s: %s '%.60s': there are ResBlock and EfficientViTBlock", path, key,
			       name);
	return 0;
}

static int read_same(const json_t *o, const char *key, int levels, const char *wanted, const char *path,
		     struct err *e)
{
	const char *name;

	for (int i = 0; i < levels; i++) {
		if (read_name(&name, o, key, i, wanted, path, e))
			return -1;
		if (strcmp(name, wanted) != 0)
			return err_set(e, "%s: %s '%.60s': only %s is supported", path, key, name, wanted);
	}
	return 0;
}

static int read_numbers(int64_t *out, const json_t *o, const char *key, int levels, int64_t most,
			const char *path, struct err *e)
{
	const json_t *list = json_object_get(o, key);

	if (json_array_size(list) != (size_t)levels)
		return err_set(e, "%s: %s must be a list of %d numbers, one a level", path, key, levels);
	for (int i = 0; i < levels; i++) {
		const json_t *x = json_array_get(list, (size_t)i);

		out[i] = json_is_integer(x) ? json_integer_value(x) : 0;
		if (out[i] < 1 || out[i] > most)
			return err_set(e, "%s: %s[%d] must be a whole number from 1 to %lld", path, key, i,
				       (long long)most);
	}
	return 0;
}

static int read_scales(struct dc_ae_half_conf *c, const json_t *o, const char *key, int i, const char *path,
		       struct err *e)
{
	const json_t *sizes = json_array_get(json_object_get(o, key), (size_t)i), *x;
	size_t k;

	if (!json_is_array(sizes) || json_array_size(sizes) > DC_AE_SCALES)
		return err_set(e, "%s: %s[%d] must be a list of at most %d sizes", path, key, i,
			       DC_AE_SCALES);
	c->scales[i] = (int)json_array_size(sizes);
	json_array_foreach(sizes, k, x)
	{
		c->kernel[i][k] = json_is_integer(x) ? json_integer_value(x) : 0;
		if (c->kernel[i][k] < 1 || c->kernel[i][k] > 63 || c->kernel[i][k] % 2 == 0)
			return err_set(e, "%s: %s[%d][%zu] must be an odd number from 1 to 63", path, key, i,
				       k);
	}
	return 0;
}

static int read_half(struct dc_ae_half_conf *c, const json_t *o, const char *half, int levels,
		     const char *path, struct err *e)
{
	char *types = mem_printf("%s_block_types", half), *layers = mem_printf("%s_layers_per_block", half);
	char *channels = mem_printf("%s_block_out_channels", half);
	char *scales = mem_printf("%s_qkv_multiscales", half);
	int ret = read_numbers(c->channels, o, channels, levels, 1 << 16, path, e) ||
			  read_numbers(c->layers, o, layers, levels, 100, path, e)
		      ? -1
		      : 0;

	for (int i = 0; i < levels && !ret; i++)
		ret = read_block(&c->vit[i], o, types, i, path, e) || read_scales(c, o, scales, i, path, e)
			  ? -1
			  : 0;
	free(types);
	free(layers);
	free(channels);
	free(scales);
	return ret;
}

/* What goes around a change of size moves whole channels. */
static int check_half(const struct dc_ae_conf *c, const struct dc_ae_half_conf *h, const char *half,
		      const char *path, struct err *e)
{
	if (h->channels[c->levels - 1] % c->latent_channels)
		return err_set(e, "%s: the %s's last level must have a multiple of latent_channels", path,
			       half);
	for (int i = 0; i < c->levels; i++) {
		const int64_t *C = &h->channels[i];

		if (i + 1 < c->levels && 4 * C[0] % C[1])
			return err_set(e,
				       "%s: %s_block_out_channels[%d] must divide four times the one before",
				       path, half, i + 1);
		if (h->vit[i] && C[0] < c->attention_head_dim)
			return err_set(e, "%s: %s_block_out_channels[%d] is below attention_head_dim", path,
				       half, i);
	}
	return 0;
}

static int read_all(struct dc_ae_conf *c, const json_t *o, const char *path, struct err *e)
{
	size_t levels = json_array_size(json_object_get(o, "encoder_block_out_channels"));

	if (json_check_keys(o, known, known_anywhere, path, e) || required(o, path, e) ||
	    json_get_int(&c->latent_channels, o, "latent_channels", 32, path, e) ||
	    json_get_int(&c->attention_head_dim, o, "attention_head_dim", 32, path, e) ||
	    json_get_real(&c->scaling_factor, o, "scaling_factor", 1, path, e))
		return -1;
	if (levels < 1 || levels > DC_AE_LEVELS)
		return err_set(e, "%s: encoder_block_out_channels must list 1 to %d levels", path,
			       DC_AE_LEVELS);
	if (c->latent_channels < 1 || c->latent_channels > 1 << 12 || c->attention_head_dim < 1 ||
	    c->attention_head_dim > 1 << 12 || !(c->scaling_factor > 0))
		return err_set(
		    e, "%s: latent_channels, attention_head_dim and scaling_factor must be above 0", path);
	c->levels = (int)levels;
	return read_half(&c->encoder, o, "encoder", c->levels, path, e) ||
		       read_half(&c->decoder, o, "decoder", c->levels, path, e) ||
		       read_same(o, "decoder_norm_types", c->levels, "rms_norm", path, e) ||
		       read_same(o, "decoder_act_fns", c->levels, "silu", path, e) ||
		       check_half(c, &c->encoder, "encoder", path, e) ||
		       check_half(c, &c->decoder, "decoder", path, e)
		   ? -1
		   : 0;
}

int dc_ae_read_config(struct dc_ae_conf *c, const char *dir, struct err *e)
{
	char *path = file_join(dir, "config.json");
	json_t *o = json_read(path, e);
	int ret;

	*c = (struct dc_ae_conf) { 0 };
	ret = o ? read_all(c, o, path, e) : -1;
	json_decref(o);
	free(path);
	return ret;
}

int64_t dc_ae_scale(const struct dc_ae_conf *c)
{
	return (int64_t)1 << (c->levels - 1);
}

/* ---- Parameters ---------------------------------------------------------------------------------- */

static void conv(struct dc_ae *m, struct vae_conv *c, const char *at, const char *name, int64_t out,
		 int64_t in, int64_t side, bool bias)
{
	char *weight = mem_printf("%s%s.weight", at, name), *b = mem_printf("%s%s.bias", at, name);

	nn_add_tensor(&m->net, &c->w_OIkk, weight, DIMS(out, in, side, side), true);
	if (bias)
		nn_add_tensor(&m->net, &c->b_O, b, DIMS(out), true);
	free(weight);
	free(b);
}

static void norm(struct dc_ae *m, struct dc_ae_norm *n, const char *at, const char *name, int64_t C)
{
	char *weight = mem_printf("%s%s.weight", at, name), *b = mem_printf("%s%s.bias", at, name);

	nn_add_tensor(&m->net, &n->w_C, weight, DIMS(C), true);
	nn_add_tensor(&m->net, &n->b_C, b, DIMS(C), true);
	free(weight);
	free(b);
}

static void resnet(struct dc_ae *m, struct dc_ae_block *b, const char *at, int64_t C)
{
	conv(m, &b->conv1, at, "conv1", C, C, 3, true);
	conv(m, &b->conv2, at, "conv2", C, C, 3, false);
	norm(m, &b->norm, at, "norm", C);
}

static void vit(struct dc_ae *m, struct dc_ae_block *b, const char *at, int64_t C, int scales,
		const int64_t *kernel)
{
	static const char *const qkv[] = { "attn.to_q", "attn.to_k", "attn.to_v" }, *const out =
											"attn.to_out";
	int64_t K = m->conf.attention_head_dim, I = C / K * K, F = 4 * C;

	nn_add_stack(&m->net, &b->qkv, 3, at, qkv, I, C, false);
	for (int i = 0; i < scales; i++) {
		char *scale = mem_printf("%sattn.to_qkv_multiscale.%d.", at, i);

		conv(m, &b->around[i], scale, "proj_in", 3 * I, 1, kernel[i], false);
		conv(m, &b->mix[i], scale, "proj_out", 3 * I, K, 1, false);
		free(scale);
	}
	nn_add_stack(&m->net, &b->out, 1, at, &out, C, I * (1 + scales), false);
	norm(m, &b->attention_norm, at, "attn.norm_out", C);
	conv(m, &b->up, at, "conv_out.conv_inverted", 2 * F, C, 1, true);
	conv(m, &b->depth, at, "conv_out.conv_depth", 2 * F, 1, 3, true);
	conv(m, &b->down, at, "conv_out.conv_point", C, F, 1, false);
	norm(m, &b->norm, at, "conv_out.norm", C);
}

/* The blocks of a level are numbered from `first`. */
static void level(struct dc_ae *m, struct dc_ae_level *l, const struct dc_ae_half_conf *c, int i,
		  const char *list, int first)
{
	l->block = mem_zero((size_t)c->layers[i], sizeof *l->block);
	for (int k = 0; k < (int)c->layers[i]; k++) {
		char *at = mem_printf("%s%d.%d.", list, i, first + k);

		if (c->vit[i])
			vit(m, &l->block[k], at, c->channels[i], c->scales[i], c->kernel[i]);
		else
			resnet(m, &l->block[k], at, c->channels[i]);
		free(at);
	}
}

static void resample(struct dc_ae *m, struct dc_ae_level *l, const char *list, int i, int number, int64_t out,
		     int64_t in)
{
	char *at = mem_printf("%s%d.%d.", list, i, number);

	conv(m, &l->resample, at, "conv", out, in, 3, true);
	free(at);
}

static void lay_out(struct dc_ae *m)
{
	static const char *const down = "encoder.down_blocks.", *const up = "decoder.up_blocks.";
	const struct dc_ae_half_conf *a = &m->conf.encoder, *b = &m->conf.decoder;
	int last = m->conf.levels - 1;
	int64_t z = m->conf.latent_channels;

	conv(m, &m->encoder.conv_in, "encoder.", "conv_in", a->channels[0], 3, 3, true);
	conv(m, &m->decoder.conv_in, "decoder.", "conv_in", b->channels[last], z, 3, true);
	for (int i = 0; i <= last; i++) {
		level(m, &m->encoder.level[i], a, i, down, 0);
		level(m, &m->decoder.level[i], b, i, up, i < last ? 1 : 0);
		if (i == last)
			break;
		resample(m, &m->encoder.level[i], down, i, (int)a->layers[i], a->channels[i + 1],
			 a->channels[i]);
		resample(m, &m->decoder.level[i], up, i, 0, b->channels[i], b->channels[i + 1]);
	}
	conv(m, &m->encoder.conv_out, "encoder.", "conv_out", z, a->channels[last], 3, true);
	norm(m, &m->norm_out, "decoder.", "norm_out", b->channels[0]);
	conv(m, &m->decoder.conv_out, "decoder.", "conv_out", 3, b->channels[0], 3, true);
}

int dc_ae_open(struct dc_ae *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	*m = (struct dc_ae) { 0 };
	if (dc_ae_read_config(&m->conf, dir, e))
		return -1;
	lay_out(m);
	if (nn_load_dir(&m->net, dir, NN_DIFFUSERS, NULL, dt, dev, e)) {
		dc_ae_release(m);
		return -1;
	}
	if (dev == AT_CUDA)
		vae_order_for_gpu(&m->net);
	return 0;
}

void dc_ae_release(struct dc_ae *m)
{
	nn_release(&m->net);
	for (int i = 0; i < DC_AE_LEVELS; i++) {
		free(m->encoder.level[i].block);
		free(m->decoder.level[i].block);
	}
	*m = (struct dc_ae) { 0 };
}

/* ---- As an autoencoder_type ---------------------------------------------------------------------- */

static int open_type(void **state, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	struct dc_ae *m = mem_zero(1, sizeof *m);

	if (dc_ae_open(m, dir, dt, dev, e)) {
		free(m);
		return -1;
	}
	*state = m;
	return 0;
}

static at_t decode_type(void *state, at_t latents_BChw, int64_t at_a_time)
{
	const struct dc_ae *m = state;

	return dc_ae_decode(m, at_cast(latents_BChw, at_dtype_of(m->norm_out.w_C)), at_a_time);
}

static at_t encode_type(void *state, at_t pixels_B3HW)
{
	const struct dc_ae *m = state;

	return dc_ae_encode(m, at_cast(pixels_B3HW, at_dtype_of(m->norm_out.w_C)));
}

static int64_t scale_type(void *state)
{
	return dc_ae_scale(&((struct dc_ae *)state)->conf);
}

static int read_scale(int64_t *scale, const char *dir, struct err *e)
{
	struct dc_ae_conf c;

	if (dc_ae_read_config(&c, dir, e))
		return -1;
	*scale = dc_ae_scale(&c);
	return 0;
}

static int64_t channels_type(void *state)
{
	return ((struct dc_ae *)state)->conf.latent_channels;
}

static void close_type(void *state)
{
	dc_ae_release(state);
	free(state);
}

const struct autoencoder_type dc_autoencoder = {
	.class_name = "AutoencoderDC",
	.open = open_type,
	.decode = decode_type,
	.encode = encode_type,
	.scale = scale_type,
	.read_scale = read_scale,
	.channels = channels_type,
	.close = close_type,
};
