/* qwen_vae_file.c -- AutoencoderKLQwenImage's configuration and parameters, and the VAE as an
 * autoencoder_type. */
#include "models/qwen_image/qwen_vae.h"
#include "models/known_keys.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <math.h>
#include <stdlib.h>

/* ---- Configuration ------------------------------------------------------------------------------- */

static int read_levels(struct qwen_vae_conf *c, const json_t *o, const char *path, struct err *e)
{
	static const int64_t mult[] = { 1, 2, 4, 4 };
	static const bool time[] = { false, true, true };
	const json_t *list = json_object_get(o, "dim_mult"),
		     *when = json_object_get(o, "temperal_downsample"), *x;
	size_t i, n = list ? json_array_size(list) : 4;

	if (n < 1 || n > QWEN_VAE_LEVELS)
		return err_set(e, "%s: dim_mult must list 1 to %d factors", path, QWEN_VAE_LEVELS);
	if ((when ? json_array_size(when) : 3) != n - 1)
		return err_set(e, "%s: temperal_downsample must have %zu entries, one fewer than dim_mult",
			       path, n - 1);
	c->n_levels = (int)n;
	for (i = 0; i < n; i++) {
		x = json_array_get(list, i);
		c->dim_mult[i] = list ? json_integer_value(x) : mult[i];
		if (c->dim_mult[i] < 1 || c->dim_mult[i] > 1 << 12)
			return err_set(e, "%s: dim_mult[%zu] must be a whole number above 0", path, i);
		x = json_array_get(when, i);
		if (when && i < n - 1 && !json_is_boolean(x))
			return err_set(e, "%s: temperal_downsample[%zu] must be true or false", path, i);
		c->time[i] = i < n - 1 && (when ? json_is_true(x) : time[i]);
		if (i && c->base_dim * c->dim_mult[i] % 2)
			return err_set(e, "%s: base_dim * dim_mult[%zu] must be even", path, i);
	}
	return 0;
}

/* z_dim numbers; the published ones, for 16 channels, where the file has none. */
static int read_numbers(float *out, const struct qwen_vae_conf *c, const json_t *o, const char *key,
			const float published[16], const char *path, struct err *e)
{
	const json_t *list = json_object_get(o, key);

	if ((list ? json_array_size(list) : 16) != (size_t)c->z_dim)
		return err_set(e, "%s: %s must have z_dim = %lld numbers", path, key, (long long)c->z_dim);
	for (int64_t i = 0; i < c->z_dim; i++) {
		const json_t *x = json_array_get(list, (size_t)i);

		out[i] = list ? (float)json_number_value(x) : published[i];
		if ((list && !json_is_number(x)) || !isfinite(out[i]))
			return err_set(e, "%s: %s[%lld] is not a number", path, key, (long long)i);
	}
	return 0;
}

static int read_statistics(struct qwen_vae_conf *c, const json_t *o, const char *path, struct err *e)
{
	static const float mean[16] = { -0.7571F, -0.7089F, -0.9113F, 0.1075F,  -0.1745F, 0.9653F,
					-0.1517F, 1.5508F,  0.4134F,  -0.0715F, 0.5517F,  -0.3632F,
					-0.1922F, -0.9497F, 0.2503F,  -0.2921F };
	static const float std[16] = {
		2.8184F, 1.4541F, 2.3275F, 2.6558F, 1.2196F, 1.7708F, 2.6052F, 2.0743F,
		3.2687F, 2.1526F, 2.8652F, 1.5579F, 1.6382F, 1.1253F, 2.8251F, 1.9160F
	};

	if (read_numbers(c->mean, c, o, "latents_mean", mean, path, e) ||
	    read_numbers(c->std, c, o, "latents_std", std, path, e))
		return -1;
	for (int64_t i = 0; i < c->z_dim; i++)
		if (!(c->std[i] > 0))
			return err_set(e, "%s: latents_std[%lld] must be above 0", path, (long long)i);
	return 0;
}

int qwen_vae_read_config(struct qwen_vae_conf *c, const char *dir, struct err *e)
{
	char *path = file_join(dir, "config.json");
	json_t *o = json_read(path, e);
	int ret = -1;

	*c = (struct qwen_vae_conf) { 0 };
	if (!o || json_check_keys(o, known_qwen_vae, known_anywhere, path, e) ||
	    json_get_int(&c->base_dim, o, "base_dim", 96, path, e) ||
	    json_get_int(&c->z_dim, o, "z_dim", 16, path, e) ||
	    json_get_int(&c->num_res_blocks, o, "num_res_blocks", 2, path, e))
		goto out;
	if (c->base_dim < 1 || c->base_dim > 1 << 12 || c->z_dim < 1 || c->z_dim > QWEN_VAE_CHANNELS ||
	    c->num_res_blocks < 1 || c->num_res_blocks > 100)
		err_set(e, "%s: base_dim, z_dim (at most %d) and num_res_blocks must be above 0", path,
			QWEN_VAE_CHANNELS);
	else
		ret = read_levels(c, o, path, e) || read_statistics(c, o, path, e) ? -1 : 0;
out:
	json_decref(o);
	free(path);
	return ret;
}

