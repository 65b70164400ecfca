/*
 * probe.c -- what the tests against diffusers and PEFT run: models/ from files to files.
 *
 *   golden_probe forward TRANSFORMER IN OUT DTYPE [ADAPTER]   velocity "v"; with an adapter also "v_merged",
 * "v_beside", "v_lean", "v_merged_grad" and, where IN has g, the gradients of sum(v * g): "grad.KEY" on the
 * fly, "grad_merged.KEY" merged, and both with activation checkpointing, "grad_again.KEY" and
 * "grad_merged_again.KEY" golden_probe adapter TRANSFORMER DIR RANK ALPHA INIT TARGET...   saves a fresh
 * adapter; with INIT "random" A and B are normal, otherwise as lora_init makes them golden_probe adapters
 * TRANSFORMER FROM TO loads an adapter and saves it again golden_probe new DIR saves a transformer as
 * transformer_make makes it
 */
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include "models/family.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void need(int failed, const struct err *e)
{
	if (failed)
		die("%s", e->msg);
}

static at_t take(const struct st_file *f, const char *name, enum at_dtype dt)
{
	struct err e;
	at_t t;

	need(st_take(&t, f, name, (struct at_dims) { 0 }, &e), &e);
	return at_cast(t, dt);
}

struct inputs {
	at_t x, t, guidance, g;
	struct cond cond;
};

/* x, t (1000 sigma), text with `lengths` or without, pooled and guidance where the transformer reads them,
 * and g, which may be missing. */
static struct inputs read_inputs(const struct st_file *f, const struct transformer_facts *facts,
				 enum at_dtype dt)
{
	struct inputs in = { take(f, "x", dt), take(f, "t", AT_F32), NULL, NULL, { 0 } };

	in.g = st_find(f, "g") ? take(f, "g", dt) : NULL;
	in.guidance = facts->guided ? take(f, "guidance", AT_F32) : NULL;
	cond_add(&in.cond, COND_TEXT, take(f, "text", dt),
		 st_find(f, "lengths") ? take(f, "lengths", AT_I64) : NULL);
	if (facts->pooled_width)
		cond_add(&in.cond, COND_POOLED, take(f, "pooled", dt), NULL);
	return in;
}

static at_t velocity(const struct transformer *m, const struct pass *p, const struct inputs *in)
{
	return m->type->velocity(m->m, p, in->x, in->t, &in->cond, in->guidance);
}

static void open_transformer(struct transformer *m, const char *dir, enum at_dtype dt)
{
	struct err e;
	const struct transformer_type *type = transformer_of(dir, &e);

	need(!type || transformer_open(m, type, dir, dt, AT_CPU, &e), &e);
}

/* Appends one gradient for each half of each pair, under PEFT's name. */
static void gradients(struct lora *l, at_t v, at_t g, const char *prefix, struct st_item *item, int *n)
{
	at_t grad_P = lora_backward(l, at_sum(at_mul(v, g)));
	int64_t at = 0;

	for (int i = 0; i < 2 * l->n; i++) {
		const struct lora_pair *p = &l->pair[i / 2];
		at_t half = i % 2 ? p->b_OR : p->a_RI;

		item[(*n)++] =
		    (struct st_item) { mem_printf("%s.base_model.model.%s.lora_%c.weight", prefix,
						  l->net->site[p->site].name[p->part], i % 2 ? 'B' : 'A'),
				       at_view(at_narrow(grad_P, 0, at, at_numel(half)), at_shape(half)) };
		at += at_numel(half);
	}
}

static int with_adapter(const struct transformer *m, const char *dir, const struct inputs *in,
			struct st_item **item)
{
	struct lora l;
	struct lora_merged merged = { 0 };
	struct err e;
	int n = 0;

	need(lora_load(&l, m->net, dir, AT_CPU, &e), &e);
	*item = mem_zero((size_t)(8 * l.n + 5), sizeof **item);
	lora_merge(&merged, &l);
	(*item)[n++] =
	    (struct st_item) { "v_merged", at_detach(velocity(m, &(struct pass) { .merged = &merged }, in)) };
	for (int copies = 1; copies >= 0; copies--) {
		lora_beside(&merged, &l, copies);
		(*item)[n++] =
		    (struct st_item) { copies ? "v_beside" : "v_lean",
				       at_detach(velocity(m, &(struct pass) { .merged = &merged }, in)) };
	}
	lora_merged_release(&merged);

