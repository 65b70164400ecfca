/* qwen_image_file.c -- the transformer's folder: config.json to struct and back, its parameters by name,
 * random weights. */
#include "models/qwen_image/qwen_image.h"
#include "models/known_keys.h"
#include "models/layers/sizes.h"
#include "base/file.h"
#include "base/mem.h"
#include <stdlib.h>

/* ---- config.json --------------------------------------------------------------------------------- */

#define FIELD(member, absent, least, most) SIZE_FIELD(struct qwen_image_conf, member, absent, least, most)
/* Absent: diffusers' defaults. */
static const struct size_field sizes[] = {
	FIELD(in_channels, 64, 4, 1 << 16),
	FIELD(out_channels, 16, 1, 1 << 16),
	FIELD(num_layers, 60, 1, TRANSFORMER_BLOCKS),
	FIELD(attention_head_dim, 128, 2, 1 << 12),
	FIELD(num_attention_heads, 24, 1, 1 << 12),
	FIELD(joint_attention_dim, 3584, 1, 1 << 20),
	{ NULL, 0, 0, 0, 0 },
};

static int read_config(struct qwen_image_conf *c, const json_t *o, const char *what, struct err *e)
{
	c->rope = (struct rope) { 3, { 16, 56, 56 }, 10000, AT_F32 };
	if (json_check_keys(o, known_qwen_image, known_anywhere, what, e) ||
	    sizes_read(c, sizes, o, what, e) ||
	    rope_read(&c->rope, o, "axes_dims_rope", c->attention_head_dim, what, e))
		return -1;
	if (c->in_channels != 4 * c->out_channels)
		return err_set(e, "%s: in_channels must be 4 out_channels: a token is 2 x 2 latents", what);
	return 0;
}

json_t *qwen_image_config(const void *state)
{
	const struct qwen_image_conf *c = &((const struct qwen_image *)state)->conf;
	json_t *o = json_object();

	sizes_write(c, sizes, o);
	json_object_set_new(o, "patch_size", json_integer(QWEN_IMAGE_PATCH));
	json_object_set_new(o, "guidance_embeds", json_false());
	rope_write(&c->rope, o, "axes_dims_rope");
	return o;
}

/* ---- The parameters ------------------------------------------------------------------------------ */

static void linear(struct qwen_image *m, struct nn_linear *l, const char *name, int64_t out, int64_t in)
{
	nn_add_stack(&m->net, l, 1, "", &name, out, in, true);
}

static void lay_out_blocks(struct qwen_image *m)
{
	static const struct joint_names image = { "img_mod.1", "img_mlp.net.0.proj", "img_mlp.net.2" };
	static const struct joint_names text = { "txt_mod.1", "txt_mlp.net.0.proj", "txt_mlp.net.2" };
	const struct qwen_image_conf *c = &m->conf;

	m->block = mem_zero((size_t)c->num_layers, sizeof *m->block);
	for (int64_t i = 0; i < c->num_layers; i++) {
		char *at = mem_printf("transformer_blocks.%lld.", (long long)i);

		joint_lay_out(&m->block[i], &m->net, at, &image, &text, c->num_attention_heads,
			      c->attention_head_dim);
		m->block[i].text_ends = i == c->num_layers - 1;
		free(at);
	}
	nn_end_blocks(&m->net);
}

static void lay_out(struct qwen_image *m)
{
	const struct qwen_image_conf *c = &m->conf;
	int64_t D = c->num_attention_heads * c->attention_head_dim, E = c->joint_attention_dim;

	m->width = D;
	m->net.trainer = "networks.lora_qwen_image";
	linear(m, &m->time[0], "time_text_embed.timestep_embedder.linear_1", D, QWEN_IMAGE_TIME);
	linear(m, &m->time[1], "time_text_embed.timestep_embedder.linear_2", D, D);
	nn_reads(&m->net, NN_TEXT);
	nn_add_tensor(&m->net, &m->text_norm_E, "txt_norm.weight", DIMS(E), true);
	linear(m, &m->text, "txt_in", D, E);
	nn_reads(&m->net, NN_IMAGE);
	linear(m, &m->image, "img_in", D, c->in_channels);
	lay_out_blocks(m);
	nn_reads(&m->net, NN_SAMPLES);
	linear(m, &m->norm_out, "norm_out.linear", 2 * D, D);
	nn_reads(&m->net, NN_IMAGE);
	linear(m, &m->proj_out, "proj_out", c->in_channels, D);
}

/* ---- Laid out, at its start ---------------------------------------------------------------------- */

void qwen_image_close(void *state)
{
	struct qwen_image *m = state;

	if (!m)
		return;
	nn_release(&m->net);
	free(m->block);
	free(m);
}

int qwen_image_lay_out(void **out, const json_t *o, const char *what, struct err *e)
{
	struct qwen_image *m = mem_zero(1, sizeof *m);

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

/* Modulations and the last linear are zero, as at the start of other transformers of this kind. */
void qwen_image_start(void *state)
{
	struct qwen_image *m = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);

	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		zero(&m->block[i].image.ada);
		zero(&m->block[i].text.ada);
	}
	zero(&m->norm_out);
	zero(&m->proj_out);
	at_end(s);
}
