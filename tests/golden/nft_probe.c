/*
 * nft_probe.c -- what tests/golden/test_nft.py runs.
 *
 *   golden_nft loss ALGORITHM IN OUT ADV_CLIP [KEY=VALUE ...]
 *     terms (v, v_old, x0, eps, xt, t, r, ...) and v_ref -> loss, policy, note.NAME, grad_v, and what `group`
 *     gives, if the algorithm has one
 *   golden_nft advantage IN OUT STD MODE CLIP REWARD_CLIP
 *     reward, group -> advantage, r
 *   golden_nft train TRANSFORMER ADAPTER IN OUT BETA KL_BETA ADV_CLIP SCHEDULE STEPS
 *     STEPS rounds of update, EMA and old policy from the batches x0.K, eps.K, t.K, r.K, text.K, pooled.K
 */
#include "base/mem.h"
#include "models/lora/lora_file.h"
#include "models/sd3/mmdit.h"
#include "models/sd3/sd3.h"
#include "algorithms/advantage.h"
#include "algorithms/algorithm.h"
#include "algorithms/optimizer.h"
#include "algorithms/policies.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void need(int failed, const struct err *e)
{
	if (failed)
		die("%s", e->msg);
}

static at_t take(const struct st_file *f, const char *name, int k)
{
	char *full = k < 0 ? mem_str(name) : mem_printf("%s.%d", name, k);
	struct err e;
	at_t t;

	need(st_take(&t, f, full, (struct at_dims) { 0 }, &e), &e);
	free(full);
	return t;
}

static at_t take_if(const struct st_file *f, const char *name)
{
	return st_find(f, name) ? take(f, name, -1) : NULL;
}

extern const struct algorithm_type algorithm_rwr; /* examples/ */

/* An algorithm with its configuration, from lines KEY=VALUE. */
struct chosen {
	const struct algorithm_type *type;
	void *conf;
	struct demands asks;
};

static struct chosen choose(const char *name, double clip, int n, char **set)
{
	const struct advantage_conf a = { .clip = clip };
	struct chosen c = { .type = algorithm_find(name) };
	struct conf_node *tree = conf_empty();
	struct err e;

	if (!c.type)
		c.type = &algorithm_rwr;
	c.conf = mem_zero(1, c.type->conf_size);
	for (int i = 0; i < n; i++)
		need(conf_set(tree, set[i], &e), &e);
	need(conf_fill(c.conf, c.type->fields, tree, "", NULL, &e), &e);
	conf_node_free(tree);
	c.asks = c.type->demands(c.conf, &a);
	return c;
}

/* The weights of the two terms, as the trainer applies them to one micro-batch that is the whole step. */
static at_t total_loss(const struct chosen *c, const struct losses *l, at_t weight_B, at_t v, at_t v_ref)
{
	double n = (double)at_size(v, 0);
	at_t policy_B = weight_B ? at_mul(l->policy_B, at_cast(weight_B, AT_F64)) : l->policy_B;
	at_t loss = at_mul(at_sum(policy_B), c->asks.times / c->asks.over / n);

	if (!(c->asks.kl > 0))
		return loss;
	at_t far_B = terms_distance(v, v_ref);
	if (l->kl_weight_B)
		far_B = at_mul(far_B, l->kl_weight_B);
	return at_add(loss, at_mul(at_sum(far_B), c->asks.kl / n));
}

