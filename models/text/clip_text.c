/*
 * clip_text.c -- CLIP's causal text transformer.
 * Shapes: B prompts, L tokens, D width, H heads of K, V words, P projected width.
 */
#include "models/text/clip_text.h"
#include "models/taps.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/known_keys.h"
#include <stdlib.h>

static const struct pass base = { 0 };

/* ---- Forward ------------------------------------------------------------------------------------- */

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
	int64_t D = m->layers.width, L = at_size(ids_BL, 1), n = m->layers.n;
	at_t x_BLD = at_add(at_embedding(m->token_VD, ids_BL), at_narrow(m->position_LD, 0, 0, L));
	at_t last_BLD, rows_BD;

	tap(x_BLD, "text_model.embeddings");
	for (int64_t i = 0; i < n - 1; i++) {
		at_replace(s, &x_BLD, clip_layer_forward(&m->layers, i, x_BLD, true));
		tap(x_BLD, "text_model.encoder.layers.%lld", (long long)i);
	}
	last_BLD = clip_layer_forward(&m->layers, n - 1, x_BLD, true);
	tap(last_BLD, "text_model.encoder.layers.%lld", (long long)n - 1);
	rows_BD = at_index_select(at_reshape(last_BLD, DIMS(-1, D)), 0, end_of_text(m, ids_BL));
	rows_BD = at_layer_norm(rows_BD, m->norm_w, m->norm_b, m->layers.eps);
	*pooled_BP = at_escape(s, m->plain           ? rows_BD
				  : m->projection_DP ? at_matmul(rows_BD, m->projection_DP)
						     : nn_linear(&m->projection, &base, rows_BD));
	tap(*pooled_BP, m->plain ? "text_model.final_layer_norm" : "text_projection");
	*states_BLD = at_escape(s, x_BLD);
	at_end(s);
}

/* ---- Files --------------------------------------------------------------------------------------- */

int clip_text_read(struct clip_text *m, const json_t *o, const char *path, struct err *e)
{
	struct clip_text_conf *c = &m->conf;

	if (json_check_keys(o, known_clip_text, known_anywhere, path, e) ||
	    clip_layers_read(&m->layers, o, 512, 8, path, e) ||
	    json_get_int(&c->vocab_size, o, "vocab_size", 49408, path, e) ||
	    json_get_int(&c->max_position_embeddings, o, "max_position_embeddings", 77, path, e) ||
	    json_get_int(&c->projection_dim, o, "projection_dim", 512, path, e) ||
	    json_get_int(&c->eos_token_id, o, "eos_token_id", 49407, path, e))
		return -1;
	if (c->vocab_size < 1 || c->max_position_embeddings < 2 || c->projection_dim < 1)
		return err_set(
		    e, "%s: vocab_size, max_position_embeddings and projection_dim must be above 0, 1 and 0",
		    path);
	return 0;
}

void clip_text_lay_out(struct clip_text *m, struct nn_net *net, enum clip_layout layout)
{
	static const char *const projection[] = { "text_projection" };
	bool open = layout == CLIP_OPEN_CLIP;
	const struct clip_text_conf *c = &m->conf;
	int64_t D = m->layers.width;

	nn_add_tensor(net, &m->token_VD,
		      open ? "token_embedding.weight" : "text_model.embeddings.token_embedding.weight",
		      DIMS(c->vocab_size, D), true);
	nn_add_tensor(net, &m->position_LD,
		      open ? "positional_embedding" : "text_model.embeddings.position_embedding.weight",
		      DIMS(c->max_position_embeddings, D), true);
	nn_ignore(net, "text_model.embeddings.position_ids"); /* 0, 1, 2, ...: written by old versions */
	clip_layers_lay_out(&m->layers, net, open ? "transformer.resblocks." : "text_model.encoder.layers.",
			    layout);
	clip_norm_lay_out(net, &m->norm_w, &m->norm_b, open ? "ln_final" : "text_model.final_layer_norm", D);
	if (open)
		nn_add_tensor(net, &m->projection_DP, "text_projection", DIMS(D, c->projection_dim), true);
	else if (!m->plain)
		nn_add_linear(net, &m->projection, 1, projection, &c->projection_dim, D, false);
}

int clip_text_open(struct clip_text *m, const char *dir, bool projected, enum at_dtype dt, enum at_device dev,
		   struct err *e)
{
	char *path = file_join(dir, "config.json");
	json_t *o = json_read(path, e);
	int ret;

	*m = (struct clip_text) { .plain = !projected };
	ret = o ? clip_text_read(m, o, path, e) : -1;
	if (!ret) {
		clip_text_lay_out(m, &m->net, CLIP_TRANSFORMERS);
		if (m->plain) /* transformers 5 writes a CLIPTextModel without it */
			nn_alias_bare(&m->net, "text_model.");
		ret = nn_load_dir(&m->net, dir, NN_TRANSFORMERS, NULL, dt, dev, e);
	}
	if (ret)
		clip_text_release(m);
	json_decref(o);
	free(path);
	return ret;
}

void clip_text_release(struct clip_text *m)
{
	nn_release(&m->net);
	clip_layers_release(&m->layers);
	*m = (struct clip_text) { 0 };
}
