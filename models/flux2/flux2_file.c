/* flux2_file.c -- the transformer's folder: config.json to struct and back, its parameters by name, random
 * weights. */
#include "models/flux2/flux2.h"
#include "models/known_keys.h"
#include "models/layers/sizes.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>

/* ---- config.json --------------------------------------------------------------------------------- */

#define FIELD(member, absent, least, most) SIZE_FIELD(struct flux2_conf, member, absent, least, most)
/* Absent: diffusers' defaults.  out_channels 0: as many as go in. */
static const struct size_field sizes[] = {
	FIELD(in_channels, 128, 1, 1 << 16),
	FIELD(out_channels, 0, 0, 1 << 16),
	FIELD(num_layers, 8, 0, TRANSFORMER_BLOCKS),
	FIELD(num_single_layers, 48, 0, TRANSFORMER_BLOCKS),
	FIELD(attention_head_dim, 128, 2, 1 << 12),
	FIELD(num_attention_heads, 48, 1, 1 << 12),
	FIELD(joint_attention_dim, 15360, 1, 1 << 20),
	FIELD(timestep_guidance_channels, 256, 2, 1 << 16),
	{ NULL, 0, 0, 0, 0 },
};

static int read_rope(struct rope *r, const json_t *o, int64_t head_dim, const char *what, struct err *e)
{
	*r = (struct rope) { ROPE_AXES, { 32, 32, 32, 32 }, 2000, AT_F64 };
	if (json_get_real(&r->theta, o, "rope_theta", 2000, what, e))
		return -1;
	if (!(r->theta > 1))
		return err_set(e, "%s: rope_theta must be above 1", what);
	return rope_read(r, o, "axes_dims_rope", head_dim, what, e);
}

static int check(const struct flux2_conf *c, const char *what, struct err *e)
{
	int64_t blocks = c->num_layers + c->num_single_layers;

	if (blocks < 1 || blocks > TRANSFORMER_BLOCKS)
		return err_set(e, "%s: num_layers and num_single_layers must add up to 1 to %d", what,
			       TRANSFORMER_BLOCKS);
	if (!(c->mlp_ratio > 0) || c->mlp_ratio > 64 || !(c->eps > 0))
		return err_set(e, "%s: mlp_ratio must be above 0 and at most 64, eps above 0", what);
	if (c->timestep_guidance_channels % 2)
		return err_set(e, "%s: timestep_guidance_channels must be even", what);
	return 0;
}

static int read_config(struct flux2_conf *c, const json_t *o, const char *what, struct err *e)
{
	if (json_check_keys(o, known_flux2, known_anywhere, what, e) || sizes_read(c, sizes, o, what, e) ||
	    json_get_real(&c->mlp_ratio, o, "mlp_ratio", 3, what, e) ||
	    json_get_real(&c->eps, o, "eps", 1e-6, what, e) ||
	    json_get_bool(&c->guidance_embeds, o, "guidance_embeds", true, what, e) ||
	    read_rope(&c->rope, o, c->attention_head_dim, what, e))
		return -1;
	if (!c->out_channels)
		c->out_channels = c->in_channels;
	return check(c, what, e);
}

json_t *flux2_config(const void *state)
{
	const struct flux2_conf *c = &((const struct flux2 *)state)->conf;
	json_t *o = json_object();

	sizes_write(c, sizes, o);
	json_object_set_new(o, "patch_size", json_integer(1));
	json_object_set_new(o, "mlp_ratio", json_number(c->mlp_ratio));
	json_object_set_new(o, "eps", json_number(c->eps));
	json_object_set_new(o, "rope_theta", json_number(c->rope.theta));
	json_object_set_new(o, "guidance_embeds", json_boolean(c->guidance_embeds));
	rope_write(&c->rope, o, "axes_dims_rope");
	return o;
}

/* ---- The parameters ------------------------------------------------------------------------------ */

#define DOUBLE "transformer_blocks.#."
#define SINGLE "single_transformer_blocks.#."
#define EMBED  "time_guidance_embed."

/* The original release: attention's three products are one module in a block of two streams.  Its last
 * modulation has shift before scale. */
