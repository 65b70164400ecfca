/* vae_file.c -- AutoencoderKL's configuration and parameters, and the VAE as an autoencoder_type. */
#include "models/encoder.h"
#include "models/known_keys.h"
#include "models/vae/vae.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

/* ---- Configuration ------------------------------------------------------------------------------- */

/* Every entry of a list of strings is `wanted`, and there are n. */
static int require_blocks(const json_t *o, const char *key, const char *wanted, int n, const char *path,
			  struct err *e)
{
	const json_t *list = json_object_get(o, key), *x;
	size_t i;

	if (!json_is_array(list) || json_array_size(list) != (size_t)n)
		return err_set(e, "%s: %s must have an entry for each of %d block_out_channels", path, key,
			       n);
	json_array_foreach(list, i, x)
	{
		const char *name = json_string_value(x);
		if (!name || strcmp(name, wanted) != 0)
			return err_set(e, "%s: %s[%zu] is '%s': only %s is supported", path, key, i,
				       name ? name : "?", wanted);
	}
	return 0;
}

static int read_levels(struct vae_conf *c, const json_t *o, const char *path, struct err *e)
{
	const json_t *list = json_object_get(o, "block_out_channels"), *x;
	size_t i;

	if (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > VAE_LEVELS)
		return err_set(e, "%s: block_out_channels must list 1 to %d channels", path, VAE_LEVELS);
	json_array_foreach(list, i, x)
	{
		if (!json_is_integer(x) || json_integer_value(x) < 1 ||
		    json_integer_value(x) % c->norm_num_groups)
			return err_set(e, "%s: block_out_channels[%zu] is no multiple of norm_num_groups",
				       path, i);
		c->block_out_channels[c->n_levels++] = json_integer_value(x);
	}
	if (require_blocks(o, "down_block_types", "DownEncoderBlock2D", c->n_levels, path, e))
		return -1;
	return require_blocks(o, "up_block_types", "UpDecoderBlock2D", c->n_levels, path, e);
}

/* null counts as absent: configs of diffusers write every key. */
static int real_or_null(double *out, const json_t *o, const char *key, double absent, const char *path,
			struct err *e)
{
	*out = absent;
	return json_is_null(json_object_get(o, key)) ? 0 : json_get_real(out, o, key, absent, path, e);
}

static int read_config(struct vae_conf *c, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	const char *act = NULL;
	int ret = -1;

	if (!o || json_check_keys(o, known_vae, known_anywhere, path, e) ||
	    json_get_int(&c->in_channels, o, "in_channels", 3, path, e) ||
	    json_get_int(&c->out_channels, o, "out_channels", 3, path, e) ||
	    json_get_int(&c->latent_channels, o, "latent_channels", 4, path, e) ||
	    json_get_int(&c->layers_per_block, o, "layers_per_block", 1, path, e) ||
	    json_get_int(&c->norm_num_groups, o, "norm_num_groups", 32, path, e) ||
	    json_get_bool(&c->use_quant_conv, o, "use_quant_conv", true, path, e) ||
	    json_get_bool(&c->use_post_quant_conv, o, "use_post_quant_conv", true, path, e) ||
	    json_get_bool(&c->mid_block_add_attention, o, "mid_block_add_attention", true, path, e) ||
	    json_get_real(&c->scaling_factor, o, "scaling_factor", 0.18215, path, e) ||
	    real_or_null(&c->shift_factor, o, "shift_factor", 0, path, e) ||
	    json_get_str(&act, o, "act_fn", "silu", path, e))
		goto out;
	if (c->in_channels != 3 || c->out_channels != 3)
		err_set(e, "%s: in_channels and out_channels must be 3", path);
	else if (c->latent_channels < 1 || c->layers_per_block < 1 || c->layers_per_block > 100 ||
		 c->norm_num_groups < 1 || !(c->scaling_factor > 0))
		err_set(e, "%s: sizes and scaling_factor must be above 0", path);
	else if (strcmp(act, "silu") != 0)
		err_set(e, "%s: act_fn is '%s': only silu is supported", path, act);
	else
		ret = read_levels(c, o, path, e);
out:
	json_decref(o);
	return ret;
}

