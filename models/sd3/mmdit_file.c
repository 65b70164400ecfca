/* mmdit_file.c -- the transformer's folder: config.json to struct and back, its parameters by name, random
 * weights. */
#include "models/sd3/mmdit.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/known_keys.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- config.json ----------------------------------------------------------------------------- */

struct size {
	const char *key;
	size_t offset;
	int64_t max;
};
#define SIZE(member, most)                                                                                   \
	{                                                                                                    \
		.key = #member, .offset = offsetof(struct mmdit_conf, member), .max = (most)                 \
	}
static const struct size sizes[] = {
	SIZE(sample_size, 1 << 16),
	SIZE(patch_size, 256),
	SIZE(in_channels, 1 << 16),
	SIZE(out_channels, 1 << 16),
	SIZE(num_layers, MMDIT_LAYERS),
	SIZE(attention_head_dim, 1 << 16),
	SIZE(num_attention_heads, 1 << 12),
	SIZE(joint_attention_dim, 1 << 20),
	SIZE(caption_projection_dim, 1 << 20),
	SIZE(pooled_projection_dim, 1 << 20),
	SIZE(pos_embed_max_size, 1 << 12),
};
#define N_SIZES (sizeof sizes / sizeof *sizes)

static int64_t *member(struct mmdit_conf *c, const struct size *s)
{
	return (int64_t *)((char *)c + s->offset);
}

static int check(const struct mmdit_conf *conf, const char *what, struct err *e)
{
	struct mmdit_conf c = *conf;
	int64_t width = c.num_attention_heads * c.attention_head_dim;

	for (size_t i = 0; i < N_SIZES; i++)
		if (*member(&c, &sizes[i]) < 1 || *member(&c, &sizes[i]) > sizes[i].max)
			return err_set(e, "%s: %s = %lld: must be 1 to %lld", what, sizes[i].key,
				       (long long)*member(&c, &sizes[i]), (long long)sizes[i].max);
	if (c.caption_projection_dim != width)
		return err_set(e,
			       "%s: caption_projection_dim = %lld: must be num_attention_heads * "
			       "attention_head_dim = %lld",
			       what, (long long)c.caption_projection_dim, (long long)width);
	if (width % 4)
		return err_set(e, "%s: a width of %lld is not a multiple of 4, which the positions need",
			       what, (long long)width);
	if (c.sample_size < c.patch_size)
		return err_set(e, "%s: sample_size is below patch_size", what);
	if (c.n_dual < 0 || c.n_dual > MMDIT_LAYERS)
		return err_set(e, "%s: dual_attention_layers has %lld entries", what, (long long)c.n_dual);
	for (int64_t i = 0; i < c.n_dual; i++)
		if (c.dual[i] < 0 || c.dual[i] >= c.num_layers)
			return err_set(e, "%s: dual_attention_layers names layer %lld of %lld", what,
				       (long long)c.dual[i], (long long)c.num_layers);
	return 0;
}

static int read_dual(struct mmdit_conf *c, const json_t *o, const char *what, struct err *e)
{
	const json_t *list = json_object_get(o, "dual_attention_layers"), *x;
	size_t i;

	if (!list || json_is_null(list)) /* configs from before SD3.5 */
		return 0;
	if (!json_is_array(list) || json_array_size(list) > MMDIT_LAYERS)
		return err_set(e, "%s: dual_attention_layers must be a list of at most %d layers", what,
			       MMDIT_LAYERS);
	json_array_foreach(list, i, x)
	{
		if (!json_is_integer(x))
			return err_set(e, "%s: dual_attention_layers[%zu] is not a whole number", what, i);
		c->dual[c->n_dual++] = json_integer_value(x);
	}
	return 0;
}

