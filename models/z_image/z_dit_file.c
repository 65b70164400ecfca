/* z_dit_file.c -- the transformer's folder: config.json to struct and back, its parameters by name, random
 * weights. */
#include "models/z_image/z_dit.h"
#include "base/file.h"
#include "base/mem.h"
#include "models/known_keys.h"
#include "models/layers/sizes.h"
#include <stdlib.h>
#include <string.h>

/* ---- config.json ----------------------------------------------------------------------------- */

/* What diffusers takes where a file does not say. */
#define FIELD(member, absent, most) SIZE_FIELD(struct z_dit_conf, member, absent, 1, most)
static const struct size_field sizes[] = {
	FIELD(in_channels, 16, 1 << 12),    FIELD(dim, 3840, 1 << 16),
	FIELD(n_layers, 30, Z_DIT_BLOCKS),  FIELD(n_refiner_layers, 2, Z_DIT_BLOCKS),
	FIELD(n_heads, 30, 1 << 12),        FIELD(n_kv_heads, 30, 1 << 12),
	FIELD(cap_feat_dim, 2560, 1 << 20), { NULL, 0, 0, 0, 0 },
};
static const struct real {
	const char *key;
	size_t offset;
	double absent;
} reals[] = {
	{ "norm_eps", offsetof(struct z_dit_conf, norm_eps), 1e-5 },
	{ "rope_theta", offsetof(struct z_dit_conf, rope.theta), 256 },
	{ "t_scale", offsetof(struct z_dit_conf, t_scale), 1000 },
};
#define N_REALS (sizeof reals / sizeof *reals)

/* siglip_feat_dim is of the variant that edits images. */
static const struct json_known known[] = {
	{ "all_patch_size", NULL },
	{ "all_f_patch_size", "[1]" },
	{ "in_channels", NULL },
	{ "dim", NULL },
	{ "n_layers", NULL },
	{ "n_refiner_layers", NULL },
	{ "n_heads", NULL },
	{ "n_kv_heads", NULL },
	{ "norm_eps", NULL },
	{ "qk_norm", NULL },
	{ "cap_feat_dim", NULL },
	{ "siglip_feat_dim", "null" },
	{ "rope_theta", NULL },
	{ "t_scale", NULL },
	{ "axes_dims", NULL },
	{ "axes_lens", NULL },
	{ NULL, NULL },
};

static int check(const struct z_dit_conf *c, const char *what, struct err *e)
{
	if (c->n_kv_heads != c->n_heads)
		return err_set(e, "%s: n_kv_heads = %lld: must be n_heads = %lld", what,
			       (long long)c->n_kv_heads, (long long)c->n_heads);
	if (2 * c->n_refiner_layers + c->n_layers > Z_DIT_BLOCKS)
		return err_set(e, "%s: more than %d blocks", what, Z_DIT_BLOCKS);
	return 0;
}

static int read_reals(struct z_dit_conf *c, const json_t *o, const char *what, struct err *e)
{
	for (size_t i = 0; i < N_REALS; i++) {
		double *v = (double *)((char *)c + reals[i].offset);

		if (json_get_real(v, o, reals[i].key, reals[i].absent, what, e))
			return -1;
		if (!(*v > 0))
			return err_set(e, "%s: %s must be above 0", what, reals[i].key);
	}
	return 0;
}

static int read_config(struct z_dit_conf *c, const json_t *o, const char *what, struct err *e)
{
	static const int64_t lens[Z_DIT_AXES] = { 1024, 512, 512 };

	c->patch_size = 2;
	memcpy(c->axes_lens, lens, sizeof lens);
	c->rope = (struct rope) { Z_DIT_AXES, { 32, 48, 48 }, 256, AT_F64 };
	if (json_check_keys(o, known, known_anywhere, what, e) || sizes_read(c, sizes, o, what, e) ||
	    read_reals(c, o, what, e) || json_get_bool(&c->qk_norm, o, "qk_norm", true, what, e) ||
	    sizes_read_list(&c->patch_size, 1, o, "all_patch_size", 256, what, e) ||
	    sizes_read_list(c->axes_lens, Z_DIT_AXES, o, "axes_lens", 1 << 16, what, e))
		return -1;
	if (c->dim % c->n_heads)
		return err_set(e, "%s: dim = %lld: must be a multiple of n_heads = %lld", what,
			       (long long)c->dim, (long long)c->n_heads);
	return rope_read(&c->rope, o, "axes_dims", c->dim / c->n_heads, what, e) || check(c, what, e) ? -1
												      : 0;
}