static void loss(int n, char **a)
{
	struct chosen c = choose(a[2], atof(a[5]), n - 6, a + 6);
	struct st_item items[4 + ALGORITHM_NOTES];
	struct st_file f;
	struct err e;
	at_t grad;
	int k = 3;

	need(st_open(&f, a[3], &e), &e);
	at_t v = at_clone(take(&f, "v", -1));
	at_set_requires_grad(v, true);
	struct terms m = { .x0_BCHW = take(&f, "x0", -1),
			   .eps_BCHW = take_if(&f, "eps"),
			   .z_BCHW = take_if(&f, "z"),
			   .law_B4 = take_if(&f, "law"),
			   .next_BCHW = take_if(&f, "next"),
			   .xt_BCHW = take(&f, "xt", -1),
			   .t_B = take(&f, "t", -1),
			   .r_B = take(&f, "r", -1),
			   .advantage_B = take_if(&f, "advantage"),
			   .weight_B = take_if(&f, "weight"),
			   .group_B = take_if(&f, "group"),
			   .v_BCHW = v,
			   .v_old_BCHW = take(&f, "v_old", -1),
			   .v_ref_BCHW = take(&f, "v_ref", -1) };
	if (c.type->group)
		items[k++] = (struct st_item) { "group", at_detach(c.type->group(c.conf, &m)) };
	struct losses l = c.type->loss(c.conf, &m);
	at_t sum = total_loss(&c, &l, m.weight_B, v, m.v_ref_BCHW);
	at_grad(sum, 1, &v, &grad);
	items[0] = (struct st_item) { "loss", sum };
	items[1] = (struct st_item) { "policy", l.policy_B };
	items[2] = (struct st_item) { "grad_v", grad };
	for (int i = 0; c.type->notes[i]; i++)
		items[k++] = (struct st_item) { mem_printf("note.%s", c.type->notes[i]), l.note_B[i] };
	need(st_write(a[4], items, k, NULL, 0, &e), &e);
	st_close(&f);
}

static void advantage(char **a)
{
	char sum[] = "sum", normalised[] = "normalised";
	struct advantage_conf c = {
		.std = a[4], .mode = a[5], .clip = atof(a[6]), .reward_clip = atof(a[7]), .combine = sum
	};
	struct advantage_stats stats;
	struct st_file f;
	struct err e;

	need(st_open(&f, a[2], &e), &e);
	at_t reward = take(&f, "reward", -1), group = take(&f, "group", -1);
	int64_t n = at_numel(reward), groups = (int64_t)at_item(at_max(group)) + 1;
	at_t adv = at_zeros(DIMS(n), AT_F64, AT_CPU), r = at_zeros(DIMS(n), AT_F64, AT_CPU);
	if (st_find(&f, "value")) { /* (K, n) rewards and their weights instead of one */
		at_t value = take(&f, "value", -1), weight = take(&f, "weight", -1);

		bool *left_out = NULL;
		c.combine = normalised;
		if (st_find(&f, "left_out")) { /* (K, groups), 1 where the reward does not count */
			const int64_t *out = at_i64(take(&f, "left_out", -1));
			size_t cells = (size_t)(at_size(value, 0) * groups);
			left_out = mem_zero(cells, sizeof *left_out);
			for (size_t i = 0; i < cells; i++)
				left_out[i] = out[i] != 0;
		}
		reward = at_zeros(DIMS(n), AT_F64, AT_CPU);
		advantage_combine(&c, n, (int)at_size(value, 0), at_data(value), at_data(weight),
				  at_i64(group), groups, left_out, at_data(reward));
		free(left_out);
	}
	advantage_compute(&c, n, at_data(reward), at_i64(group), groups, at_data(adv), at_data(r), &stats);
	struct st_item items[] = { { "advantage", adv }, { "r", r } };
	need(st_write(a[3], items, 2, NULL, 0, &e), &e);
	st_close(&f);
}

static void save_policy(struct st_item *item, int *n, const char *prefix, const struct lora *l)
{
	for (int i = 0; i < l->n; i++) {
		const struct lora_pair *p = &l->pair[i];
		const char *name = l->net->site[p->site].name[p->part];
		item[(*n)++] =
		    (struct st_item) { mem_printf("%s.%s.lora_A", prefix, name), at_detach(p->a_RI) };
		item[(*n)++] =
		    (struct st_item) { mem_printf("%s.%s.lora_B", prefix, name), at_detach(p->b_OR) };
	}
}

static at_t velocity(const struct mmdit *m, const struct pass *p, at_t x, at_t t, const struct st_file *f,
		     int k, enum at_scope_flags grad)
{
	struct at_scope *s = at_begin(grad);
	return at_return(s,
			 mmdit_forward(m, p, x, at_mul(t, 1000), take(f, "text", k), take(f, "pooled", k)));
}