static int read_sizes(struct mmdit_conf *c, const json_t *o, const char *what, struct err *e)
{
	for (size_t i = 0; i < N_SIZES; i++) {
		const json_t *v = json_object_get(o, sizes[i].key);

		if (!v)
			return err_set(e, "%s: %s is missing", what, sizes[i].key);
		if (json_is_null(v) &&
		    !strcmp(sizes[i].key, "out_channels")) { /* diffusers: as many as go in */
			c->out_channels = c->in_channels;
			continue;
		}
		if (json_get_int(member(c, &sizes[i]), o, sizes[i].key, 0, what, e))
			return -1;
	}
	return 0;
}

static int read_norm(struct mmdit_conf *c, const json_t *o, const char *what, struct err *e)
{
	const char *norm = "";

	if (!json_is_null(json_object_get(o, "qk_norm")) && json_get_str(&norm, o, "qk_norm", "", what, e))
		return -1;
	c->qk_norm = *norm != 0;
	if (c->qk_norm && strcmp(norm, "rms_norm") != 0)
		return err_set(e, "%s: qk_norm = \"%s\": only \"rms_norm\" and null are supported", what,
			       norm);
	return 0;
}

static int read_config(struct mmdit_conf *c, const json_t *o, const char *what, struct err *e)
{
	return json_check_keys(o, known_sd3, known_anywhere, what, e) || read_sizes(c, o, what, e) ||
		       read_dual(c, o, what, e) || read_norm(c, o, what, e) || check(c, what, e)
		   ? -1
		   : 0;
}

json_t *mmdit_config(const void *state)
{
	struct mmdit_conf c = ((const struct mmdit *)state)->conf;
	json_t *o = json_object(), *dual = json_array();

	for (size_t i = 0; i < N_SIZES; i++)
		json_object_set_new(o, sizes[i].key, json_integer(*member(&c, &sizes[i])));
	for (int64_t i = 0; i < c.n_dual; i++)
		json_array_append_new(dual, json_integer(c.dual[i]));
	json_object_set_new(o, "dual_attention_layers", dual);
	json_object_set_new(o, "qk_norm", c.qk_norm ? json_string("rms_norm") : json_null());
	return o;
}

#define BLOCK "transformer_blocks.#."
#define THERE "joint_blocks_#_"

/* ---- The parameters -------------------------------------------------------------------------- */

static void linear1(struct mmdit *m, struct nn_linear *l, const char *prefix, const char *name, int64_t out,
		    int64_t in)
{
	nn_add_stack(&m->net, l, 1, prefix, &name, out, in, true);
}

static void norm(struct mmdit *m, at_t *slot, const char *prefix, const char *name)
{
	char *full = mem_printf("%s%s.weight", prefix, name);

	if (m->conf.qk_norm)
		nn_add_tensor(&m->net, slot, full, DIMS(m->conf.attention_head_dim), true);
	free(full);
}

/* The modules of attn and attn2 that see the image, and those of attn that see the text. */
static void image_attention(struct mmdit *m, struct mmdit_attention *a, const char *prefix)
{
	static const char *const qkv[] = { "to_q", "to_k", "to_v" };

	nn_reads(&m->net, NN_IMAGE);
	nn_add_stack(&m->net, &a->qkv, 3, prefix, qkv, m->width, m->width, true);
	linear1(m, &a->out, prefix, "to_out.0", m->width, m->width);
	norm(m, &a->norm_q_K, prefix, "norm_q");
	norm(m, &a->norm_k_K, prefix, "norm_k");
}

static void text_attention(struct mmdit *m, struct mmdit_attention *a, const char *prefix, bool last)
{
	static const char *const qkv[] = { "add_q_proj", "add_k_proj", "add_v_proj" };

	nn_reads(&m->net, NN_TEXT);
	nn_add_stack(&m->net, &a->qkv, 3, prefix, qkv, m->width, m->width, true);
	if (!last)
		linear1(m, &a->out, prefix, "to_add_out", m->width, m->width);
	norm(m, &a->norm_q_K, prefix, "norm_added_q");
	norm(m, &a->norm_k_K, prefix, "norm_added_k");
}