int64_t qwen_vae_scale(const struct qwen_vae_conf *c)
{
	return (int64_t)1 << (c->n_levels - 1);
}

/* ---- Parameters ---------------------------------------------------------------------------------- */

static void bias(struct qwen_vae *m, struct vae_conv *c, const char *name, int64_t out)
{
	char *full = mem_printf("%s.bias", name);

	nn_add_tensor(&m->net, &c->b_O, full, DIMS(out), true);
	free(full);
}

/* Over time and image, `side` in each direction. */
static void causal(struct qwen_vae *m, struct vae_conv *c, const char *at, const char *name, int64_t out,
		   int64_t in, int64_t side)
{
	char *full = mem_printf("%s%s", at, name), *weight = mem_printf("%s.weight", full);

	nn_add_last_frame(&m->net, &c->w_OIkk, weight, DIMS(out, in, side, side, side));
	bias(m, c, full, out);
	free(full);
	free(weight);
}

/* Over the image alone. */
static void flat(struct qwen_vae *m, struct vae_conv *c, const char *at, const char *name, int64_t out,
		 int64_t in, int64_t side)
{
	char *full = mem_printf("%s%s", at, name), *weight = mem_printf("%s.weight", full);

	nn_add_tensor(&m->net, &c->w_OIkk, weight, DIMS(out, in, side, side), true);
	bias(m, c, full, out);
	free(full);
	free(weight);
}

static void norm(struct qwen_vae *m, at_t *slot, const char *at, const char *name, struct at_dims shape)
{
	char *full = mem_printf("%s%s.gamma", at, name);

	nn_add_tensor(&m->net, slot, full, shape, true);
	free(full);
}

static void resnet(struct qwen_vae *m, struct qwen_vae_resnet *r, const char *at, int64_t out, int64_t in)
{
	norm(m, &r->norm1_C111, at, "norm1", DIMS(in, 1, 1, 1));
	causal(m, &r->conv1, at, "conv1", out, in, 3);
	norm(m, &r->norm2_C111, at, "norm2", DIMS(out, 1, 1, 1));
	causal(m, &r->conv2, at, "conv2", out, out, 3);
	if (in != out)
		causal(m, &r->shortcut, at, "conv_shortcut", out, in, 1);
}

/* What changes an image's size; of its convolution over time a first frame sees nothing. */
static void resample(struct qwen_vae *m, struct vae_conv *c, const char *at, int64_t out, int64_t in,
		     bool time)
{
	flat(m, c, at, "resample.1", out, in, 3);
	for (int k = 0; time && k < 2; k++) {
		char *name = mem_printf("%stime_conv.%s", at, k ? "bias" : "weight");

		nn_ignore(&m->net, name);
		free(name);
	}
}

static void middle(struct qwen_vae *m, struct qwen_vae_half *f, const char *at, int64_t C)
{
	char *resnet0 = mem_printf("%smid_block.resnets.0.", at),
	     *resnet1 = mem_printf("%smid_block.resnets.1.", at),
	     *attn = mem_printf("%smid_block.attentions.0.", at);

	resnet(m, &f->mid[0], resnet0, C, C);
	norm(m, &f->attention_norm_C11, attn, "norm", DIMS(C, 1, 1));
	flat(m, &f->to_qkv, attn, "to_qkv", 3 * C, C, 1);
	flat(m, &f->proj, attn, "proj", C, C, 1);
	resnet(m, &f->mid[1], resnet1, C, C);
	free(resnet0);
	free(resnet1);
	free(attn);
}

static void resnets(struct qwen_vae *m, struct qwen_vae_level *l, const char *list, int first, int n,
		    int64_t out, int64_t in)
{
	l->n = n;
	l->resnet = mem_zero((size_t)n, sizeof *l->resnet);
	for (int k = 0; k < n; k++) {
		char *name = mem_printf("%s%d.", list, first + k);

		resnet(m, &l->resnet[k], name, out, k ? out : in);
		free(name);
	}
}

/* The encoder's levels are one list of blocks: resnets, and between levels what halves the image. */
static void down(struct qwen_vae *m, int i, int64_t out, int64_t in)
{
	struct qwen_vae_level *l = &m->encoder.level[i];
	int n = (int)m->conf.num_res_blocks, first = i * (n + 1);

	resnets(m, l, "encoder.down_blocks.", first, n, out, in);
	if (i + 1 < m->conf.n_levels) {
		char *name = mem_printf("encoder.down_blocks.%d.", first + n);

		resample(m, &l->resample, name, out, out, m->conf.time[i]);
		free(name);
	}
}

