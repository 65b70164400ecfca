/* sana_file.c -- the transformer's configuration and back, its parameters by name, random weights. */
#include "models/sana/sana.h"
#include "models/known_keys.h"
#include "models/layers/sizes.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

/* ---- config.json --------------------------------------------------------------------------------- */

#define FIELD(member, absent, least, most) SIZE_FIELD(struct sana_conf, member, absent, least, most)
/* Absent: diffusers' defaults.  out_channels 0: as many as go in. */
static const struct size_field sizes[] = {
	FIELD(sample_size, 32, 1, 1 << 16),
	FIELD(patch_size, 1, 1, 256),
	FIELD(in_channels, 32, 1, 1 << 16),
	FIELD(out_channels, 0, 0, 1 << 16),
	FIELD(num_layers, 20, 1, TRANSFORMER_BLOCKS),
	FIELD(num_attention_heads, 70, 1, 1 << 12),
	FIELD(attention_head_dim, 32, 1, 1 << 12),
	FIELD(num_cross_attention_heads, 20, 1, 1 << 12),
	FIELD(cross_attention_head_dim, 112, 1, 1 << 12),
	FIELD(cross_attention_dim, 2240, 1, 1 << 20),
	FIELD(caption_channels, 2304, 1, 1 << 20),
	{ NULL, 0, 0, 0, 0 },
};

/* Dropout is of training.  Positions (of the release for 4096 pixels), a guidance scale as an input (SANA
 * Sprint) and weights in the norms the published models of this class lack. */
static const struct json_known known[] = {
	{ "sample_size", NULL },
	{ "patch_size", NULL },
	{ "in_channels", NULL },
	{ "out_channels", NULL },
	{ "num_layers", NULL },
	{ "num_attention_heads", NULL },
	{ "attention_head_dim", NULL },
	{ "num_cross_attention_heads", NULL },
	{ "cross_attention_head_dim", NULL },
	{ "cross_attention_dim", NULL },
	{ "caption_channels", NULL },
	{ "mlp_ratio", NULL },
	{ "norm_eps", NULL },
	{ "timestep_scale", NULL },
	{ "attention_bias", NULL },
	{ "qk_norm", NULL },
	{ "dropout", NULL },
	{ "norm_elementwise_affine", "false" },
	{ "interpolation_scale", "null" },
	{ "guidance_embeds", "false" },
	{ "guidance_embeds_scale", NULL },
	{ NULL, NULL },
};

#define NORM "rms_norm_across_heads"

static int read_norm(struct sana_conf *c, const json_t *o, const char *what, struct err *e)
{
	const char *norm = "";

	if (!json_is_null(json_object_get(o, "qk_norm")) && json_get_str(&norm, o, "qk_norm", "", what, e))
		return -1;
	c->qk_norm = *norm != 0;
	if (c->qk_norm && strcmp(norm, NORM) != 0)
		return err_set(e, "%s: qk_norm = \"%.60s\": only \"" NORM "\" and null are supported", what,
			       norm);
	return 0;
}

static int check(const struct sana_conf *c, const char *what, struct err *e)
{
	int64_t D = c->num_attention_heads * c->attention_head_dim;

	if (c->cross_attention_dim != D)
		return err_set(e,
			       "%s: cross_attention_dim = %lld: must be num_attention_heads * "
			       "attention_head_dim = %lld",
			       what, (long long)c->cross_attention_dim, (long long)D);
	if (!(c->mlp_ratio > 0) || c->mlp_ratio > 64 || (int64_t)(c->mlp_ratio * (double)D) < 1)
		return err_set(e, "%s: mlp_ratio must be above 0 and at most 64", what);
	if (!(c->norm_eps > 0) || !(c->timestep_scale > 0))
		return err_set(e, "%s: norm_eps and timestep_scale must be above 0", what);
	return 0;
}

static int read_config(struct sana_conf *c, const json_t *o, const char *what, struct err *e)
{
	if (json_check_keys(o, known, known_anywhere, what, e) || sizes_read(c, sizes, o, what, e) ||
	    json_get_real(&c->mlp_ratio, o, "mlp_ratio", 2.5, what, e) ||
	    json_get_real(&c->norm_eps, o, "norm_eps", 1e-6, what, e) ||
	    json_get_real(&c->timestep_scale, o, "timestep_scale", 1, what, e) ||
	    json_get_bool(&c->attention_bias, o, "attention_bias", false, what, e) ||
	    read_norm(c, o, what, e))
		return -1;
	if (!c->out_channels)
		c->out_channels = c->in_channels;
	return check(c, what, e);
}

json_t *sana_config(const void *state)
{
	const struct sana_conf *c = &((const struct sana *)state)->conf;
	json_t *o = json_object();

	sizes_write(c, sizes, o);
	json_object_set_new(o, "mlp_ratio", json_number(c->mlp_ratio));
	json_object_set_new(o, "norm_eps", json_number(c->norm_eps));
	json_object_set_new(o, "timestep_scale", json_number(c->timestep_scale));
	json_object_set_new(o, "attention_bias", json_boolean(c->attention_bias));
	json_object_set_new(o, "qk_norm", c->qk_norm ? json_string(NORM) : json_null());
	return o;
}

/* ---- The parameters ------------------------------------------------------------------------------ */

static void linear(struct sana *m, struct nn_linear *l, const char *prefix, const char *name, int64_t out,
		   int64_t in)
{
	nn_add_stack(&m->net, l, 1, prefix, &name, out, in, true);
}