static void train(char **a)
{
	const struct optimizer_conf oc = { .lr = 1e-2,
					   .beta1 = 0.9,
					   .beta2 = 0.999,
					   .eps = 1e-8,
					   .weight_decay = 1e-2,
					   .decay = (char[]) { "constant" } };
	const struct policy_conf pc = { .old_schedule = a[9],
					.old_slope = 0.1,
					.old_max = 0.25,
					.old_start = 1,
					.old_every = 1,
					.ema_decay = 0.9,
					.ema_every = 1,
					.merge = (char[]) { "auto" } };
	char *set[] = { mem_printf("beta=%s", a[6]), mem_printf("kl_beta=%s", a[7]) };
	struct chosen c = choose("nft", atof(a[8]), 2, set);
	int steps = atoi(a[10]), n = 0;
	struct policies p = { .conf = &pc, .old_is_theta = true };
	struct optimizer o;
	struct transformer m;
	struct st_file f;
	struct err e;

	need(transformer_open(&m, &transformer_sd3, a[2], AT_F32, AT_CPU, &e) ||
		 lora_load(&p.theta, m.net, a[3], AT_CPU, &e) || st_open(&f, a[4], &e),
	     &e);
	lora_copy_init(&p.old, &p.theta);
	lora_copy_init(&p.ema, &p.theta);
	lora_require_grad(&p.theta);
	policies_refresh(&p);
	optimizer_init(&o, &oc, p.theta.numel, AT_CPU);
	struct st_item *item = mem_zero((size_t)(6 * p.theta.n + 2 * steps), sizeof *item);
	for (int k = 0; k < steps; k++) {
		at_t t = take(&f, "t", k), x0 = take(&f, "x0", k),
		     xt = terms_noised(x0, take(&f, "eps", k), t);
		struct pass old = policies_old_pass(&p), theta = { .lora = &p.theta }, base = { 0 };
		struct terms terms = { .x0_BCHW = x0, .xt_BCHW = xt, .t_B = t, .r_B = take(&f, "r", k) };
		terms.v_BCHW = velocity(m.m, &theta, xt, t, &f, k, AT_WITH_GRAD);
		terms.v_old_BCHW =
		    p.old_is_theta ? at_detach(terms.v_BCHW) : velocity(m.m, &old, xt, t, &f, k, AT_NO_GRAD);
		struct losses l = c.type->loss(c.conf, &terms);
		at_t sum =
		    total_loss(&c, &l, NULL, terms.v_BCHW, velocity(m.m, &base, xt, t, &f, k, AT_NO_GRAD));
		at_t grad_P = lora_backward(&p.theta, sum);
		item[n++] = (struct st_item) { mem_printf("loss.%d", k), at_detach(sum) };
		item[n++] = (struct st_item) { mem_printf("grad_norm.%d", k),
					       at_scalar(optimizer_clip(grad_P, 1.0), AT_F64, AT_CPU) };
		optimizer_update(&o, p.theta.flat, grad_P, oc.lr);
		policies_after_step(&p, k + 1);
		policies_after_epoch(&p, k + 1, k + 1);
	}
	save_policy(item, &n, "theta", &p.theta);
	save_policy(item, &n, "old", &p.old);
	save_policy(item, &n, "ema", &p.ema);
	need(st_write(a[5], item, n, NULL, 0, &e), &e);
}

int main(int argc, char **argv)
{
	struct at_scope *s = at_begin(AT_WITH_GRAD);

	at_set_threads(1);
	if (argc >= 6 && !strcmp(argv[1], "loss"))
		loss(argc, argv);
	else if (argc == 8 && !strcmp(argv[1], "advantage"))
		advantage(argv);
	else if (argc == 11 && !strcmp(argv[1], "train"))
		train(argv);
	else
		die("golden_nft: see the top of tests/golden/nft_probe.c");
	at_end(s);
	return 0;
}
