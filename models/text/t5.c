/*
 * t5.c -- T5's encoder.
 * Shapes: B prompts, L tokens, D width, H heads of K, F hidden width, V words, N buckets.
 */
#include "models/text/t5.h"
#include "models/taps.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "models/known_keys.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct pass base = { 0 };

/* ---- Forward ------------------------------------------------------------------------------------- */

/* The bucket of key - query: half of the buckets for keys that come later, half of each half for exact
 * distances, the rest logarithmic up to the largest distance.  Single precision, as everywhere else: a double
 * would put some distances into the next bucket. */
static int64_t bucket(const struct t5_conf *c, int64_t distance)
{
	int64_t half = c->relative_attention_num_buckets / 2, exact = half / 2, far = llabs(distance);
	int64_t first = distance > 0 ? half : 0, large;

	if (far < exact)
		return first + far;
	float scale = (float)log((double)c->relative_attention_max_distance / (double)exact);
	large = exact + (int64_t)(logf((float)far / (float)exact) / scale * (float)(half - exact));
	return first + (large < half ? large : half - 1);
}

/* What the scores of every layer get added: (1, H, L, L). */
static at_t position_bias(const struct t5 *m, int64_t L)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	int64_t *index = mem_zero((size_t)(L * L), sizeof *index);

	for (int64_t q = 0; q < L; q++)
		for (int64_t k = 0; k < L; k++)
			index[q * L + k] = bucket(&m->conf, k - q);
	at_t index_LL = at_to(at_from(index, DIMS(L, L), AT_I64), AT_I64, at_device_of(m->bias_NH));
	at_t bias_LLH = at_embedding(m->bias_NH, index_LL);
	free(index);
	return at_return(s, at_contiguous(at_unsqueeze(at_permute(bias_LLH, DIMS(2, 0, 1)), 0)));
}

static at_t attention(const struct t5 *m, const struct t5_layer *l, at_t x_BLD, at_t bias_1HLL)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t H = m->conf.num_heads, K = m->conf.d_kv, L = at_size(x_BLD, 1);
	at_t qkv_BL3HK = at_view(nn_linear(&l->qkv, &base, x_BLD), DIMS(-1, L, 3, H, K)), head[3];

	for (int i = 0; i < 3; i++)
		head[i] = at_transpose(at_select(qkv_BL3HK, 2, i), 1, 2);
	at_t o_BLHK = at_transpose(at_sdpa(head[0], head[1], head[2], bias_1HLL, false, 1), 1, 2);
	return at_return(s, nn_linear(&l->out, &base, at_flatten(o_BLHK, 2, 3)));
}

static at_t feed_forward(const struct t5 *m, const struct t5_layer *l, at_t x_BLD)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	at_t h = nn_linear(&l->up, &base, x_BLD), half[2] = { h };

	if (m->conf.gated)
		at_chunk(2, half, h, -1);
	h = m->conf.relu ? at_relu(half[0]) : at_gelu(at_contiguous(half[0]), true);
	return at_return(s, nn_linear(&l->down, &base, m->conf.gated ? at_mul(h, half[1]) : h));
}

at_t t5_forward(const struct t5 *m, at_t ids_BL)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	double eps = m->conf.layer_norm_epsilon;
	at_t x_BLD = at_embedding(m->token_VD, ids_BL), bias_1HLL = position_bias(m, at_size(ids_BL, 1));

	tap(x_BLD, "encoder.embed_tokens");
	for (int64_t i = 0; i < m->conf.num_layers; i++) {
		struct at_scope *layer = at_begin(AT_GRAD_AS_IS);
		const struct t5_layer *l = &m->layer[i];
		at_t h = at_add(x_BLD, attention(m, l, at_rms_norm(x_BLD, l->norm1_D, eps), bias_1HLL));
		h = at_add(h, feed_forward(m, l, at_rms_norm(h, l->norm2_D, eps)));
		tap(h, "encoder.block.%lld", (long long)i);
		at_replace(layer, &x_BLD, h);
		at_end(layer);
	}
	x_BLD = at_rms_norm(x_BLD, m->norm_D, eps);
	tap(x_BLD, "encoder.final_layer_norm");
	return at_return(s, x_BLD);
}

/* ---- Files --------------------------------------------------------------------------------------- */

static int read_activation(struct t5_conf *c, const json_t *o, const char *path, struct err *e)
{
	const char *act = NULL;

	if (json_get_str(&act, o, "feed_forward_proj", "relu", path, e))
		return -1;
	c->gated = !strncmp(act, "gated-", 6);
	act += c->gated ? 6 : 0;
	c->relu = !strcmp(act, "relu");
	/* plain "gelu" is the exact one in transformers except behind "gated-", where it is the tanh form */
	if (c->relu || !strcmp(act, "gelu_new") || (c->gated && !strcmp(act, "gelu")))
		return 0;
	return err_set(
	    e, "%s: feed_forward_proj: there are relu, gelu_new, gated-relu, gated-gelu_new and gated-gelu",
	    path);
}