/* Level i of the decoder from its input; what doubles the image halves the channels. */
static void up(struct qwen_vae *m, int i, int64_t out, int64_t in)
{
	struct qwen_vae_level *l = &m->decoder.level[i];
	char *list = mem_printf("decoder.up_blocks.%d.resnets.", i),
	     *name = mem_printf("decoder.up_blocks.%d.upsamplers.0.", i);
	int last = m->conf.n_levels - 1;

	resnets(m, l, list, 0, (int)m->conf.num_res_blocks + 1, out, in);
	if (i < last)
		resample(m, &l->resample, name, out / 2, out, m->conf.time[last - 1 - i]);
	free(list);
	free(name);
}

static void lay_out(struct qwen_vae *m)
{
	const struct qwen_vae_conf *c = &m->conf;
	int n = c->n_levels;
	int64_t z = c->z_dim, C[QWEN_VAE_LEVELS];

	for (int i = 0; i < n; i++)
		C[i] = c->base_dim * c->dim_mult[i];
	causal(m, &m->encoder.conv_in, "encoder.", "conv_in", c->base_dim, 3, 3);
	for (int i = 0; i < n; i++)
		down(m, i, C[i], i ? C[i - 1] : c->base_dim);
	middle(m, &m->encoder, "encoder.", C[n - 1]);
	norm(m, &m->encoder.norm_out_C111, "encoder.", "norm_out", DIMS(C[n - 1], 1, 1, 1));
	causal(m, &m->encoder.conv_out, "encoder.", "conv_out", 2 * z, C[n - 1], 3);
	causal(m, &m->encoder.quant, "", "quant_conv", 2 * z, 2 * z, 1);
	causal(m, &m->decoder.quant, "", "post_quant_conv", z, z, 1);
	causal(m, &m->decoder.conv_in, "decoder.", "conv_in", C[n - 1], z, 3);
	middle(m, &m->decoder, "decoder.", C[n - 1]);
	for (int i = 0; i < n; i++)
		up(m, i, C[n - 1 - i], i ? C[n - i] / 2 : C[n - 1]);
	norm(m, &m->decoder.norm_out_C111, "decoder.", "norm_out", DIMS(C[0], 1, 1, 1));
	causal(m, &m->decoder.conv_out, "decoder.", "conv_out", 3, C[0], 3);
}

static at_t statistics(const struct qwen_vae *m, const float *v, enum at_dtype dt, enum at_device dev)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	at_t kept = at_keep(at_to(at_from(v, DIMS(1, m->conf.z_dim, 1, 1), AT_F32), dt, dev));

	at_end(s);
	return kept;
}

int qwen_vae_open(struct qwen_vae *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	*m = (struct qwen_vae) { 0 };
	if (qwen_vae_read_config(&m->conf, dir, e))
		return -1;
	lay_out(m);
	if (nn_load_dir(&m->net, dir, NN_DIFFUSERS, NULL, dt, dev, e)) {
		qwen_vae_release(m);
		return -1;
	}
	m->mean_1C11 = statistics(m, m->conf.mean, dt, dev);
	m->std_1C11 = statistics(m, m->conf.std, dt, dev);
	if (dev == AT_CUDA)
		vae_order_for_gpu(&m->net);
	return 0;
}

void qwen_vae_release(struct qwen_vae *m)
{
	nn_release(&m->net);
	for (int i = 0; i < QWEN_VAE_LEVELS; i++) {
		free(m->encoder.level[i].resnet);
		free(m->decoder.level[i].resnet);
	}
	at_free(m->mean_1C11);
	at_free(m->std_1C11);
	*m = (struct qwen_vae) { 0 };
}

/* ---- As an autoencoder_type ---------------------------------------------------------------------- */

static int open_type(void **state, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	struct qwen_vae *m = mem_zero(1, sizeof *m);

	if (qwen_vae_open(m, dir, dt, dev, e)) {
		free(m);
		return -1;
	}
	*state = m;
	return 0;
}

static at_t decode_type(void *state, at_t latents_BChw, int64_t at_a_time)
{
	const struct qwen_vae *m = state;

	return qwen_vae_decode(m, at_cast(latents_BChw, at_dtype_of(m->std_1C11)), at_a_time);
}

static at_t encode_type(void *state, at_t pixels_B3HW)
{
	const struct qwen_vae *m = state;

	return qwen_vae_encode(m, at_cast(pixels_B3HW, at_dtype_of(m->std_1C11)));
}

static int64_t scale_type(void *state)
{
	return qwen_vae_scale(&((struct qwen_vae *)state)->conf);
}

static int read_scale(int64_t *scale, const char *dir, struct err *e)
{
	struct qwen_vae_conf c;

	if (qwen_vae_read_config(&c, dir, e))
		return -1;
	*scale = qwen_vae_scale(&c);
	return 0;
}

static int64_t channels_type(void *state)
{
	return ((struct qwen_vae *)state)->conf.z_dim;
}

static void close_type(void *state)
{
	qwen_vae_release(state);
	free(state);
}

const struct autoencoder_type qwen_autoencoder = {
	.class_name = "AutoencoderKLQwenImage",
	.open = open_type,
	.decode = decode_type,
	.encode = encode_type,
	.scale = scale_type,
	.read_scale = read_scale,
	.channels = channels_type,
	.close = close_type,
};
