/*
 * clip_text.c -- CLIP's causal text transformer.
 * Shapes: B prompts, L tokens, D width, H heads of K, V words, P projected width.
 */
#include "models/clip_text.h"
#include "models/taps.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

static const struct pass base = { 0 };

/* ---- Forward ------------------------------------------------------------------------------------- */

static at_t attention(const struct clip_text *m, const struct clip_text_layer *l, at_t x_BLD)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t H = m->conf.num_attention_heads, K = m->conf.hidden_size / H, L = at_size(x_BLD, 1);
	at_t qkv_BL3HK = at_view(nn_linear(&l->qkv, &base, x_BLD), DIMS(-1, L, 3, H, K)), head[3];

	for (int i = 0; i < 3; i++)
		head[i] = at_transpose(at_select(qkv_BL3HK, 2, i), 1, 2);
	at_t o_BLHK = at_transpose(at_sdpa(head[0], head[1], head[2], NULL, true, 0), 1, 2);
	return at_return(s, nn_linear(&l->out, &base, at_flatten(o_BLHK, 2, 3)));
}

static at_t layer_forward(const struct clip_text *m, const struct clip_text_layer *l, at_t x_BLD)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	double eps = m->conf.layer_norm_eps;
	at_t h;

	x_BLD = at_add(x_BLD, attention(m, l, at_layer_norm(x_BLD, l->norm1_w, l->norm1_b, eps)));
	h = nn_linear(&l->up, &base, at_layer_norm(x_BLD, l->norm2_w, l->norm2_b, eps));
	h = m->conf.quick_gelu ? at_mul(h, at_sigmoid(at_mul(h, 1.702))) : at_gelu(h, false);
	return at_return(s, at_add(x_BLD, nn_linear(&l->down, &base, h)));
}

/* Where the pooled state is read: the first end-of-text token.  Configs from before transformers 4.31 say 2,
 * which is wrong, and mean the largest id. */
static at_t end_of_text(const struct clip_text *m, at_t ids_BL)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t B = at_size(ids_BL, 0), L = at_size(ids_BL, 1), eos = m->conf.eos_token_id;
	const int64_t *id = at_i64(at_contiguous(at_to(ids_BL, AT_I64, AT_CPU)));
	int64_t *row = mem_zero((size_t)B, sizeof *row);

	for (int64_t b = 0; b < B; b++) {
		int64_t best = 0;
		for (int64_t i = 0; i < L; i++) {
			int64_t x = id[b * L + i], y = id[b * L + best];
			if (eos == 2 ? x > y : x == eos && y != eos)
				best = i;
		}
		row[b] = b * L + best;
	}
	at_t out = at_to(at_from(row, DIMS(B), AT_I64), AT_I64, at_device_of(ids_BL));
	free(row);
	return at_return(s, out);
}

void clip_text_forward(const struct clip_text *m, at_t ids_BL, at_t *states_BLD, at_t *pooled_BP)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t D = m->conf.hidden_size, L = at_size(ids_BL, 1), n = m->conf.num_hidden_layers;
	at_t x_BLD = at_add(at_embedding(m->token_VD, ids_BL), at_narrow(m->position_LD, 0, 0, L));
	at_t last_BLD, rows_BD;

	tap(x_BLD, "text_model.embeddings");
	for (int64_t i = 0; i < n - 1; i++) {
		at_replace(s, &x_BLD, layer_forward(m, &m->layer[i], x_BLD));
		tap(x_BLD, "text_model.encoder.layers.%lld", (long long)i);
	}
	last_BLD = layer_forward(m, &m->layer[n - 1], x_BLD);
	tap(last_BLD, "text_model.encoder.layers.%lld", (long long)n - 1);
	rows_BD = at_index_select(at_reshape(last_BLD, DIMS(-1, D)), 0, end_of_text(m, ids_BL));
	rows_BD = at_layer_norm(rows_BD, m->norm_w, m->norm_b, m->conf.layer_norm_eps);
	*pooled_BP = at_escape(s, nn_linear(&m->projection, &base, rows_BD));
	tap(*pooled_BP, "text_projection");
	*states_BLD = at_escape(s, x_BLD);
	at_end(s);
}

/* ---- Files --------------------------------------------------------------------------------------- */

