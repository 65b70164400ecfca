/* decoder_file.c -- its folder: the configuration of Qwen3, Qwen2.5-VL or Gemma 2, and the weights that run.
 */
#include "models/text/decoder/decoder.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/text.h"
#include "models/known_keys.h"
#include <stdlib.h>
#include <string.h>

/* ---- Configuration ------------------------------------------------------------------------------- */

static int read_kind(struct decoder_conf *c, const json_t *o, const char *path, struct err *e)
{
	const char *type = NULL;

	if (json_get_str(&type, o, "model_type", "", path, e))
		return -1;
	c->qk_norm = !strcmp(type, "qwen3");
	c->qkv_bias = !strcmp(type, "qwen2_5_vl") || !strcmp(type, "qwen2_5_vl_text");
	c->gemma = !strcmp(type, "gemma2");
	if (!c->qk_norm && !c->qkv_bias && !c->gemma)
		return err_set(e, "%s: model_type '%.60s': there are qwen3, qwen2_5_vl and gemma2", path,
			       type);
	return 0;
}

/* Null is no limit. */
static int read_limit(double *out, const json_t *o, const char *key, double absent, const char *path,
		      struct err *e)
{
	*out = 0;
	if (json_is_null(json_object_get(o, key)))
		return 0;
	if (json_get_real(out, o, key, absent, path, e))
		return -1;
	return *out >= 0 ? 0 : err_set(e, "%s: %s must be above 0", path, key);
}

static int read_gemma(struct decoder_conf *c, const json_t *o, const char *path, struct err *e)
{
	double window;

	if (read_limit(&window, o, "sliding_window", 4096, path, e) ||
	    read_limit(&c->softcap, o, "attn_logit_softcapping", 50, path, e) ||
	    json_get_real(&c->query_pre_attn_scalar, o, "query_pre_attn_scalar", 256, path, e))
		return -1;
	if (!(c->query_pre_attn_scalar > 0))
		return err_set(e, "%s: query_pre_attn_scalar must be above 0", path);
	c->sliding_window = window < 1e9 ? (int64_t)window : 0;
	return 0;
}

/* Scaled positions (YaRN and others) would need code of their own; mrope of text alone is plain. */
static int read_rope(struct decoder_conf *c, const json_t *o, const char *path, struct err *e)
{
	static const char *const objects[] = { "rope_parameters", "rope_scaling" };
	static const char *const types[] = { "rope_type", "type" };

	if (json_get_real(&c->rope_theta, o, "rope_theta", 10000, path, e))
		return -1;
	for (int i = 0; i < 2; i++) {
		const json_t *rope = json_object_get(o, objects[i]);
		if (!json_is_object(rope))
			continue;
		for (int k = 0; k < 2; k++) {
			const char *type = NULL;
			if (json_get_str(&type, rope, types[k], "default", path, e))
				return -1;
			if (strcmp(type, "default") != 0 && strcmp(type, "mrope") != 0)
				return err_set(e, "%s: %s.%s '%.60s': there are default and mrope", path,
					       objects[i], types[k], type);
		}
		if (json_get_real(&c->rope_theta, rope, "rope_theta", c->rope_theta, path, e))
			return -1;
	}
	return c->rope_theta > 1 ? 0 : err_set(e, "%s: rope_theta must be above 1", path);
}

/* Every layer attends to all tokens before; of Gemma's, those of odd number. */
static int check_layers(const struct decoder_conf *c, const json_t *o, const char *path, struct err *e)
{
	const json_t *x;
	size_t i;

	if (json_is_true(json_object_get(o, "use_sliding_window")))
		return err_set(e, "%s: use_sliding_window is not supported", path);
	json_array_foreach(json_object_get(o, "layer_types"), i, x)
	{
		const char *type = json_string_value(x);
		const char *wanted = c->gemma && i % 2 == 0 ? "sliding_attention" : "full_attention";
		if (!type || strcmp(type, wanted) != 0)
			return err_set(e, "%s: layer_types[%zu] is not %s", path, i, wanted);
	}
	return 0;
}

