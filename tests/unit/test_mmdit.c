/* Activation checkpointing of any number of blocks: the gradients of none, in less memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "aten/memory.h"
#include "models/lora/lora.h"
#include "models/sd3/mmdit.h"
#include "models/sd3/sd3.h"

#define LAYERS 5
#define B      3
#define SIDE   8

static struct transformer m;
static struct lora lora;
static at_t x, t, text, pooled;

static void fill(at_t v, double step, double scale)
{
	for (int64_t i = 0; i < at_numel(v); i++)
		at_f32(v)[i] = (float)(scale * sin(step * (double)(i + 1)));
}

static at_t filled(struct at_dims shape, double step)
{
	at_t v = at_empty(shape, AT_F32, AT_CPU);

	fill(v, step, 1);
	return at_keep(v);
}

/* A new network's modulations are zero, and so would its gradients be. */
static int set_up(void **state)
{
	static const char *const targets[] = { "attn.to_q",
					       "attn.to_out.0",
					       "add_k_proj",
					       "norm1.linear",
					       "ff.net.0.proj",
					       "attn2.to_v",
					       "time_text_embed.timestep_embedder.linear_1" };
	struct lora_conf l = { .rank = 2,
			       .alpha = 4,
			       .init = (char[]) { "gaussian" },
			       .targets = { (char **)(uintptr_t)targets,
					    (int)(sizeof targets / sizeof *targets) } };
	json_t *o =
	    json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:[i, i]}", "sample_size",
		      SIDE, "patch_size", 1, "in_channels", 3, "out_channels", 3, "num_layers", LAYERS,
		      "attention_head_dim", 8, "num_attention_heads", 2, "joint_attention_dim", 5,
		      "caption_projection_dim", 16, "pooled_projection_dim", 5, "pos_embed_max_size", SIDE,
		      "qk_norm", "rms_norm", "dual_attention_layers", 0, 1);
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct err e;

	(void)state;
	if (transformer_make(&m, &transformer_sd3, o, "small", 4, &e) ||
	    lora_init(&lora, m.net, &l, 3, AT_CPU, &e))
		fail_msg("%s", e.msg);
	for (int i = 0; i < m.net->n_param; i++)
		fill(*m.net->param[i].tensor, 0.37 + i, 0.3);
	fill(lora.flat, 0.61, 0.2);
	x = filled(DIMS(B, 3, SIDE, SIDE), 0.7);
	t = filled(DIMS(B), 300);
	text = filled(DIMS(B, 4, 5), 0.9);
	pooled = filled(DIMS(B, 5), 1.1);
	lora_require_grad(&lora);
	json_decref(o);
	at_end(s);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	at_free(x);
	at_free(t);
	at_free(text);
	at_free(pooled);
	lora_release(&lora);
	transformer_close(&m);
	return at_live() == 0 ? 0 : -1;
}

/* The gradient with `blocks` of them computed twice; *bytes, the most that it took. */
static at_t gradient(bool merge, int64_t blocks, size_t *bytes)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);
	struct lora_merged merged = { 0 };
	struct pass pass = { .checkpoint_blocks = blocks };
	struct at_memory before, after;

	if (merge) {
		lora_merge_grad(&merged, &lora);
		pass.merged = &merged;
	} else {
		pass.lora = &lora;
	}
	at_memory_count_anew(AT_CPU);
	at_memory_read(AT_CPU, &before);
	at_t v = mmdit_forward(m.m, &pass, x, t, text, pooled);
	at_t grad = lora_backward(&lora, at_sum(at_square(v)));
	at_memory_read(AT_CPU, &after);
	*bytes = after.peak - before.now;
	lora_merged_release(&merged);
	return at_return(s, grad);
}

/* Every pair of a block has the same bits; that of the time embedding, which all blocks add to, nearly. */
static void compare(at_t got, at_t want, int64_t blocks)
{
	int64_t at = 0;

	for (int i = 0; i < lora.n; i++) {
		int64_t n = at_numel(lora.pair[i].a_RI) + at_numel(lora.pair[i].b_OR);
		at_t a = at_narrow(got, 0, at, n), b = at_narrow(want, 0, at, n);
		double far = at_item(at_norm(at_sub(a, b))) / at_item(at_norm(b));
		bool shared = strstr(lora_module(&lora, i), "time_text_embed") != NULL;

		if (!(far <= (shared ? 1e-6 : 0)))
			fail_msg("%lld blocks twice: %s is %g away", (long long)blocks, lora_module(&lora, i),
				 far);
		at += n;
	}
	assert_int_equal(at, lora.numel);
}

static void selections(bool merge)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);
	size_t none, bytes, before;
	at_t want = gradient(merge, 0, &none);

	before = none;
	for (int64_t blocks = 1; blocks <= LAYERS + 1; blocks++) {
		compare(gradient(merge, blocks, &bytes), want, blocks);
		if (blocks < LAYERS) /* the last one's activations are there once more at once */
			assert_true(bytes < before);
		else
			assert_true(bytes < none / 2);
		before = bytes;
	}
	at_end(s);
}

static void as_products(void **state)
{
	(void)state;
	selections(false);
}

static void merged(void **state)
{
	(void)state;
	selections(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(as_products), cmocka_unit_test(merged) };

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
