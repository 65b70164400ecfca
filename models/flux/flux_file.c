/* flux_file.c -- the transformer's folder: config.json to struct and back, its parameters by name, random
 * weights. */
#include "models/flux/flux.h"
#include "models/known_keys.h"
#include "models/layers/sizes.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

/* ---- config.json --------------------------------------------------------------------------------- */

#define FIELD(member, absent, least, most) SIZE_FIELD(struct flux_conf, member, absent, least, most)
/* Absent: diffusers' defaults.  out_channels 0: as many as go in. */
static const struct size_field sizes[] = {
	FIELD(in_channels, 64, 4, 1 << 16),
	FIELD(out_channels, 0, 0, 1 << 16),
	FIELD(num_layers, 19, 0, TRANSFORMER_BLOCKS),
	FIELD(num_single_layers, 38, 0, TRANSFORMER_BLOCKS),
	FIELD(attention_head_dim, 128, 2, 1 << 12),
	FIELD(num_attention_heads, 24, 1, 1 << 12),
	FIELD(joint_attention_dim, 4096, 1, 1 << 20),
	FIELD(pooled_projection_dim, 768, 1, 1 << 20),
	{ NULL, 0, 0, 0, 0 },
};

static int check(const struct flux_conf *c, const char *what, struct err *e)
{
	if (c->in_channels % 4 || c->out_channels % 4)
		return err_set(e, "%s: in_channels and out_channels must be multiples of 4: tokens are 2 x 2",
			       what);
	if (c->num_layers + c->num_single_layers < 1 ||
	    c->num_layers + c->num_single_layers > TRANSFORMER_BLOCKS)
		return err_set(e, "%s: num_layers and num_single_layers must add up to 1 to %d", what,
			       TRANSFORMER_BLOCKS);
	return 0;
}

static int read_config(struct flux_conf *c, const json_t *o, const char *what, struct err *e)
{
	c->rope = (struct rope) { 3, { 16, 56, 56 }, 10000, AT_F64 }; /* the published files say nothing */
	if (json_check_keys(o, known_flux, known_anywhere, what, e) || sizes_read(c, sizes, o, what, e) ||
	    json_get_bool(&c->guidance_embeds, o, "guidance_embeds", false, what, e) ||
	    rope_read(&c->rope, o, "axes_dims_rope", c->attention_head_dim, what, e))
		return -1;
	if (!c->out_channels)
		c->out_channels = c->in_channels;
	return check(c, what, e);
}

json_t *flux_config(const void *state)
{
	const struct flux_conf *c = &((const struct flux *)state)->conf;
	json_t *o = json_object();

	sizes_write(c, sizes, o);
	json_object_set_new(o, "patch_size", json_integer(1));
	json_object_set_new(o, "guidance_embeds", json_boolean(c->guidance_embeds));
	rope_write(&c->rope, o, "axes_dims_rope");
	return o;
}

int flux_is_guided(bool *guided, const char *dir, struct err *e)
{
	char *folder = file_join(dir, "transformer"), *path = file_join(folder, "config.json");
	json_t *o = NULL;
	int ret = 0;

	*guided = false;
	if (file_exists(path))
		ret = (o = json_read(path, e)) ? json_get_bool(guided, o, "guidance_embeds", false, path, e)
					       : -1;
	json_decref(o);
	free(folder);
	free(path);
	return ret;
}

/* ---- The parameters ------------------------------------------------------------------------------ */

#define DOUBLE "transformer_blocks.#."
#define SINGLE "single_transformer_blocks.#."
#define EMBED  "time_text_embed."

/* The original release: attention's three products are one module there, and in a single block the
 * feed-forward's first one is part of that, too.  Its last modulation has shift before scale. */
static const struct nn_rename names[] = {
	{ "x_embedder", "img_in", NN_AS_HERE },
	{ "context_embedder", "txt_in", NN_AS_HERE },
	{ EMBED "timestep_embedder.linear_1", "time_in_in_layer", NN_AS_HERE },
	{ EMBED "timestep_embedder.linear_2", "time_in_out_layer", NN_AS_HERE },
	{ EMBED "guidance_embedder.linear_1", "guidance_in_in_layer", NN_AS_HERE },
	{ EMBED "guidance_embedder.linear_2", "guidance_in_out_layer", NN_AS_HERE },
	{ EMBED "text_embedder.linear_1", "vector_in_in_layer", NN_AS_HERE },
	{ EMBED "text_embedder.linear_2", "vector_in_out_layer", NN_AS_HERE },
	{ DOUBLE "norm1.linear", "double_blocks_#_img_mod_lin", NN_AS_HERE },
	{ DOUBLE "norm1_context.linear", "double_blocks_#_txt_mod_lin", NN_AS_HERE },
	{ DOUBLE "attn.to_q", "double_blocks_#_img_attn_qkv", NN_AS_HERE },
	{ DOUBLE "attn.to_out.0", "double_blocks_#_img_attn_proj", NN_AS_HERE },
	{ DOUBLE "attn.add_q_proj", "double_blocks_#_txt_attn_qkv", NN_AS_HERE },
	{ DOUBLE "attn.to_add_out", "double_blocks_#_txt_attn_proj", NN_AS_HERE },
	{ DOUBLE "ff.net.0.proj", "double_blocks_#_img_mlp_0", NN_AS_HERE },
	{ DOUBLE "ff.net.2", "double_blocks_#_img_mlp_2", NN_AS_HERE },
	{ DOUBLE "ff_context.net.0.proj", "double_blocks_#_txt_mlp_0", NN_AS_HERE },
	{ DOUBLE "ff_context.net.2", "double_blocks_#_txt_mlp_2", NN_AS_HERE },
	{ SINGLE "norm.linear", "single_blocks_#_modulation_lin", NN_AS_HERE },
	{ SINGLE "attn.to_q", "single_blocks_#_linear1", NN_AS_HERE },
	{ SINGLE "proj_mlp", "single_blocks_#_linear1", NN_AS_HERE },
	{ SINGLE "proj_out", "single_blocks_#_linear2", NN_AS_HERE },
	{ "norm_out.linear", "final_layer_adaLN_modulation_1", NN_SWAPPED },
	{ "proj_out", "final_layer_linear", NN_AS_HERE },
	{ NULL, NULL, NN_AS_HERE },
};

