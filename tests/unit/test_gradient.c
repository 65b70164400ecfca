/* algorithms/gradient.h in 16 bits: the direction of float32's gradient, with the weights of a step of full
 * size (10,368 pairs of 16 x 64 x 64 latents), where an element of dL/dv is below float16's smallest number.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "base/mem.h"
#include "algorithms/gradient.h"
#include "trainer/trainer.h"

enum { PAIRS = 10368, B = 2, SIDE = 64, TEXT = 13 };

static const char small[] =
    "{\"sample_size\": 64, \"patch_size\": 2, \"in_channels\": 16, \"out_channels\": 16, \"num_layers\": 2, "
    "\"attention_head_dim\": 16, \"num_attention_heads\": 2, \"joint_attention_dim\": 24, "
    "\"caption_projection_dim\": 32, \"pooled_projection_dim\": 20, \"pos_embed_max_size\": 40, "
    "\"qk_norm\": \"rms_norm\", \"dual_attention_layers\": [0]}";

static at_t random_at(struct at_dims shape, uint64_t sample)
{
	at_t t = at_empty(shape, AT_F32, AT_CPU);
	struct rng r = rng_make(5, RNG_USER, 0, sample);

	rng_normals(&r, at_f32(t), (size_t)at_numel(t));
	return t;
}

static void open_trainer(struct trainer *t, struct experiment *x, enum at_dtype dt)
{
	struct conf_node *tree = conf_empty();
	struct err e;

	assert_int_equal(conf_set(tree, "model.path=none", &e), 0);
	assert_int_equal(conf_set(tree, "prompts.train=none", &e), 0);
	assert_int_equal(experiment_from(x, tree, &e), 0);
	conf_node_free(tree);
	*t = (struct trainer) { .file = x, .x = x };
	json_t *config = json_parse(small, strlen(small), "small", &e);
	t->pipeline.family = families[0];
	assert_int_equal(transformer_make(&t->pipeline.transformer, t->pipeline.family->transformer, config,
					  "small", 3, &e),
			 0);
	json_decref(config);
	/* a new one's gates are zero, and so is everything behind them */
	for (int i = 0; i < t->pipeline.transformer.net->n_param; i++) {
		const struct nn_param *p = &t->pipeline.transformer.net->param[i];
		struct at_dims whole = at_shape(*p->tensor);

		if (p->trainable && whole.n == 2)
			at_copy_(*p->tensor,
				 at_mul(random_at(whole, (uint64_t)(100 + i)), 1 / sqrt((double)whole.d[1])));
	}
	nn_move(t->pipeline.transformer.net, dt, AT_CPU);
	t->pipeline.dtype = dt;
	t->pipeline.schedule = (struct schedule_conf) { .shift = 3, .num_train_timesteps = 1000 };
	assert_int_equal(sampler_init(&t->rollout, &t->pipeline, &x->rollout, DIMS(16, SIDE, SIDE), &e), 0);
	assert_int_equal(policies_init(&t->policies, &x->policy, t->pipeline.transformer.net, &x->lora, NULL,
				       1, AT_CPU, &e),
			 0);
	/* B starts at zero, and with it A's gradient: an adapter that has been trained */
	at_copy_(t->policies.theta.flat, at_mul(random_at(DIMS(t->policies.theta.numel), 9), 0.02));
}

static void close_trainer(struct trainer *t, struct experiment *x)
{
	policies_release(&t->policies);
	sampler_release(&t->rollout);
	transformer_close(&t->pipeline.transformer);
	experiment_release(x);
}

/* The gradient of one micro-batch of such a step, in the caller's scope. */
static at_t gradient_in(enum at_dtype dt, double r)
{
	struct at_scope *s = at_begin(AT_NO_GRAD);
	struct experiment x;
	struct trainer t;

	open_trainer(&t, &x, dt);
	at_t x0 = random_at(DIMS(B, 16, SIDE, SIDE), 1), eps = random_at(DIMS(B, 16, SIDE, SIDE), 2);
	at_t level = at_from((float[]) { 0.9F, 0.3F }, DIMS(B), AT_F32);
	struct demands d = x.algorithm->demands(x.algorithm_conf, &x.advantage);
	struct cond cond = { 0 };
	cond_add(&cond, COND_TEXT, random_at(DIMS(B, TEXT, 24), 3), NULL);
	cond_add(&cond, COND_POOLED, random_at(DIMS(B, 20), 4), NULL);
	struct gradient_batch m = { .terms = { .x0_BCHW = x0,
					       .eps_BCHW = eps,
					       .xt_BCHW = terms_noised(x0, eps, level),
					       .t_B = level,
					       .r_B = at_full(DIMS(B), r, AT_F32, AT_CPU),
					       .advantage_B = at_full(DIMS(B), 10 * r - 5, AT_F32, AT_CPU),
					       .weight_B = at_full(DIMS(B), 1, AT_F32, AT_CPU),
					       .v_old_BCHW = at_sub(eps, x0) },
				    .cond = cond,
				    .timestep_B = at_mul(level, 1000),
				    .v_ref_KCHW = at_sub(eps, x0),
				    .weight_policy = d.times / d.over / PAIRS,
				    .weight_kl = 1e-4 / PAIRS };
	struct gradient_task task = { .theta = &t.policies.theta,
				      .sampler = &t.rollout,
				      .algorithm = x.algorithm,
				      .conf = x.algorithm_conf,
				      .needs = d.needs };
	at_t grad_P = gradient_of(&task, NULL, &m).grad_P;

	close_trainer(&t, &x);
	return at_return(s, grad_P);
}

static double dot(at_t a, at_t b)
{
	return at_item(at_sum(at_mul(at_cast(a, AT_F64), at_cast(b, AT_F64))));
}

static void test_direction(void **state)
{
	static const struct {
		enum at_dtype dt;
		double cosine;
	} kinds[] = { { AT_F16, 0.999 }, { AT_BF16, 0.999 } };
	static const double r[] = { 0.6, 0, 1 }; /* a small advantage, and the largest */
	struct at_scope *s = at_begin(AT_NO_GRAD);

	(void)state;
	for (size_t i = 0; i < sizeof r / sizeof *r; i++) {
		at_t exact = gradient_in(AT_F32, r[i]);

		assert_true(dot(exact, exact) > 0);
		for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
			at_t g = gradient_in(kinds[k].dt, r[i]);
			double norm = sqrt(dot(g, g) / dot(exact, exact));

			if (dot(g, exact) / sqrt(dot(g, g) * dot(exact, exact)) <= kinds[k].cosine)
				fail_msg("kind %zu, r %g: cosine %g", k, r[i],
					 dot(g, exact) / sqrt(dot(g, g) * dot(exact, exact)));
			assert_true(norm > 0.98 && norm < 1.02);
		}
	}
	at_end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_direction) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