static void block(struct mmdit *m, struct mmdit_block *b, int64_t i)
{
	char *at = mem_printf("transformer_blocks.%lld.", (long long)i);
	char *attn = mem_printf("%sattn.", at), *attn2 = mem_printf("%sattn2.", at);
	int64_t D = m->width;

	b->last = i == m->conf.num_layers - 1;
	for (int64_t k = 0; k < m->conf.n_dual; k++)
		b->dual |= m->conf.dual[k] == i;
	b->text.attn.out.site = b->text.up.site = b->text.down.site = -1;
	nn_begin_block(&m->net);
	nn_reads(&m->net, NN_SAMPLES);
	linear1(m, &b->image.ada, at, "norm1.linear", (b->dual ? 9 : 6) * D, D);
	linear1(m, &b->text.ada, at, "norm1_context.linear", (b->last ? 2 : 6) * D, D);
	image_attention(m, &b->image.attn, attn);
	text_attention(m, &b->text.attn, attn, b->last);
	b->attn2.qkv.site = b->attn2.out.site = -1;
	if (b->dual)
		image_attention(m, &b->attn2, attn2);
	nn_reads(&m->net, NN_IMAGE);
	linear1(m, &b->image.up, at, "ff.net.0.proj", 4 * D, D);
	linear1(m, &b->image.down, at, "ff.net.2", D, 4 * D);
	if (!b->last) {
		nn_reads(&m->net, NN_TEXT);
		linear1(m, &b->text.up, at, "ff_context.net.0.proj", 4 * D, D);
		linear1(m, &b->text.down, at, "ff_context.net.2", D, 4 * D);
	}
	free(at);
	free(attn);
	free(attn2);
}

/* The original release: to_q, to_k and to_v are one module there; its last layer's modulation has shift
 * before scale, and so has the last block's of the text, which has these two alone. */
static const struct nn_rename names[] = {
	{ "context_embedder", "context_embedder", NN_AS_HERE },
	{ "time_text_embed.timestep_embedder.linear_1", "t_embedder_mlp_0", NN_AS_HERE },
	{ "time_text_embed.timestep_embedder.linear_2", "t_embedder_mlp_2", NN_AS_HERE },
	{ "time_text_embed.text_embedder.linear_1", "y_embedder_mlp_0", NN_AS_HERE },
	{ "time_text_embed.text_embedder.linear_2", "y_embedder_mlp_2", NN_AS_HERE },
	{ "norm_out.linear", "final_layer_adaLN_modulation_1", NN_SWAPPED },
	{ "proj_out", "final_layer_linear", NN_AS_HERE },
	{ BLOCK "norm1.linear", THERE "x_block_adaLN_modulation_1", NN_AS_HERE },
	{ BLOCK "norm1_context.linear", THERE "context_block_adaLN_modulation_1", NN_SWAPPED_IF_TWO },
	{ BLOCK "attn.to_q", THERE "x_block_attn_qkv", NN_AS_HERE },
	{ BLOCK "attn.to_out.0", THERE "x_block_attn_proj", NN_AS_HERE },
	{ BLOCK "attn.add_q_proj", THERE "context_block_attn_qkv", NN_AS_HERE },
	{ BLOCK "attn.to_add_out", THERE "context_block_attn_proj", NN_AS_HERE },
	{ BLOCK "attn2.to_q", THERE "x_block_attn2_qkv", NN_AS_HERE },
	{ BLOCK "attn2.to_out.0", THERE "x_block_attn2_proj", NN_AS_HERE },
	{ BLOCK "ff.net.0.proj", THERE "x_block_mlp_fc1", NN_AS_HERE },
	{ BLOCK "ff.net.2", THERE "x_block_mlp_fc2", NN_AS_HERE },
	{ BLOCK "ff_context.net.0.proj", THERE "context_block_mlp_fc1", NN_AS_HERE },
	{ BLOCK "ff_context.net.2", THERE "context_block_mlp_fc2", NN_AS_HERE },
	{ NULL, NULL, NN_AS_HERE },
};