/* ---- Parameters ---------------------------------------------------------------------------------- */

static void tensor(struct vae *m, at_t *slot, const char *at, const char *name, struct at_dims shape)
{
	char *full = mem_printf("%s%s", at, name);

	nn_add_tensor(&m->net, slot, full, shape, true);
	free(full);
}

static void conv(struct vae *m, struct vae_conv *c, const char *at, const char *name, int64_t out, int64_t in,
		 int64_t side)
{
	char *full = mem_printf("%s%s", at, name);

	tensor(m, &c->w_OIkk, full, ".weight", DIMS(out, in, side, side));
	tensor(m, &c->b_O, full, ".bias", DIMS(out));
	free(full);
}

static void norm(struct vae *m, struct vae_norm *n, const char *at, const char *name, int64_t channels)
{
	char *full = mem_printf("%s%s", at, name);

	tensor(m, &n->w_C, full, ".weight", DIMS(channels));
	tensor(m, &n->b_C, full, ".bias", DIMS(channels));
	free(full);
}

static void resnet(struct vae *m, struct vae_resnet *r, const char *at, int64_t out, int64_t in)
{
	norm(m, &r->norm1, at, "norm1", in);
	conv(m, &r->conv1, at, "conv1", out, in, 3);
	norm(m, &r->norm2, at, "norm2", out);
	conv(m, &r->conv2, at, "conv2", out, out, 3);
	if (in != out)
		conv(m, &r->shortcut, at, "conv_shortcut", out, in, 1);
}

/* A linear of the attention, which files from before diffusers 0.18 call otherwise. */
static void linear(struct vae *m, struct nn_linear *l, const char *at, const char *name, const char *old,
		   int64_t C)
{
	char *full = mem_printf("%s%s", at, name), *weight = mem_printf("%s%s.weight", at, old),
	     *bias = mem_printf("%s%s.bias", at, old);
	int first = m->net.n_param;

	nn_add_linear(&m->net, l, 1, (const char *const *)&full, &C, C, true);
	m->net.param[first].alias = weight;
	m->net.param[first + 1].alias = bias;
	free(full);
}

static void middle(struct vae *m, struct vae_half *f, const char *at, int64_t C)
{
	char *resnet0 = mem_printf("%smid_block.resnets.0.", at),
	     *resnet1 = mem_printf("%smid_block.resnets.1.", at),
	     *attn = mem_printf("%smid_block.attentions.0.", at);

	resnet(m, &f->mid[0], resnet0, C, C);
	if (m->conf.mid_block_add_attention) {
		norm(m, &f->attention_norm, attn, "group_norm", C);
		linear(m, &f->q, attn, "to_q", "query", C);
		linear(m, &f->k, attn, "to_k", "key", C);
		linear(m, &f->v, attn, "to_v", "value", C);
		linear(m, &f->out, attn, "to_out.0", "proj_attn", C);
	}
	resnet(m, &f->mid[1], resnet1, C, C);
	free(resnet0);
	free(resnet1);
	free(attn);
}

/* Level i of a half: resnets from `in` to `out` channels, then the resampling convolution unless it is last.
 */
static void level(struct vae *m, struct vae_half *f, const char *at, int i, bool up, int64_t out, int64_t in)
{
	struct vae_level *l = &f->level[i];
	char *prefix = mem_printf("%s%s_blocks.%d.", at, up ? "up" : "down", i);

	l->n = (int)m->conf.layers_per_block + up;
	l->resnet = mem_zero((size_t)l->n, sizeof *l->resnet);
	for (int k = 0; k < l->n; k++) {
		char *name = mem_printf("%sresnets.%d.", prefix, k);
		resnet(m, &l->resnet[k], name, out, k ? out : in);
		free(name);
	}
	if (i + 1 < m->conf.n_levels)
		conv(m, &l->resample, prefix, up ? "upsamplers.0.conv" : "downsamplers.0.conv", out, out, 3);
	free(prefix);
}