static const struct nn_rename names[] = {
	{ "x_embedder", "img_in", NN_AS_HERE },
	{ "context_embedder", "txt_in", NN_AS_HERE },
	{ EMBED "timestep_embedder.linear_1", "time_in_in_layer", NN_AS_HERE },
	{ EMBED "timestep_embedder.linear_2", "time_in_out_layer", NN_AS_HERE },
	{ EMBED "guidance_embedder.linear_1", "guidance_in_in_layer", NN_AS_HERE },
	{ EMBED "guidance_embedder.linear_2", "guidance_in_out_layer", NN_AS_HERE },
	{ "double_stream_modulation_img.linear", "double_stream_modulation_img_lin", NN_AS_HERE },
	{ "double_stream_modulation_txt.linear", "double_stream_modulation_txt_lin", NN_AS_HERE },
	{ "single_stream_modulation.linear", "single_stream_modulation_lin", NN_AS_HERE },
	{ DOUBLE "attn.to_q", "double_blocks_#_img_attn_qkv", NN_AS_HERE },
	{ DOUBLE "attn.to_out.0", "double_blocks_#_img_attn_proj", NN_AS_HERE },
	{ DOUBLE "attn.add_q_proj", "double_blocks_#_txt_attn_qkv", NN_AS_HERE },
	{ DOUBLE "attn.to_add_out", "double_blocks_#_txt_attn_proj", NN_AS_HERE },
	{ DOUBLE "ff.linear_in", "double_blocks_#_img_mlp_0", NN_AS_HERE },
	{ DOUBLE "ff.linear_out", "double_blocks_#_img_mlp_2", NN_AS_HERE },
	{ DOUBLE "ff_context.linear_in", "double_blocks_#_txt_mlp_0", NN_AS_HERE },
	{ DOUBLE "ff_context.linear_out", "double_blocks_#_txt_mlp_2", NN_AS_HERE },
	{ SINGLE "attn.to_qkv_mlp_proj", "single_blocks_#_linear1", NN_AS_HERE },
	{ SINGLE "attn.to_out", "single_blocks_#_linear2", NN_AS_HERE },
	{ "norm_out.linear", "final_layer_adaLN_modulation_1", NN_SWAPPED },
	{ "proj_out", "final_layer_linear", NN_AS_HERE },
	{ NULL, NULL, NN_AS_HERE },
};

static void linear(struct flux2 *m, struct nn_linear *l, const char *prefix, const char *name, int64_t out,
		   int64_t in)
{
	nn_add_stack(&m->net, l, 1, prefix, &name, out, in, false);
}

/* linear_1 and linear_2 of an embedder. */
static void embedder(struct flux2 *m, struct nn_linear l[2], const char *prefix)
{
	linear(m, &l[0], prefix, "linear_1", m->width, m->conf.timestep_guidance_channels);
	linear(m, &l[1], prefix, "linear_2", m->width, m->width);
}

static void norm(struct flux2 *m, at_t *slot, const char *prefix, const char *name)
{
	char *full = mem_printf("%s%s", prefix, name);

	nn_add_tensor(&m->net, slot, full, DIMS(m->conf.attention_head_dim), true);
	free(full);
}

/* What a stream of a block is called. */
struct stream_names {
	const char *qkv[3], *out, *norm_q, *norm_k, *up, *down;
};
static const struct stream_names of_image = { { "attn.to_q", "attn.to_k", "attn.to_v" },
					      "attn.to_out.0",
					      "attn.norm_q.weight",
					      "attn.norm_k.weight",
					      "ff.linear_in",
					      "ff.linear_out" };
static const struct stream_names of_text = { { "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj" },
					     "attn.to_add_out",
					     "attn.norm_added_q.weight",
					     "attn.norm_added_k.weight",
					     "ff_context.linear_in",
					     "ff_context.linear_out" };

static void lay_out_stream(struct flux2 *m, struct flux2_stream *t, const char *prefix,
			   const struct stream_names *n)
{
	int64_t D = m->width;

	nn_add_stack(&m->net, &t->qkv, 3, prefix, n->qkv, D, D, false);
	linear(m, &t->out, prefix, n->out, D, D);
	linear(m, &t->up, prefix, n->up, 2 * m->hidden, D);
	linear(m, &t->down, prefix, n->down, D, m->hidden);
	norm(m, &t->norm_q_K, prefix, n->norm_q);
	norm(m, &t->norm_k_K, prefix, n->norm_k);
}

