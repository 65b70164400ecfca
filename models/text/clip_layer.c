/* clip_layer.c -- shapes: B samples, L tokens, D width, H heads of K. */
#include "models/text/clip_layer.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

static const struct pass base = { 0 };

/* ---- Forward ------------------------------------------------------------------------------------- */

static at_t attention(const struct clip_layers *c, const struct clip_layer *l, at_t x_BLD, bool causal)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	int64_t H = c->heads, K = c->width / H, L = at_size(x_BLD, 1);
	at_t qkv_BL3HK = at_view(nn_linear(&l->qkv, &base, x_BLD), DIMS(-1, L, 3, H, K)), head[3];

	for (int i = 0; i < 3; i++)
		head[i] = at_transpose(at_select(qkv_BL3HK, 2, i), 1, 2);
	at_t o_BLHK = at_transpose(at_sdpa(head[0], head[1], head[2], NULL, causal, 0), 1, 2);
	return at_return(s, nn_linear(&l->out, &base, at_flatten(o_BLHK, 2, 3)));
}

at_t clip_layer_forward(const struct clip_layers *c, int64_t i, at_t x_BLD, bool causal)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	const struct clip_layer *l = &c->layer[i];
	at_t h;

	x_BLD = at_add(x_BLD, attention(c, l, at_layer_norm(x_BLD, l->norm1_w, l->norm1_b, c->eps), causal));
	h = nn_linear(&l->up, &base, at_layer_norm(x_BLD, l->norm2_w, l->norm2_b, c->eps));
	h = c->quick_gelu ? at_mul(h, at_sigmoid(at_mul(h, 1.702))) : at_gelu(h, false);
	return at_return(s, at_add(x_BLD, nn_linear(&l->down, &base, h)));
}

/* ---- Files --------------------------------------------------------------------------------------- */

int clip_layers_check(const struct clip_layers *s, const char *path, struct err *e)
{
	if (s->width < 1 || s->inner < 1 || s->n < 1 || s->n > 1000 || s->heads < 1 || s->width % s->heads ||
	    s->width > 1 << 20 || s->inner > 1 << 20)
		return err_set(
		    e, "%s: sizes must be above 0 and hidden_size a multiple of num_attention_heads", path);
	return 0;
}

int clip_layers_read(struct clip_layers *s, const json_t *o, int64_t width, int64_t heads, const char *path,
		     struct err *e)
{
	const char *act = NULL;

	if (json_get_int(&s->width, o, "hidden_size", width, path, e) ||
	    json_get_int(&s->inner, o, "intermediate_size", 4 * width, path, e) ||
	    json_get_int(&s->n, o, "num_hidden_layers", 12, path, e) ||
	    json_get_int(&s->heads, o, "num_attention_heads", heads, path, e) ||
	    json_get_real(&s->eps, o, "layer_norm_eps", 1e-5, path, e) ||
	    json_get_str(&act, o, "hidden_act", "quick_gelu", path, e))
		return -1;
	s->quick_gelu = !strcmp(act, "quick_gelu");
	if (!s->quick_gelu && strcmp(act, "gelu") != 0)
		return err_set(e, "%s: hidden_act '%s': there are quick_gelu and gelu", path, act);
	return clip_layers_check(s, path, e);
}

void clip_norm_lay_out(struct nn_net *net, at_t *w, at_t *b, const char *name, int64_t width)
{
	char *weight = mem_printf("%s.weight", name), *bias = mem_printf("%s.bias", name);

	nn_add_tensor(net, w, weight, DIMS(width), true);
	nn_add_tensor(net, b, bias, DIMS(width), true);
	free(weight);
	free(bias);
}

static void norm(struct clip_layers *s, struct nn_net *net, at_t *w, at_t *b, const char *at,
		 const char *name)
{
	char *full = mem_printf("%s%s", at, name);

	clip_norm_lay_out(net, w, b, full, s->width);
	free(full);
}

static void linear(struct nn_net *net, struct nn_linear *l, const char *at, const char *name, int64_t out,
		   int64_t in)
{
	nn_add_stack(net, l, 1, at, &name, out, in, true);
}

static void fused(struct nn_net *net, struct nn_linear *l, const char *at, int64_t width)
{
	char *weight = mem_printf("%sattn.in_proj_weight", at), *bias = mem_printf("%sattn.in_proj_bias", at);

	l->site = -1;
	nn_add_tensor(net, &l->w_OI, weight, DIMS(3 * width, width), true);
	nn_add_tensor(net, &l->b_O, bias, DIMS(3 * width), true);
	free(weight);
	free(bias);
}

void clip_layers_lay_out(struct clip_layers *s, struct nn_net *net, const char *prefix,
			 enum clip_layout layout)
{
	static const char *const qkv[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj" };
	bool open = layout == CLIP_OPEN_CLIP;
	int64_t D = s->width, F = s->inner;

	s->layer = mem_zero((size_t)s->n, sizeof *s->layer);
	for (int64_t i = 0; i < s->n; i++) {
		struct clip_layer *l = &s->layer[i];
		char *at = mem_printf("%s%lld.", prefix, (long long)i);

		norm(s, net, &l->norm1_w, &l->norm1_b, at, open ? "ln_1" : "layer_norm1");
		if (open)
			fused(net, &l->qkv, at, D);
		else
			nn_add_stack(net, &l->qkv, 3, at, qkv, D, D, true);
		linear(net, &l->out, at, open ? "attn.out_proj" : "self_attn.out_proj", D, D);
		norm(s, net, &l->norm2_w, &l->norm2_b, at, open ? "ln_2" : "layer_norm2");
		linear(net, &l->up, at, open ? "mlp.c_fc" : "mlp.fc1", F, D);
		linear(net, &l->down, at, open ? "mlp.c_proj" : "mlp.fc2", D, F);
		free(at);
	}
}

void clip_layers_release(struct clip_layers *s)
{
	free(s->layer);
	*s = (struct clip_layers) { 0 };
}