static int read_config(struct t5_conf *c, const char *path, struct err *e)
{
	json_t *o = json_read(path, e);
	int ret = -1;

	if (!o || json_check_keys(o, known_t5, known_anywhere, path, e) ||
	    json_get_int(&c->vocab_size, o, "vocab_size", 32128, path, e) ||
	    json_get_int(&c->d_model, o, "d_model", 512, path, e) ||
	    json_get_int(&c->d_kv, o, "d_kv", 64, path, e) ||
	    json_get_int(&c->d_ff, o, "d_ff", 2048, path, e) ||
	    json_get_int(&c->num_layers, o, "num_layers", 6, path, e) ||
	    json_get_int(&c->num_heads, o, "num_heads", 8, path, e) ||
	    json_get_int(&c->relative_attention_num_buckets, o, "relative_attention_num_buckets", 32, path,
			 e) ||
	    json_get_int(&c->relative_attention_max_distance, o, "relative_attention_max_distance", 128, path,
			 e) ||
	    json_get_real(&c->layer_norm_epsilon, o, "layer_norm_epsilon", 1e-6, path, e) ||
	    read_activation(c, o, path, e))
		goto out;
	if (c->vocab_size < 1 || c->d_model < 1 || c->d_kv < 1 || c->d_ff < 1 || c->num_layers < 1 ||
	    c->num_layers > 1000 || c->num_heads < 1)
		err_set(e, "%s: sizes must be above 0", path);
	else if (c->relative_attention_num_buckets < 4 || c->relative_attention_num_buckets % 2 ||
		 c->relative_attention_max_distance <= c->relative_attention_num_buckets / 4)
		err_set(e,
			"%s: relative_attention_num_buckets must be even and at least 4, "
			"relative_attention_max_distance above a quarter of it",
			path);
	else
		ret = 0;
out:
	json_decref(o);
	return ret;
}

static void norm(struct t5 *m, at_t *slot, const char *at)
{
	char *name = mem_printf("%s.weight", at);

	nn_add_tensor(&m->net, slot, name, DIMS(m->conf.d_model), true);
	free(name);
}

static void lay_out_layer(struct t5 *m, struct t5_layer *l, int64_t i)
{
	static const char *const qkv[] = { "layer.0.SelfAttention.q", "layer.0.SelfAttention.k",
					   "layer.0.SelfAttention.v" };
	static const char *const out[] = { "layer.0.SelfAttention.o" };
	static const char *const gated[] = { "layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1" };
	static const char *const plain[] = { "layer.1.DenseReluDense.wi" };
	static const char *const down[] = { "layer.1.DenseReluDense.wo" };
	const struct t5_conf *c = &m->conf;
	char *at = mem_printf("encoder.block.%lld.", (long long)i);
	char *norm1 = mem_printf("%slayer.0.layer_norm", at), *norm2 = mem_printf("%slayer.1.layer_norm", at);
	char *bias = mem_printf("%slayer.0.SelfAttention.relative_attention_bias.weight", at);

	nn_add_stack(&m->net, &l->qkv, 3, at, qkv, c->num_heads * c->d_kv, c->d_model, false);
	nn_add_stack(&m->net, &l->out, 1, at, out, c->d_model, c->num_heads * c->d_kv, false);
	if (i == 0)
		nn_add_tensor(&m->net, &m->bias_NH, bias,
			      DIMS(c->relative_attention_num_buckets, c->num_heads), true);
	norm(m, &l->norm1_D, norm1);
	nn_add_stack(&m->net, &l->up, c->gated ? 2 : 1, at, c->gated ? gated : plain, c->d_ff, c->d_model,
		     false);
	nn_add_stack(&m->net, &l->down, 1, at, down, c->d_model, c->d_ff, false);
	norm(m, &l->norm2_D, norm2);
	free(at);
	free(norm1);
	free(norm2);
	free(bias);
}

int t5_open(struct t5 *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	char *path = file_join(dir, "config.json");
	int ret;

	*m = (struct t5) { 0 };
	ret = read_config(&m->conf, path, e);
	if (!ret) {
		m->layer = mem_zero((size_t)m->conf.num_layers, sizeof *m->layer);
		/* one table under either of two names; files from before it was tied hold both */
		nn_add_tensor(&m->net, &m->token_VD, "encoder.embed_tokens.weight",
			      DIMS(m->conf.vocab_size, m->conf.d_model), true);
		nn_alias(&m->net, "shared.weight");
		for (int64_t i = 0; i < m->conf.num_layers; i++)
			lay_out_layer(m, &m->layer[i], i);
		norm(m, &m->norm_D, "encoder.final_layer_norm");
		ret = nn_load_dir(&m->net, dir, NN_TRANSFORMERS, NULL, dt, dev, e);
	}
	if (ret)
		t5_release(m);
	free(path);
	return ret;
}

void t5_release(struct t5 *m)
{
	nn_release(&m->net);
	free(m->layer);
	*m = (struct t5) { 0 };
}