static void lay_out_blocks(struct flux2 *m)
{
	const struct flux2_conf *c = &m->conf;
	int64_t D = m->width;

	m->block = mem_zero((size_t)c->num_layers + 1, sizeof *m->block);
	m->single = mem_zero((size_t)c->num_single_layers + 1, sizeof *m->single);
	for (int64_t i = 0; i < c->num_layers; i++) {
		char *at = mem_printf("transformer_blocks.%lld.", (long long)i);

		nn_begin_block(&m->net);
		nn_reads(&m->net, NN_IMAGE);
		lay_out_stream(m, &m->block[i].image, at, &of_image);
		nn_reads(&m->net, NN_TEXT);
		lay_out_stream(m, &m->block[i].text, at, &of_text);
		free(at);
	}
	nn_reads(&m->net, NN_BOTH);
	for (int64_t i = 0; i < c->num_single_layers; i++) {
		struct flux2_single *b = &m->single[i];
		char *at = mem_printf("single_transformer_blocks.%lld.", (long long)i);

		nn_begin_block(&m->net);
		linear(m, &b->all, at, "attn.to_qkv_mlp_proj", 3 * D + 2 * m->hidden, D);
		linear(m, &b->out, at, "attn.to_out", D, D + m->hidden);
		norm(m, &b->norm_q_K, at, "attn.norm_q.weight");
		norm(m, &b->norm_k_K, at, "attn.norm_k.weight");
		free(at);
	}
	nn_end_blocks(&m->net);
}

static void lay_out(struct flux2 *m)
{
	const struct flux2_conf *c = &m->conf;
	int64_t D = m->width = c->num_attention_heads * c->attention_head_dim;

	m->hidden = (int64_t)((double)D * c->mlp_ratio);
	m->net.names = names;
	m->net.trainer = "networks.lora_flux_2";
	embedder(m, m->time, EMBED "timestep_embedder.");
	if (c->guidance_embeds)
		embedder(m, m->guidance, EMBED "guidance_embedder.");
	linear(m, &m->mod_image, "", "double_stream_modulation_img.linear", 6 * D, D);
	linear(m, &m->mod_text, "", "double_stream_modulation_txt.linear", 6 * D, D);
	linear(m, &m->mod_single, "", "single_stream_modulation.linear", 3 * D, D);
	nn_reads(&m->net, NN_TEXT);
	linear(m, &m->text, "", "context_embedder", D, c->joint_attention_dim);
	nn_reads(&m->net, NN_IMAGE);
	linear(m, &m->image, "", "x_embedder", D, c->in_channels);
	lay_out_blocks(m);
	nn_reads(&m->net, NN_SAMPLES);
	linear(m, &m->norm_out, "", "norm_out.linear", 2 * D, D);
	nn_reads(&m->net, NN_IMAGE);
	linear(m, &m->proj_out, "", "proj_out", c->out_channels, D);
}

/* ---- Laid out, at its start ---------------------------------------------------------------------- */

void flux2_close(void *state)
{
	struct flux2 *m = state;

	if (!m)
		return;
	nn_release(&m->net);
	free(m->block);
	free(m->single);
	free(m);
}

int flux2_lay_out(void **out, const json_t *o, const char *what, struct err *e)
{
	struct flux2 *m = mem_zero(1, sizeof *m);

	if (read_config(&m->conf, o, what, e)) {
		free(m);
		return -1;
	}
	lay_out(m);
	*out = m;
	return 0;
}

/* Modulations and the last linear are zero, as FLUX.1's are at its start. */
void flux2_start(void *state)
{
	struct flux2 *m = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);

	at_zero_(m->mod_image.w_OI);
	at_zero_(m->mod_text.w_OI);
	at_zero_(m->mod_single.w_OI);
	at_zero_(m->norm_out.w_OI);
	at_zero_(m->proj_out.w_OI);
	at_end(s);
}