static void linear(struct flux *m, struct nn_linear *l, const char *prefix, const char *name, int64_t out,
		   int64_t in)
{
	nn_add_stack(&m->net, l, 1, prefix, &name, out, in, true);
}

/* linear_1 and linear_2 of an embedder. */
static void embedder(struct flux *m, struct nn_linear l[2], const char *prefix, int64_t in)
{
	linear(m, &l[0], prefix, "linear_1", m->width, in);
	linear(m, &l[1], prefix, "linear_2", m->width, m->width);
}

static void norm(struct flux *m, at_t *slot, const char *prefix, const char *name)
{
	char *full = mem_printf("%s%s", prefix, name);

	nn_add_tensor(&m->net, slot, full, DIMS(m->conf.attention_head_dim), true);
	free(full);
}

static void lay_out_single(struct flux *m, struct flux_single *b, int64_t i)
{
	static const char *const qkv[] = { "attn.to_q", "attn.to_k", "attn.to_v" };
	char *at = mem_printf("single_transformer_blocks.%lld.", (long long)i);
	int64_t D = m->width;

	nn_begin_block(&m->net);
	nn_reads(&m->net, NN_SAMPLES);
	linear(m, &b->ada, at, "norm.linear", 3 * D, D);
	nn_reads(&m->net, NN_BOTH);
	nn_add_stack(&m->net, &b->qkv, 3, at, qkv, D, D, true);
	linear(m, &b->up, at, "proj_mlp", 4 * D, D);
	linear(m, &b->out, at, "proj_out", D, 5 * D);
	norm(m, &b->norm_q_K, at, "attn.norm_q.weight");
	norm(m, &b->norm_k_K, at, "attn.norm_k.weight");
	free(at);
}

static void lay_out_blocks(struct flux *m)
{
	static const struct joint_names image = { "norm1.linear", "ff.net.0.proj", "ff.net.2" };
	static const struct joint_names text = { "norm1_context.linear", "ff_context.net.0.proj",
						 "ff_context.net.2" };
	const struct flux_conf *c = &m->conf;

	m->block = mem_zero((size_t)c->num_layers + 1, sizeof *m->block);
	m->single = mem_zero((size_t)c->num_single_layers + 1, sizeof *m->single);
	for (int64_t i = 0; i < c->num_layers; i++) {
		char *at = mem_printf("transformer_blocks.%lld.", (long long)i);

		joint_lay_out(&m->block[i], &m->net, at, &image, &text, c->num_attention_heads,
			      c->attention_head_dim);
		free(at);
	}
	for (int64_t i = 0; i < c->num_single_layers; i++)
		lay_out_single(m, &m->single[i], i);
	nn_end_blocks(&m->net);
}

static void lay_out(struct flux *m)
{
	const struct flux_conf *c = &m->conf;

	m->width = c->num_attention_heads * c->attention_head_dim;
	m->net.names = names;
	m->net.trainer = "networks.lora_flux";
	embedder(m, m->time, EMBED "timestep_embedder.", FLUX_TIME);
	if (c->guidance_embeds)
		embedder(m, m->guidance, EMBED "guidance_embedder.", FLUX_TIME);
	embedder(m, m->pooled, EMBED "text_embedder.", c->pooled_projection_dim);
	nn_reads(&m->net, NN_TEXT);
	linear(m, &m->text, "", "context_embedder", m->width, c->joint_attention_dim);
	nn_reads(&m->net, NN_IMAGE);
	linear(m, &m->image, "", "x_embedder", m->width, c->in_channels);
	lay_out_blocks(m);
	nn_reads(&m->net, NN_SAMPLES);
	linear(m, &m->norm_out, "", "norm_out.linear", 2 * m->width, m->width);
	nn_reads(&m->net, NN_IMAGE);
	linear(m, &m->proj_out, "", "proj_out", c->out_channels, m->width);
}

/* ---- Laid out, at its start ---------------------------------------------------------------------- */

void flux_close(void *state)
{
	struct flux *m = state;

	if (!m)
		return;
	nn_release(&m->net);
	free(m->block);
	free(m->single);
	free(m);
}

int flux_lay_out(void **out, const json_t *o, const char *what, struct err *e)
{
	struct flux *m = mem_zero(1, sizeof *m);

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

/* Modulations and the last linear are zero, as the original's are at its start. */
void flux_start(void *state)
{
	struct flux *m = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);

	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		zero(&m->block[i].image.ada);
		zero(&m->block[i].text.ada);
	}
	for (int64_t i = 0; i < m->conf.num_single_layers; i++)
		zero(&m->single[i].ada);
	zero(&m->norm_out);
	zero(&m->proj_out);
	at_end(s);
}