static void lay_out(struct vae *m)
{
	const struct vae_conf *c = &m->conf;
	int n = c->n_levels;
	const int64_t *C = c->block_out_channels;
	int64_t z = c->latent_channels;

	conv(m, &m->encoder.conv_in, "encoder.", "conv_in", C[0], c->in_channels, 3);
	for (int i = 0; i < n; i++)
		level(m, &m->encoder, "encoder.", i, false, C[i], C[i ? i - 1 : 0]);
	middle(m, &m->encoder, "encoder.", C[n - 1]);
	norm(m, &m->encoder.norm_out, "encoder.", "conv_norm_out", C[n - 1]);
	conv(m, &m->encoder.conv_out, "encoder.", "conv_out", 2 * z, C[n - 1], 3);
	conv(m, &m->decoder.conv_in, "decoder.", "conv_in", C[n - 1], z, 3);
	middle(m, &m->decoder, "decoder.", C[n - 1]);
	for (int i = 0; i < n; i++)
		level(m, &m->decoder, "decoder.", i, true, C[n - 1 - i], C[i ? n - i : n - 1]);
	norm(m, &m->decoder.norm_out, "decoder.", "conv_norm_out", C[0]);
	conv(m, &m->decoder.conv_out, "decoder.", "conv_out", c->out_channels, C[0], 3);
	if (c->use_quant_conv)
		conv(m, &m->encoder.quant, "", "quant_conv", 2 * z, 2 * z, 1);
	if (c->use_post_quant_conv)
		conv(m, &m->decoder.quant, "", "post_quant_conv", z, z, 1);
}

void vae_new(struct vae *m, const struct vae_conf *c, uint64_t seed)
{
	*m = (struct vae) { .conf = *c };
	lay_out(m);
	nn_init(&m->net, seed);
}

void vae_move(struct vae *m, enum at_dtype dt, enum at_device dev)
{
	nn_move(&m->net, dt, dev);
	if (dev == AT_CUDA)
		vae_order_for_gpu(&m->net);
}

int vae_read_conf(struct vae_conf *c, const char *dir, struct err *e)
{
	char *path = file_join(dir, "config.json");
	int ret = read_config(c, path, e);

	free(path);
	return ret;
}

int vae_open(struct vae *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	int ret;

	*m = (struct vae) { 0 };
	ret = vae_read_conf(&m->conf, dir, e);
	if (!ret) {
		lay_out(m);
		ret = nn_load_dir(&m->net, dir, NN_DIFFUSERS, NULL, dt, dev, e);
	}
	if (ret)
		vae_release(m);
	else if (dev == AT_CUDA)
		vae_order_for_gpu(&m->net);
	return ret;
}

void vae_release(struct vae *m)
{
	nn_release(&m->net);
	for (int i = 0; i < VAE_LEVELS; i++) {
		free(m->encoder.level[i].resnet);
		free(m->decoder.level[i].resnet);
	}
	*m = (struct vae) { 0 };
}

/* ---- As an autoencoder_type ---------------------------------------------------------------------- */

static int open_type(void **state, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	struct vae *m = mem_zero(1, sizeof *m);

	if (vae_open(m, dir, dt, dev, e)) {
		free(m);
		return -1;
	}
	*state = m;
	return 0;
}

static at_t decode_type(void *state, at_t latents_BChw, int64_t at_a_time)
{
	const struct vae *m = state;

	return vae_decode(m, at_cast(latents_BChw, at_dtype_of(m->decoder.conv_in.w_OIkk)), at_a_time);
}

static at_t encode_type(void *state, at_t pixels_B3HW)
{
	return vae_encode(state, pixels_B3HW);
}

static int64_t scale_type(void *state)
{
	return vae_scale(state);
}

static int read_scale(int64_t *scale, const char *dir, struct err *e)
{
	struct vae m = { 0 };
	int ret = vae_read_conf(&m.conf, dir, e);

	if (!ret)
		*scale = vae_scale(&m);
	return ret;
}

static int64_t channels_type(void *state)
{
	return ((struct vae *)state)->conf.latent_channels;
}

static void close_type(void *state)
{
	vae_release(state);
	free(state);
}

const struct autoencoder_type kl_autoencoder = {
	.class_name = "AutoencoderKL",
	.open = open_type,
	.decode = decode_type,
	.encode = encode_type,
	.scale = scale_type,
	.read_scale = read_scale,
	.channels = channels_type,
	.close = close_type,
};