/* *m zeroed, conf filled and checked. */
static void lay_out(struct mmdit *m)
{
	const struct mmdit_conf *c = &m->conf;
	int64_t D = c->num_attention_heads * c->attention_head_dim, p = c->patch_size,
		M = c->pos_embed_max_size;
	static const char *const embed = "time_text_embed.";

	m->width = D;
	m->net.names = names;
	m->net.trainer = "networks.lora_sd3";
	m->block = mem_zero((size_t)c->num_layers, sizeof *m->block);
	nn_add_tensor(&m->net, &m->pos_embed_1MD, "pos_embed.pos_embed", DIMS(1, M * M, D), false);
	nn_add_tensor(&m->net, &m->patch_w_DCpp, "pos_embed.proj.weight", DIMS(D, c->in_channels, p, p),
		      true);
	nn_add_tensor(&m->net, &m->patch_b_D, "pos_embed.proj.bias", DIMS(D), true);
	m->net.param[m->net.n_param - 1].fan_in = c->in_channels * p * p;
	linear1(m, &m->time1, embed, "timestep_embedder.linear_1", D, MMDIT_TIME);
	linear1(m, &m->time2, embed, "timestep_embedder.linear_2", D, D);
	linear1(m, &m->pool1, embed, "text_embedder.linear_1", D, c->pooled_projection_dim);
	linear1(m, &m->pool2, embed, "text_embedder.linear_2", D, D);
	nn_reads(&m->net, NN_TEXT);
	linear1(m, &m->context, "", "context_embedder", D, c->joint_attention_dim);
	for (int64_t i = 0; i < c->num_layers; i++)
		block(m, &m->block[i], i);
	nn_end_blocks(&m->net);
	nn_reads(&m->net, NN_SAMPLES);
	linear1(m, &m->norm_out, "", "norm_out.linear", 2 * D, D);
	nn_reads(&m->net, NN_IMAGE);
	linear1(m, &m->proj_out, "", "proj_out", p * p * c->out_channels, D);
}

/* ---- Laid out, at its start ------------------------------------------------------------------ */

void mmdit_close(void *state)
{
	struct mmdit *m = state;

	if (!m)
		return;
	nn_release(&m->net);
	free(m->block);
	free(m);
}

int mmdit_lay_out(void **out, const json_t *o, const char *what, struct err *e)
{
	struct mmdit *m = mem_zero(1, sizeof *m);

	if (read_config(&m->conf, o, what, e)) {
		free(m);
		return -1;
	}
	lay_out(m);
	*out = m;
	return 0;
}

static void zero(struct nn_linear *l)
{
	at_zero_(l->w_OI);
	at_zero_(l->b_O);
}

/* diffusers' get_2d_sincos_pos_embed: the first half of the channels from x, the second from y, each sines
 * then cosines of position * 10000^(-i / (D / 4)); the grid of M positions spans sample_size / patch_size
 * units. */
static void fill_positions(struct mmdit *m)
{
	int64_t M = m->conf.pos_embed_max_size, D = m->width, quarter = D / 4;
	float *out = at_f32(m->pos_embed_1MD);
	/* diffusers keeps the grid in float32 and goes on in float64 */
	float step = (float)((double)M / (double)(m->conf.sample_size / m->conf.patch_size));

	for (int64_t y = 0; y < M; y++)
		for (int64_t x = 0; x < M; x++, out += D)
			for (int64_t k = 0; k < 2 * quarter; k++) {
				double at = (float)(k < quarter ? x : y) / step, i = (double)(k % quarter);
				double angle = at * (1 / pow(10000, i / (double)quarter));
				int64_t first = k < quarter ? 0 : 2 * quarter;

				out[first + k % quarter] = (float)sin(angle);
				out[first + quarter + k % quarter] = (float)cos(angle);
			}
}

void mmdit_start(void *state)
{
	struct mmdit *m = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);

	fill_positions(m);
	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		zero(&m->block[i].image.ada);
		zero(&m->block[i].text.ada);
	}
	zero(&m->norm_out);
	zero(&m->proj_out);
	at_end(s);
}