static void tensor(struct sana *m, at_t *slot, const char *prefix, const char *name, struct at_dims shape)
{
	char *full = mem_printf("%s%s", prefix, name);

	nn_add_tensor(&m->net, slot, full, shape, true);
	free(full);
}

/* A convolution's bias, of so many numbers added up. */
static void bias(struct sana *m, at_t *slot, const char *prefix, const char *name, int64_t out,
		 int64_t fan_in)
{
	tensor(m, slot, prefix, name, DIMS(out));
	m->net.param[m->net.n_param - 1].fan_in = fan_in;
}

static void norms(struct sana *m, at_t *q, at_t *k, const char *prefix, int64_t width)
{
	if (!m->conf.qk_norm)
		return;
	tensor(m, q, prefix, "norm_q.weight", DIMS(width));
	tensor(m, k, prefix, "norm_k.weight", DIMS(width));
}

static void attentions(struct sana *m, struct sana_block *b, const char *at)
{
	static const char *const qkv[] = { "to_q", "to_k", "to_v" }, *const kv[] = { "to_k", "to_v" };
	char *attn1 = mem_printf("%sattn1.", at), *attn2 = mem_printf("%sattn2.", at);
	int64_t D = m->width, X = m->cross;

	nn_reads(&m->net, NN_IMAGE);
	nn_add_stack(&m->net, &b->qkv, 3, attn1, qkv, D, D, m->conf.attention_bias);
	linear(m, &b->out, attn1, "to_out.0", D, D);
	norms(m, &b->norm_q_D, &b->norm_k_D, attn1, D);
	linear(m, &b->cross_q, attn2, "to_q", X, D);
	linear(m, &b->cross_out, attn2, "to_out.0", D, X);
	nn_reads(&m->net, NN_TEXT);
	nn_add_stack(&m->net, &b->cross_kv, 2, attn2, kv, X, D, true);
	norms(m, &b->cross_norm_q_X, &b->cross_norm_k_X, attn2, X);
	free(attn1);
	free(attn2);
}

static void block(struct sana *m, struct sana_block *b, int64_t i)
{
	char *at = mem_printf("transformer_blocks.%lld.", (long long)i);
	int64_t D = m->width, F = m->hidden;

	nn_begin_block(&m->net);
	tensor(m, &b->table_MD, at, "scale_shift_table", DIMS(SANA_MODS, D));
	attentions(m, b, at);
	tensor(m, &b->up_w_GD11, at, "ff.conv_inverted.weight", DIMS(2 * F, D, 1, 1));
	bias(m, &b->up_b_G, at, "ff.conv_inverted.bias", 2 * F, D);
	tensor(m, &b->depth_w_G133, at, "ff.conv_depth.weight", DIMS(2 * F, 1, 3, 3));
	bias(m, &b->depth_b_G, at, "ff.conv_depth.bias", 2 * F, 9);
	tensor(m, &b->down_w_DF11, at, "ff.conv_point.weight", DIMS(D, F, 1, 1));
	free(at);
}

static void lay_out(struct sana *m)
{
	const struct sana_conf *c = &m->conf;
	int64_t D = m->width = c->num_attention_heads * c->attention_head_dim, p = c->patch_size;

	m->cross = c->num_cross_attention_heads * c->cross_attention_head_dim;
	m->hidden = (int64_t)(c->mlp_ratio * (double)D);
	m->block = mem_zero((size_t)c->num_layers, sizeof *m->block);
	tensor(m, &m->patch_w_DCpp, "", "patch_embed.proj.weight", DIMS(D, c->in_channels, p, p));
	bias(m, &m->patch_b_D, "", "patch_embed.proj.bias", D, c->in_channels * p * p);
	linear(m, &m->time[0], "", "time_embed.emb.timestep_embedder.linear_1", D, SANA_TIME);
	linear(m, &m->time[1], "", "time_embed.emb.timestep_embedder.linear_2", D, D);
	linear(m, &m->mod, "", "time_embed.linear", SANA_MODS * D, D);
	nn_reads(&m->net, NN_TEXT);
	linear(m, &m->caption[0], "", "caption_projection.linear_1", D, c->caption_channels);
	linear(m, &m->caption[1], "", "caption_projection.linear_2", D, D);
	tensor(m, &m->caption_norm_D, "", "caption_norm.weight", DIMS(D));
	for (int64_t i = 0; i < c->num_layers; i++)
		block(m, &m->block[i], i);
	nn_end_blocks(&m->net);
	tensor(m, &m->table_2D, "", "scale_shift_table", DIMS(2, D));
	nn_reads(&m->net, NN_IMAGE);
	linear(m, &m->proj_out, "", "proj_out", p * p * c->out_channels, D);
}

/* ---- Laid out, at its start ---------------------------------------------------------------------- */

void sana_close(void *state)
{
	struct sana *m = state;

	if (!m)
		return;
	nn_release(&m->net);
	free(m->block);
	free(m);
}

int sana_lay_out(void **out, const json_t *o, const char *what, struct err *e)
{
	struct sana *m = mem_zero(1, sizeof *m);

	if (read_config(&m->conf, o, what, e)) {
		free(m);
		return -1;
	}
	lay_out(m);
	*out = m;
	return 0;
}

/* The first velocity is 0. */
void sana_start(void *state)
{
	struct sana *m = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);

	at_zero_(m->proj_out.w_OI);
	at_zero_(m->proj_out.b_O);
	at_end(s);
}