static json_t *list_of(int n, const int64_t *v)
{
	json_t *list = json_array();

	for (int i = 0; i < n; i++)
		json_array_append_new(list, json_integer(v[i]));
	return list;
}

json_t *z_dit_config(const void *state)
{
	static const int64_t one = 1;
	const struct z_dit_conf *c = &((const struct z_dit *)state)->conf;
	json_t *o = json_object();

	json_object_set_new(o, "all_patch_size", list_of(1, &c->patch_size));
	json_object_set_new(o, "all_f_patch_size", list_of(1, &one));
	sizes_write(c, sizes, o);
	for (size_t i = 0; i < N_REALS; i++)
		json_object_set_new(o, reals[i].key,
				    json_number(*(const double *)((const char *)c + reals[i].offset)));
	json_object_set_new(o, "qk_norm", json_boolean(c->qk_norm));
	json_object_set_new(o, "siglip_feat_dim", json_null());
	rope_write(&c->rope, o, "axes_dims");
	json_object_set_new(o, "axes_lens", list_of(Z_DIT_AXES, c->axes_lens));
	return o;
}

/* ---- The parameters -------------------------------------------------------------------------- */

/* The original release: to_q, to_k and to_v are one module there, and where there may be several sizes of
 * patches it has one. */
#define BLOCK_NAMES(KIND)                                                                                    \
	{ KIND ".#.attention.to_q", KIND "_#_attention_qkv", NN_AS_HERE },                                   \
	    { KIND ".#.attention.to_out.0", KIND "_#_attention_out", NN_AS_HERE },                           \
	    { KIND ".#.feed_forward.w1", KIND "_#_feed_forward_w1", NN_AS_HERE },                            \
	    { KIND ".#.feed_forward.w2", KIND "_#_feed_forward_w2", NN_AS_HERE },                            \
	    { KIND ".#.feed_forward.w3", KIND "_#_feed_forward_w3", NN_AS_HERE },                            \
	{                                                                                                    \
		KIND ".#.adaLN_modulation.0", KIND "_#_adaLN_modulation_0", NN_AS_HERE                       \
	}
static const struct nn_rename names[] = {
	{ "t_embedder.mlp.0", "t_embedder_mlp_0", NN_AS_HERE },
	{ "t_embedder.mlp.2", "t_embedder_mlp_2", NN_AS_HERE },
	{ "cap_embedder.1", "cap_embedder_1", NN_AS_HERE },
	{ "all_x_embedder.#-1", "x_embedder", NN_AS_HERE },
	{ "all_final_layer.#-1.linear", "final_layer_linear", NN_AS_HERE },
	{ "all_final_layer.#-1.adaLN_modulation.1", "final_layer_adaLN_modulation_1", NN_AS_HERE },
	BLOCK_NAMES("noise_refiner"),
	BLOCK_NAMES("context_refiner"),
	BLOCK_NAMES("layers"),
	{ NULL, NULL, NN_AS_HERE },
};

static void linear1(struct z_dit *m, struct nn_linear *l, const char *prefix, const char *name, int64_t out,
		    int64_t in, bool bias)
{
	nn_add_stack(&m->net, l, 1, prefix, &name, out, in, bias);
}

static void norm(struct z_dit *m, at_t *slot, const char *prefix, const char *name, int64_t width)
{
	char *full = mem_printf("%s%s.weight", prefix, name);

	nn_add_tensor(&m->net, slot, full, DIMS(width), true);
	free(full);
}