static int read_sizes(struct decoder_conf *c, const json_t *o, const char *path, struct err *e)
{
	const struct {
		const char *key;
		int64_t *to;
	} sizes[] = {
		{ "vocab_size", &c->vocab_size },
		{ "hidden_size", &c->hidden_size },
		{ "intermediate_size", &c->intermediate_size },
		{ "num_hidden_layers", &c->num_hidden_layers },
		{ "num_attention_heads", &c->num_attention_heads },
	};

	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		if (json_get_int(sizes[i].to, o, sizes[i].key, 0, path, e))
			return -1;
		if (*sizes[i].to < 1 || *sizes[i].to > 1 << 24)
			return err_set(e, "%s: %s must be a number above 0", path, sizes[i].key);
	}
	if (json_get_int(&c->num_key_value_heads, o, "num_key_value_heads", c->num_attention_heads, path,
			 e) ||
	    json_get_int(&c->head_dim, o, "head_dim", c->hidden_size / c->num_attention_heads, path, e) ||
	    json_get_real(&c->rms_norm_eps, o, "rms_norm_eps", 1e-6, path, e))
		return -1;
	if (c->num_hidden_layers > 1000 || c->head_dim < 2 || c->head_dim % 2 || c->head_dim > 4096)
		return err_set(e, "%s: head_dim must be even, num_hidden_layers at most 1000", path);
	if (c->num_key_value_heads < 1 || c->num_attention_heads % c->num_key_value_heads)
		return err_set(e, "%s: num_key_value_heads must divide num_attention_heads", path);
	return 0;
}

/* transformers 5 puts what is of Qwen2.5-VL's text into text_config; before, it stood at the top. */
static int read_config(struct decoder_conf *c, const char *path, struct err *e)
{
	json_t *whole = json_read(path, e);
	const json_t *text = json_object_get(whole, "text_config"), *o = json_is_object(text) ? text : whole;
	int ret = !whole || read_kind(c, o, path, e) ||
			  json_check_keys(o, c->gemma ? known_gemma : known_qwen, known_anywhere, path, e) ||
			  read_sizes(c, o, path, e) || read_rope(c, o, path, e) ||
			  (c->gemma && read_gemma(c, o, path, e)) || check_layers(c, o, path, e)
		      ? -1
		      : 0;

	json_decref(whole);
	return ret;
}

/* ---- Names --------------------------------------------------------------------------------------- */

static void add_norm(struct decoder *m, at_t *slot, const char *at, const char *name, int64_t width)
{
	char *full = mem_printf("%s%s.weight", at, name);

	nn_add_tensor(&m->net, slot, full, DIMS(width), true);
	free(full);
}

static void add_qkv(struct decoder *m, struct decoder_layer *l, const char *at)
{
	static const char *const name[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj" };
	const struct decoder_conf *c = &m->conf;
	int64_t kv = c->num_key_value_heads * c->head_dim;
	const int64_t rows[] = { c->num_attention_heads * c->head_dim, kv, kv };
	char *full[3];

	for (int i = 0; i < 3; i++)
		full[i] = mem_printf("%s%s", at, name[i]);
	nn_add_linear(&m->net, &l->qkv, 3, (const char *const *)full, rows, c->hidden_size, c->qkv_bias);
	for (int i = 0; i < 3; i++)
		free(full[i]);
}

static void lay_out_layer(struct decoder *m, int64_t i)
{
	static const char *const out[] = { "self_attn.o_proj" };
	static const char *const up[] = { "mlp.gate_proj", "mlp.up_proj" };
	static const char *const down[] = { "mlp.down_proj" };
	struct decoder_layer *l = &m->layer[i];
	const struct decoder_conf *c = &m->conf;
	int64_t D = c->hidden_size;
	char *at = mem_printf("%slayers.%lld.", m->prefix, (long long)i);

	add_norm(m, &l->norm1_D, at, "input_layernorm", D);
	add_qkv(m, l, at);
	if (c->qk_norm) {
		add_norm(m, &l->q_norm_K, at, "self_attn.q_norm", c->head_dim);
		add_norm(m, &l->k_norm_K, at, "self_attn.k_norm", c->head_dim);
	}
	nn_add_stack(&m->net, &l->out, 1, at, out, D, c->num_attention_heads * c->head_dim, false);
	if (c->gemma) {
		add_norm(m, &l->after1_D, at, "post_attention_layernorm", D);
		add_norm(m, &l->norm2_D, at, "pre_feedforward_layernorm", D);
		add_norm(m, &l->after2_D, at, "post_feedforward_layernorm", D);
	} else {
		add_norm(m, &l->norm2_D, at, "post_attention_layernorm", D);
	}
	nn_add_stack(&m->net, &l->up, 2, at, up, c->intermediate_size, D, false);
	nn_add_stack(&m->net, &l->down, 1, at, down, D, c->intermediate_size, false);
	free(at);
}

static void lay_out(struct decoder *m)
{
	char *token = mem_printf("%sembed_tokens.weight", m->prefix);

	m->layer = mem_zero((size_t)m->layers + 1, sizeof *m->layer);
	nn_add_tensor(&m->net, &m->token_VD, token, DIMS(m->conf.vocab_size, m->conf.hidden_size), true);
	for (int64_t i = 0; i < m->layers; i++)
		lay_out_layer(m, i);
	if (m->layers == m->conf.num_hidden_layers)
		add_norm(m, &m->norm_D, m->prefix, "norm", m->conf.hidden_size);
	free(token);
}

/* Files of whole language models call the decoder `model`; those of models that see images, by more names. */
static int find_prefix(struct decoder *m, const struct st_file *f, struct err *e)
{
	static const char *const prefixes[] = { "", "model.", "model.language_model.",
						"language_model.model." };

	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes && !m->prefix; i++) {
		char *name = mem_printf("%sembed_tokens.weight", prefixes[i]);
		if (st_find(f, name))
			m->prefix = mem_str(prefixes[i]);
		free(name);
	}
	return m->prefix ? 0
			 : err_set(e, "%s: no tensor embed_tokens.weight: not a decoder's weights", f->path);
}