static int read_config(struct clip_text_conf *c, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	const char *act = NULL;
	int ret = -1;

	if (!o || json_get_int(&c->vocab_size, o, "vocab_size", 49408, path, e) ||
	    json_get_int(&c->hidden_size, o, "hidden_size", 512, path, e) ||
	    json_get_int(&c->intermediate_size, o, "intermediate_size", 2048, path, e) ||
	    json_get_int(&c->num_hidden_layers, o, "num_hidden_layers", 12, path, e) ||
	    json_get_int(&c->num_attention_heads, o, "num_attention_heads", 8, path, e) ||
	    json_get_int(&c->max_position_embeddings, o, "max_position_embeddings", 77, path, e) ||
	    json_get_int(&c->projection_dim, o, "projection_dim", 512, path, e) ||
	    json_get_int(&c->eos_token_id, o, "eos_token_id", 49407, path, e) ||
	    json_get_real(&c->layer_norm_eps, o, "layer_norm_eps", 1e-5, path, e) ||
	    json_get_str(&act, o, "hidden_act", "quick_gelu", path, e))
		goto out;
	c->quick_gelu = !strcmp(act, "quick_gelu");
	if (!c->quick_gelu && strcmp(act, "gelu") != 0)
		err_set(e, "%s: hidden_act '%s': there are quick_gelu and gelu", path, act);
	else if (c->vocab_size < 1 || c->hidden_size < 1 || c->intermediate_size < 1 ||
		 c->num_hidden_layers < 1 || c->num_hidden_layers > 1000 || c->num_attention_heads < 1 ||
		 c->hidden_size % c->num_attention_heads || c->max_position_embeddings < 2 ||
		 c->projection_dim < 1)
		err_set(e, "%s: sizes must be above 0 and hidden_size a multiple of num_attention_heads",
			path);
	else
		ret = 0;
out:
	json_decref(o);
	return ret;
}

static void norm(struct clip_text *m, at_t *w, at_t *b, const char *at, const char *name)
{
	char *weight = mem_printf("%s%s.weight", at, name), *bias = mem_printf("%s%s.bias", at, name);

	nn_add_tensor(&m->net, w, weight, DIMS(m->conf.hidden_size), true);
	nn_add_tensor(&m->net, b, bias, DIMS(m->conf.hidden_size), true);
	free(weight);
	free(bias);
}

static void lay_out(struct clip_text *m)
{
	static const char *const qkv[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj" };
	static const char *const out[] = { "self_attn.out_proj" }, *const up[] = { "mlp.fc1" },
				 *const down[] = { "mlp.fc2" }, *const projection[] = { "text_projection" };
	const struct clip_text_conf *c = &m->conf;
	int64_t D = c->hidden_size, F = c->intermediate_size;

	m->layer = mem_zero((size_t)c->num_hidden_layers, sizeof *m->layer);
	nn_add_tensor(&m->net, &m->token_VD, "text_model.embeddings.token_embedding.weight",
		      DIMS(c->vocab_size, D), true);
	nn_add_tensor(&m->net, &m->position_LD, "text_model.embeddings.position_embedding.weight",
		      DIMS(c->max_position_embeddings, D), true);
	nn_ignore(&m->net, "text_model.embeddings.position_ids"); /* 0, 1, 2, ...: written by old versions */
	for (int64_t i = 0; i < c->num_hidden_layers; i++) {
		struct clip_text_layer *l = &m->layer[i];
		char *at = mem_printf("text_model.encoder.layers.%lld.", (long long)i);
		norm(m, &l->norm1_w, &l->norm1_b, at, "layer_norm1");
		nn_add_stack(&m->net, &l->qkv, 3, at, qkv, D, D, true);
		nn_add_stack(&m->net, &l->out, 1, at, out, D, D, true);
		norm(m, &l->norm2_w, &l->norm2_b, at, "layer_norm2");
		nn_add_stack(&m->net, &l->up, 1, at, up, F, D, true);
		nn_add_stack(&m->net, &l->down, 1, at, down, D, F, true);
		free(at);
	}
	norm(m, &m->norm_w, &m->norm_b, "text_model.", "final_layer_norm");
	nn_add_linear(&m->net, &m->projection, 1, projection, &c->projection_dim, D, false);
}

int clip_text_open(struct clip_text *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	char *path = file_join(dir, "config.json");
	int ret;

	*m = (struct clip_text) { 0 };
	ret = read_config(&m->conf, path, e);
	if (!ret) {
		lay_out(m);
		ret = nn_load_dir(&m->net, dir, NN_TRANSFORMERS, NULL, dt, dev, NULL, e);
	}
	if (ret)
		clip_text_release(m);
	free(path);
	return ret;
}

void clip_text_release(struct clip_text *m)
{
	nn_release(&m->net);
	free(m->layer);
	*m = (struct clip_text) { 0 };
}