static void block(struct z_dit *m, struct z_dit_block *b, const char *kind, int64_t i, enum nn_reads reads)
{
	static const char *const qkv[] = { "attention.to_q", "attention.to_k", "attention.to_v" };
	char *at = mem_printf("%s.%lld.", kind, (long long)i);
	int64_t D = m->conf.dim, F = z_dit_hidden(&m->conf), K = D / m->conf.n_heads;

	nn_begin_block(&m->net);
	b->ada.site = -1;
	if (reads != NN_TEXT) {
		nn_reads(&m->net, NN_SAMPLES);
		linear1(m, &b->ada, at, "adaLN_modulation.0", 4 * D, D < Z_DIT_TIME ? D : Z_DIT_TIME, true);
	}
	nn_reads(&m->net, reads);
	nn_add_stack(&m->net, &b->qkv, 3, at, qkv, D, D, false);
	linear1(m, &b->out, at, "attention.to_out.0", D, D, false);
	if (m->conf.qk_norm) {
		norm(m, &b->norm_q_K, at, "attention.norm_q", K);
		norm(m, &b->norm_k_K, at, "attention.norm_k", K);
	}
	linear1(m, &b->w1, at, "feed_forward.w1", F, D, false);
	linear1(m, &b->w2, at, "feed_forward.w2", D, F, false);
	linear1(m, &b->w3, at, "feed_forward.w3", F, D, false);
	norm(m, &b->attention_norm1_D, at, "attention_norm1", D);
	norm(m, &b->attention_norm2_D, at, "attention_norm2", D);
	norm(m, &b->ffn_norm1_D, at, "ffn_norm1", D);
	norm(m, &b->ffn_norm2_D, at, "ffn_norm2", D);
	free(at);
}

static void all_blocks(struct z_dit *m)
{
	int64_t refiners = m->conf.n_refiner_layers;
	struct z_dit_block *b = m->block;

	for (int64_t i = 0; i < refiners; i++)
		block(m, b++, "noise_refiner", i, NN_IMAGE);
	for (int64_t i = 0; i < refiners; i++)
		block(m, b++, "context_refiner", i, NN_TEXT);
	for (int64_t i = 0; i < m->conf.n_layers; i++)
		block(m, b++, "layers", i, NN_BOTH);
	nn_end_blocks(&m->net);
}

/* *m zeroed, conf filled and checked. */
static void lay_out(struct z_dit *m)
{
	const struct z_dit_conf *c = &m->conf;
	int64_t D = c->dim, T = D < Z_DIT_TIME ? D : Z_DIT_TIME,
		F = c->patch_size * c->patch_size * c->in_channels;
	char *x_embedder = mem_printf("all_x_embedder.%lld-1", (long long)c->patch_size);
	char *last = mem_printf("all_final_layer.%lld-1.", (long long)c->patch_size);

	m->net.names = names;
	m->net.trainer = "networks.lora_zimage";
	m->blocks = 2 * c->n_refiner_layers + c->n_layers;
	m->block = mem_zero((size_t)m->blocks, sizeof *m->block);
	nn_add_tensor(&m->net, &m->x_pad_1D, "x_pad_token", DIMS(1, D), true);
	nn_add_tensor(&m->net, &m->cap_pad_1D, "cap_pad_token", DIMS(1, D), true);
	linear1(m, &m->time1, "", "t_embedder.mlp.0", Z_DIT_HIDDEN, Z_DIT_TIME, true);
	linear1(m, &m->time2, "", "t_embedder.mlp.2", T, Z_DIT_HIDDEN, true);
	nn_reads(&m->net, NN_TEXT);
	norm(m, &m->cap_norm_E, "", "cap_embedder.0", c->cap_feat_dim);
	linear1(m, &m->cap_embedder, "", "cap_embedder.1", D, c->cap_feat_dim, true);
	nn_reads(&m->net, NN_IMAGE);
	linear1(m, &m->x_embedder, "", x_embedder, D, F, true);
	all_blocks(m);
	nn_reads(&m->net, NN_SAMPLES);
	linear1(m, &m->final_ada, last, "adaLN_modulation.1", D, T, true);
	nn_reads(&m->net, NN_IMAGE);
	linear1(m, &m->final, last, "linear", F, D, true);
	free(x_embedder);
	free(last);
}

/* ---- Laid out, at its start ------------------------------------------------------------------------ */

void z_dit_close(void *state)
{
	struct z_dit *m = state;

	if (!m)
		return;
	nn_release(&m->net);
	free(m->block);
	free(m);
}

int z_dit_lay_out(void **out, const json_t *o, const char *what, struct err *e)
{
	struct z_dit *m = mem_zero(1, sizeof *m);

	if (read_config(&m->conf, o, what, e)) {
		free(m);
		return -1;
	}
	lay_out(m);
	*out = m;
	return 0;
}

/* The first velocity is 0. */
void z_dit_start(void *state)
{
	struct z_dit *m = state;
	struct at_scope *s = at_begin(AT_NO_GRAD);

	at_zero_(m->final.w_OI);
	at_zero_(m->final.b_O);
	at_end(s);
}