/* The layer whose tensor this is, or -1. */
static int64_t layer_of(const struct decoder *m, const char *name)
{
	size_t n = strlen(m->prefix);
	char *end;

	if (strncmp(name, m->prefix, n) != 0 || !text_starts(name + n, "layers."))
		return -1;
	int64_t i = strtoll(name + n + strlen("layers."), &end, 10);
	return *end == '.' ? i : -1;
}

/* Layers that do not run, the norm behind them, the prediction of words, and the eyes. */
static bool is_left_out(const struct decoder *m, const char *name)
{
	static const char *const other[] = { "lm_head.", "visual.", "model.visual.",
					     "language_model.lm_head." };
	int64_t i = layer_of(m, name);
	size_t n = strlen(m->prefix);

	for (size_t k = 0; k < sizeof other / sizeof *other; k++)
		if (text_starts(name, other[k]))
			return true;
	if (m->layers < m->conf.num_hidden_layers && text_starts(name, m->prefix) &&
	    !strcmp(name + n, "norm.weight"))
		return true;
	return i >= m->layers && i < m->conf.num_hidden_layers;
}

static int load(struct decoder *m, const char *dir, enum at_dtype dt, enum at_device dev, struct err *e)
{
	struct st_file f;
	int ret;

	if (st_open_model(&f, dir, NN_TRANSFORMERS, NULL, e))
		return -1;
	ret = find_prefix(m, &f, e);
	if (!ret) {
		lay_out(m);
		for (int i = 0; i < f.n; i++)
			if (is_left_out(m, f.entry[i].name))
				nn_ignore(&m->net, f.entry[i].name);
		ret = nn_load(&m->net, &f, dt, dev, e);
	}
	st_close(&f);
	return ret;
}

static int choose_states(struct decoder *m, int n, const int64_t *states, const char *path, struct err *e)
{
	int64_t layers = m->conf.num_hidden_layers;

	m->n = n;
	for (int i = 0; i < n; i++) {
		int64_t k = states[i] < 0 ? layers + 1 + states[i] : states[i];
		if (k < 0 || k > layers)
			return err_set(e, "%s: num_hidden_layers is %lld, but hidden state %lld is wanted",
				       path, (long long)layers, (long long)states[i]);
		m->state[i] = k;
		m->layers = k > m->layers ? k : m->layers;
	}
	return 0;
}

int decoder_open(struct decoder *m, const char *dir, int n, const int64_t *states, enum at_dtype dt,
		 enum at_device dev, struct err *e)
{
	char *path = file_join(dir, "config.json");
	int ret;

	*m = (struct decoder) { 0 };
	ret =
	    read_config(&m->conf, path, e) || choose_states(m, n, states, path, e) || load(m, dir, dt, dev, e)
		? -1
		: 0;
	if (ret)
		decoder_release(m);
	free(path);
	return ret;
}

void decoder_release(struct decoder *m)
{
	nn_release(&m->net);
	free(m->layer);
	free(m->prefix);
	*m = (struct decoder) { 0 };
}