	lora_require_grad(&l);
	at_t v = velocity(m, &(struct pass) { .lora = &l }, in);
	(*item)[n++] = (struct st_item) { "v", at_detach(v) };
	if (!in->g) {
		lora_release(&l);
		return n;
	}
	gradients(&l, v, in->g, "grad", *item, &n);
	v = velocity(m, &(struct pass) { .lora = &l, .checkpoint_blocks = m->facts.blocks }, in);
	gradients(&l, v, in->g, "grad_again", *item, &n);

	lora_merge_grad(&merged, &l);
	v = velocity(m, &(struct pass) { .merged = &merged }, in);
	(*item)[n++] = (struct st_item) { "v_merged_grad", at_detach(v) };
	gradients(&l, v, in->g, "grad_merged", *item, &n);
	lora_merge_grad(&merged, &l);
	v = velocity(m, &(struct pass) { .merged = &merged, .checkpoint_blocks = 1 }, in);
	gradients(&l, v, in->g, "grad_merged_again", *item, &n);
	lora_merged_release(&merged);
	lora_release(&l);
	return n;
}

static void forward(int argc, char **argv)
{
	struct transformer m;
	struct st_file f;
	struct err e;
	enum at_dtype dt;
	struct st_item *item;
	int n = 1;

	need(at_dtype_parse(&dt, argv[5], &e) || st_open(&f, argv[3], &e), &e);
	open_transformer(&m, argv[2], dt);
	struct inputs in = read_inputs(&f, &m.facts, dt);
	if (argc > 6) {
		n = with_adapter(&m, argv[6], &in, &item);
	} else {
		item = mem_zero(1, sizeof *item);
		item[0] = (struct st_item) { "v", velocity(&m, &(struct pass) { 0 }, &in) };
	}
	need(st_write(argv[4], item, n, NULL, 0, &e), &e);
	free(item);
	st_close(&f);
	transformer_close(&m);
}

static void adapter(int argc, char **argv)
{
	struct lora_conf c = { .rank = atoi(argv[4]), .alpha = atof(argv[5]), .init = argv[6] };
	struct transformer m;
	struct lora l;
	struct err e;

	c.targets = (struct conf_list) { .v = argv + 7, .n = argc - 7 };
	open_transformer(&m, argv[2], AT_F32);
	need(lora_init(&l, m.net, &c, 5, AT_CPU, &e), &e);
	if (!strcmp(c.init, "random")) {
		struct rng r = rng_make(1, RNG_USER, 0, 0);

		rng_normals(&r, at_f32(l.flat), (size_t)l.numel);
	}
	need(lora_save(&l, argv[3], &e), &e);
	lora_release(&l);
	transformer_close(&m);
}

static void adapters(char **argv)
{
	struct transformer m;
	struct lora l;
	struct err e;

	open_transformer(&m, argv[2], AT_F32);
	need(lora_load(&l, m.net, argv[3], AT_CPU, &e) || lora_save(&l, argv[4], &e), &e);
	lora_release(&l);
	transformer_close(&m);
}

static void new_model(char **argv)
{
	json_t *o = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:[i]}",
			      "sample_size", 10, "patch_size", 2, "in_channels", 3, "out_channels", 5,
			      "num_layers", 3, "attention_head_dim", 8, "num_attention_heads", 3,
			      "joint_attention_dim", 7, "caption_projection_dim", 24, "pooled_projection_dim",
			      9, "pos_embed_max_size", 7, "qk_norm", "rms_norm", "dual_attention_layers", 1);
	struct transformer m;
	struct err e;

	need(transformer_make(&m, families[0]->transformer, o, "new", 11, &e) ||
		 transformer_save(&m, NULL, argv[2], AT_F32, &e),
	     &e);
	json_decref(o);
	transformer_close(&m);
}

int main(int argc, char **argv)
{
	struct at_scope *s = at_begin(AT_GRAD_AS_IS);

	at_set_threads(1);
	if (argc >= 6 && !strcmp(argv[1], "forward"))
		forward(argc, argv);
	else if (argc >= 8 && !strcmp(argv[1], "adapter"))
		adapter(argc, argv);
	else if (argc == 5 && !strcmp(argv[1], "adapters"))
		adapters(argv);
	else if (argc == 3 && !strcmp(argv[1], "new"))
		new_model(argv);
	else
		die("golden_probe: see the top of tests/golden/probe.c");
	at_end(s);
	return 0;
}
